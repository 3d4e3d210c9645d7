"""Files with several interactions in a line or under a heading: item lists, MIND, Netflix."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from fcf_jax.data.labels import labels_of
from fcf_jax.data.table import BadLinePolicy, Table

_BLOCK = re.compile(rb"^[ \t]*(\d+):[ \t]*\r?$", re.MULTILINE)
_SKIP = 'correct or remove the line, or set data.on_bad_line = "skip"'

_Pairs = tuple[str, list[str]]


def read_item_lists(content: bytes, path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read lines of a user and any number of items (LightGCN); a user may have several lines.

    Args:
        content: UTF-8; fields are separated by blanks or commas.
        path: For messages.
        on_bad_line: What to do with a line that cannot be read.
    """
    return _read_lines(content, path, on_bad_line, _listed)


def read_counted_lists(content: bytes, path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read lines of a number and as many items (CiteULike): user u, from 0 on, is line u + 1.

    Args:
        content: UTF-8; fields are separated by blanks.
        path: For messages.
        on_bad_line: What to do with a line whose number is not that of its items; it still counts as a user.

    Raises:
        ValueError: With FILE:LINE, for such a line.
    """
    return _read_lines(content, path, on_bad_line, _counted)


def read_impressions(content: bytes, path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read MIND's behaviors.tsv: the click history and the clicked impressions of each line, each pair once.

    Args:
        content: UTF-8; number, user, time, history and impressions such as "N1-0 N2-1", separated by tabs.
        path: For messages.
        on_bad_line: What to do with a line that has not five fields.

    Raises:
        ValueError: With FILE:LINE, for such a line.
    """
    return _read_lines(content, path, on_bad_line, _clicked)


def rows_of_blocks(content: bytes) -> bytes:
    """Return blocks of lines under a heading "ITEM:" (Netflix) as lines "ITEM,...", with the same numbers."""
    parts = _BLOCK.split(content)  # what is before the first heading, then item and lines by turns
    rows = [_with_item(item, lines) for item, lines in zip(parts[1::2], parts[2::2], strict=True)]
    return parts[0] + b"".join(rows)


def _with_item(item: bytes, lines: bytes) -> bytes:
    body = lines.rstrip(b"\r\n")
    return body.replace(b"\n", b"\n" + item + b",") + lines[len(body) :]


def _read_lines(
    content: bytes, path: Path, on_bad_line: BadLinePolicy, parse: Callable[[int, str], _Pairs]
) -> Table:
    """Read lines with a function of the user's number and the line that gives a user and the items."""
    pairs: dict[tuple[str, str], None] = {}
    num_skipped = 0
    for number, user_number, line in _filled(content):
        try:
            user, items = parse(user_number, line)
        except ValueError as error:
            if on_bad_line == "error":
                raise ValueError(f"{path}:{number}: {error}; {_SKIP}") from None
            num_skipped += 1
            continue
        pairs.update(dict.fromkeys((user, item) for item in items))
    users, items = labels_of([user for user, _ in pairs]), labels_of([item for _, item in pairs])
    return Table(users, items, None, None, num_skipped)


def _filled(content: bytes) -> Iterator[tuple[int, int, str]]:
    user_number = 0
    for number, line in enumerate(content.decode().splitlines(), start=1):
        if line.strip():
            yield number, user_number, line
            user_number += 1


def _listed(user_number: int, line: str) -> _Pairs:
    user, *items = line.replace(",", " ").split()
    return user, items


def _counted(user_number: int, line: str) -> _Pairs:
    count, *items = line.split()
    if count != str(len(items)):
        raise ValueError(f"expected a number and as many items, got {count[:20]!r} and {len(items)} items")
    return str(user_number), items


def _clicked(user_number: int, line: str) -> _Pairs:
    fields = line.split("\t")
    if len(fields) != 5 or not fields[1].strip():
        raise ValueError(f"expected number, user, time, history and impressions, got {len(fields)} fields")
    clicks = [shown.removesuffix("-1") for shown in fields[4].split() if shown.endswith("-1")]
    return fields[1].strip(), [*fields[3].split(), *clicks]
