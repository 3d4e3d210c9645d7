"""Ids of users and items exactly as they were written, as a code for each row and the distinct labels.

Blanks around a text are no part of it. Texts become integers only if each is the one way to write its number:
007, +7 and 7 are three labels, and one of the first two makes texts of the whole column.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fcf_jax.data.arrow import compute

if TYPE_CHECKING:
    import pyarrow as pa

_INTEGER = "^(0|-?[1-9][0-9]{0,19})$"
_BLOCK_ROWS = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """One label for each row.

    Attributes:
        codes: int32 [rows], positions in `distinct`.
        distinct: Integers, or strings as objects; some may belong to no row.
        num_merged: Labels that are another one but for the blanks around them.
    """

    codes: npt.NDArray[np.int32]
    distinct: np.ndarray
    num_merged: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> "Labels":
        return dataclasses.replace(self, codes=self.codes[rows])

    def tolist(self) -> list[int | str]:
        """Return the label of each row."""
        return self.distinct[self.codes].tolist()


def labels_of(texts: Sequence[str]) -> Labels:
    """Return the labels of a list of texts."""
    import pyarrow as pa

    return joined_chunks([as_dictionary(pa.array(texts, pa.string()))])


def as_dictionary(ids: "pa.Array") -> "pa.DictionaryArray":
    """Return a column of integers or strings without nulls as codes (int32) and distinct values."""
    import pyarrow as pa

    return ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()


def joined_chunks(chunks: Iterable["pa.DictionaryArray"]) -> Labels:
    """Return the labels of several pieces of one column, of one type."""
    import pyarrow as pa

    chunks = list(chunks)
    if len({chunk.type for chunk in chunks}) > 1:  # whole floats are integers, others are texts
        chunks = [_with_texts(chunk) for chunk in chunks]
    whole = pa.chunked_array(chunks).unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks])
    distinct = whole.chunk(0).dictionary
    del whole, chunks
    if pa.types.is_integer(distinct.type):
        unsigned = pa.types.is_uint64(distinct.type)
        return _ranked(codes, distinct.to_numpy().astype(np.uint64 if unsigned else np.int64))
    return _of_texts(codes, distinct)


def _with_texts(chunk: "pa.DictionaryArray") -> "pa.DictionaryArray":
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.string()))


def _of_texts(codes: npt.NDArray[np.int32], texts: "pa.Array") -> Labels:
    stripped = compute().utf8_trim_whitespace(texts)
    if not stripped.equals(texts):
        encoded = stripped.dictionary_encode()
        codes = encoded.indices.to_numpy()[codes]
        stripped = encoded.dictionary
    return _ranked(codes, _exact(stripped), num_merged=len(texts) - len(stripped))


def _exact(texts: "pa.Array") -> np.ndarray:
    """Return integers if every text is the decimal notation of one, otherwise the texts as objects."""
    import pyarrow as pa

    if compute().match_substring_regex(texts, _INTEGER).to_numpy(zero_copy_only=False).all():
        for kind in (pa.int64(), pa.uint64()):
            try:
                return texts.cast(kind).to_numpy()
            except pa.ArrowInvalid:  # out of range
                continue
    return texts.to_numpy(zero_copy_only=False).astype(object)


def joined_labels(parts: Sequence[Labels]) -> Labels:
    """Return the labels of several tables, one after the other; texts unless all are integers."""
    if len({part.distinct.dtype for part in parts}) > 1:  # int64 with uint64 would become float64
        parts = [
            dataclasses.replace(part, distinct=part.distinct.astype(str).astype(object)) for part in parts
        ]
    starts = np.cumsum([0] + [len(part.distinct) for part in parts[:-1]])
    codes = [part.codes + np.int32(start) for part, start in zip(parts, starts, strict=True)]
    return Labels(
        np.concatenate(codes),
        np.concatenate([part.distinct for part in parts]),
        sum(part.num_merged for part in parts),
    )


def numbered(labels: Labels) -> tuple[npt.NDArray[np.int32], np.ndarray]:
    """Number the labels that occur in sorted order: integers by value, strings by code point.

    Returns:
        (ids, distinct), such that `distinct[ids]` are the labels. The ids may be the codes themselves.
    """
    import pandas as pd

    first_codes, distinct = pd.factorize(labels.distinct)  # several tables may share a label
    used = np.zeros(len(distinct), np.bool_)
    used[first_codes[labels.codes]] = True
    order = np.argsort(distinct, kind="stable")
    order = order[used[order]]
    rank = np.zeros(len(distinct), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    rank = rank[first_codes]
    is_ranked = len(rank) == len(order) and bool((rank == np.arange(len(rank))).all())
    return labels.codes if is_ranked else rank[labels.codes], np.asarray(distinct)[order]


def _ranked(codes: npt.NDArray[np.int32], distinct: np.ndarray, num_merged: int = 0) -> Labels:
    """Return labels whose distinct ones are sorted; the codes are overwritten."""
    order = np.argsort(distinct, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    for start in range(0, len(codes), _BLOCK_ROWS):
        block = codes[start : start + _BLOCK_ROWS]
        block[:] = rank[block]
    return Labels(codes, distinct[order], num_merged)
