"""Ids of users and items exactly as they were written, as a code for each row and the distinct labels.

Blanks around a text are no part of it. Texts become integers only if each is the one way to write its number:
007, +7 and 7 are three labels, and one of the first two makes texts of the whole column.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fcf_jax.data.arrow import compute

if TYPE_CHECKING:
    import pyarrow as pa

_INTEGER = "^(0|-?[1-9][0-9]{0,19})$"
_BLOCK_ROWS = 2**20
_PENDING = 2**20


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

    builder = LabelsBuilder()
    return builder.finish(builder.codes_of(pa.array(texts, pa.string())).copy())


class LabelsBuilder:
    """Collects the distinct labels of a column that comes in pieces."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._maps: list[npt.NDArray[np.int32]] = []  # for the codes of each piece, positions in `_known`
        self._known: pa.Array | None = None
        self._pending: list[pa.Array] = []  # values of pieces that have no map yet

    def codes_of(self, ids: "pa.Array") -> npt.NDArray[np.int32]:
        """Add a piece without nulls, integers or texts; return its codes, which mean nothing elsewhere."""
        import pyarrow as pa

        encoded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
        self._lengths.append(len(encoded))
        self._pending.append(encoded.dictionary)
        if sum(map(len, self._pending)) > max(_PENDING, 0 if self._known is None else len(self._known)):
            self._unify()
        return encoded.indices.to_numpy()

    def _unify(self) -> None:
        """Take the pending values into those known, which keep their positions."""
        import pyarrow as pa

        known = [] if self._known is None else [self._known]
        dictionaries = [*known, *self._pending]
        if len({values.type for values in dictionaries}) > 1:  # whole floats are integers, others are texts
            dictionaries = [values.cast(pa.string()) for values in dictionaries]
        pieces = [
            pa.DictionaryArray.from_arrays(np.arange(len(values), dtype=np.int32), values)
            for values in dictionaries
        ]
        unified = pa.chunked_array(pieces).unify_dictionaries()
        self._maps += [piece.indices.to_numpy() for piece in unified.chunks[len(known) :]]
        self._known = unified.chunk(0).dictionary
        self._pending = []

    def finish(self, codes: npt.NDArray[np.int32]) -> Labels:
        """Return the labels of all pieces, whose codes are given one after the other and overwritten."""
        import pyarrow as pa

        if self._pending:
            self._unify()
        if self._known is None:
            return Labels(codes, np.zeros(0, object))
        if pa.types.is_integer(self._known.type):
            distinct, to_distinct = self._known.to_numpy(), np.arange(len(self._known), dtype=np.int32)
        else:
            stripped = compute().utf8_trim_whitespace(self._known).dictionary_encode()
            distinct, to_distinct = _exact(stripped.dictionary), stripped.indices.to_numpy()
        order, rank = _sorted(distinct)
        ends = np.cumsum(self._lengths)
        for start, end, to_known in zip(ends - self._lengths, ends, self._maps, strict=True):
            codes[start:end] = rank[to_distinct[to_known]][codes[start:end]]
        return Labels(codes, distinct[order], num_merged=len(self._known) - len(distinct))


def _sorted(distinct: np.ndarray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the order of labels, and the rank of each."""
    order = np.argsort(distinct, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return order, rank


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

    used = np.zeros(len(labels.distinct), np.bool_)
    for start in range(0, len(labels), _BLOCK_ROWS):
        used[labels.codes[start : start + _BLOCK_ROWS]] = True
    codes, distinct = pd.factorize(labels.distinct[used])  # several tables may share a label
    order, rank = _sorted(np.asarray(distinct))
    if used.all() and bool((rank[codes] == np.arange(len(codes))).all()):
        return labels.codes, labels.distinct
    to_rank = np.zeros(len(used), np.int32)
    to_rank[used] = rank[codes]
    return to_rank[labels.codes], np.asarray(distinct)[order]
