"""Columns of NumPy, pandas, Arrow and Python as one Arrow array, so that each rule is written once."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def as_arrow(column: Any) -> "pa.Array":
    """Return a column as one Arrow array without dictionary encoding; bytes that are UTF-8 become strings.

    Raises:
        ValueError: For a column that Arrow has no type for, such as records or a mixture of types.
    """
    import pyarrow as pa

    try:
        array = column if isinstance(column, pa.Array | pa.ChunkedArray) else _from_python(column)
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
            array = array.cast(pa.large_string())
        elif pa.types.is_fixed_size_binary(array.type):
            array = array.cast(pa.binary()).cast(pa.large_string())
        elif "string_view" in str(array.type) or "binary_view" in str(array.type):
            array = array.cast(pa.large_string())
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array.validate(full=True)  # a damaged file may hold any bytes
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"expected a column of numbers or texts, got {message}; convert it") from error
    return array


def _from_python(column: Any) -> "pa.Array":
    import pandas as pd
    import pyarrow as pa

    if isinstance(column, pd.Series | pd.Index):
        return pa.Array.from_pandas(column)
    if isinstance(column, np.ndarray):
        return pa.array(_plain(column), from_pandas=column.dtype.kind == "O")
    return pa.array(column)


def _plain(array: np.ndarray) -> np.ndarray:
    """Return the array in a type that Arrow takes: native byte order, at most 8 bytes, whole seconds."""
    if array.dtype.kind not in "biufUSOM" or array.ndim != 1:
        raise TypeError(f"an array of {array.dtype} with shape {array.shape}")
    if array.dtype.kind == "M":
        return array.astype("datetime64[s]")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def compute() -> Any:
    """Return `pyarrow.compute`, whose functions are made at import, where type checkers cannot see them."""
    import pyarrow.compute

    return pyarrow.compute


def memory_pool() -> "pa.MemoryPool":
    """Return a pool that gives memory back to the system; Arrow's default keeps much of it."""
    import pyarrow as pa

    try:
        return pa.jemalloc_memory_pool()
    except NotImplementedError:  # not on every platform
        return pa.default_memory_pool()
