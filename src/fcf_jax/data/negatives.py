"""Sampled negatives: a test item of each user, and items to rank it among, as NCF publishes them."""

import re
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_LINE = re.compile(r"\(\s*([^\s,]+)\s*,\s*([^\s,]+)\s*\)\s+(\S.*)")
_NONE = -1


class Negatives(NamedTuple):
    """A test item and sampled negatives for each user of a file.

    Attributes:
        user_ids: Of the lines, each user once.
        item_ids: The test item of each line.
        items: Negatives of all users, each once and without the test item, padded with -1; users without a
            line have none.
    """

    user_ids: Int[np.ndarray, "lines"]
    item_ids: Int[np.ndarray, "lines"]
    items: Int[np.ndarray, "users negatives"]


def read_negatives(
    path: str | PathLike[str], user_ids: Mapping[str, int], item_ids: Mapping[str, int], *, num_users: int
) -> Negatives:
    """Read lines of a user, its test item and negatives: `(0,25)`, then ids separated by tabs or blanks.

    Args:
        path: A text file.
        user_ids: Id in [0, num_users) of each user that the file may name.
        item_ids: Id of each item, likewise.
        num_users: Number of users of the data.

    Raises:
        OSError: If the file cannot be read.
        ValueError: With FILE:LINE, for a line in another form, an unknown user or item, or a second line of a
            user.
    """
    lines = {}
    for where, user, item, negatives in _lines(Path(path)):
        user_id = _known(where, "user", user, user_ids)
        if user_id in lines:
            raise ValueError(f"{where}: expected each user once, got {user} again; remove one of its lines")
        found = [_known(where, "item", one, item_ids) for one in (item, *negatives)]
        lines[user_id] = list(dict.fromkeys(found))  # the test item first
    if not lines:
        raise ValueError(f"{path}: expected test items with negatives, got none; choose another file")
    width = max(map(len, lines.values())) - 1
    items = np.full((num_users, max(width, 1)), _NONE, np.int32)
    for user_id, (_, *negatives) in lines.items():
        items[user_id, : len(negatives)] = negatives
    return Negatives(np.array([*lines]), np.array([found[0] for found in lines.values()]), items)


def _lines(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if (found := _LINE.fullmatch(line.strip())) is None:
                raise ValueError(
                    f"{path}:{number}: expected (user,item) and negatives separated by tabs, got "
                    f"{line.strip()[:40]!r}; correct the line"
                )
            yield f"{path}:{number}", found[1], found[2], found[3].split()


def _known(where: str, kind: str, name: str, ids: Mapping[str, int]) -> int:
    if name not in ids:
        raise ValueError(
            f"{where}: expected users and items of the data, got {kind} {name}; set data.negatives_ids to "
            "how the file numbers them"
        )
    return ids[name]
