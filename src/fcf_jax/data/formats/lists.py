"""Files with several interactions in a line or under a heading: item lists, MIND, Netflix."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fcf_jax.data.formats.table import BadLinePolicy, Table, TableBuilder, bad_line
from fcf_jax.data.formats.text import num_line_breaks

_HEADING = re.compile(rb"^[ \t]*(\d+):[ \t]*\r?$", re.MULTILINE)
_LINE_START = re.compile(rb"\n(?=[^\r\n])")

_Pairs = tuple[str, list[str]]


def read_item_lists(blocks: Iterable[bytes], path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read lines of a user and any number of items (LightGCN); a user may have several lines.

    Args:
        blocks: UTF-8, in blocks of whole lines; fields are separated by blanks or commas.
        path: For messages.
        on_bad_line: What to do with a line that cannot be read.
    """
    return _read_lines(blocks, path, on_bad_line, _listed)


def read_counted_lists(blocks: Iterable[bytes], path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read lines of a number and as many items (CiteULike): user u, from 0 on, is line u + 1.

    Args:
        blocks: UTF-8, in blocks of whole lines; fields are separated by blanks.
        path: For messages.
        on_bad_line: What to do with a line whose number is not that of its items; it still counts as a user.

    Raises:
        ValueError: With FILE:LINE, for such a line.
    """
    return _read_lines(blocks, path, on_bad_line, _counted)


def read_impressions(blocks: Iterable[bytes], path: Path, on_bad_line: BadLinePolicy) -> Table:
    """Read MIND's behaviors.tsv: the click history and the clicked impressions of each line, each pair once.

    Args:
        blocks: UTF-8, in blocks of whole lines; number, user, time, history and impressions such as
            "N1-0 N2-1", separated by tabs.
        path: For messages.
        on_bad_line: What to do with a line that has not five fields.

    Raises:
        ValueError: With FILE:LINE, for such a line.
    """
    return _read_lines(blocks, path, on_bad_line, _clicked, is_distinct=False)


def rows_of_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of lines under headings "ITEM:" (Netflix) as lines "ITEM,...", with the same numbers."""
    item = b""
    for block in blocks:
        parts = _HEADING.split(block)  # what is before the first heading, then item and lines by turns
        rows = [_with_item(item, b"\n" + parts[0])[1:] if item else parts[0]]
        for item, lines in zip(parts[1::2], parts[2::2], strict=True):
            rows.append(_with_item(item, lines))
        yield b"".join(rows)


def _with_item(item: bytes, lines: bytes) -> bytes:
    body = lines.rstrip(b"\r\n")
    if b"\n\n" in body or b"\n\r" in body:
        return _LINE_START.sub(b"\n" + item + b",", body) + lines[len(body) :]
    return body.replace(b"\n", b"\n" + item + b",") + lines[len(body) :]


def _read_lines(
    blocks: Iterable[bytes],
    path: Path,
    on_bad_line: BadLinePolicy,
    parse: Callable[[int, str], _Pairs],
    *,
    is_distinct: bool = True,
) -> Table:
    """Read lines with a function of the user's number and the line that gives a user and the items.

    Args:
        blocks: UTF-8, in blocks of whole lines.
        path: For messages.
        on_bad_line: What to do with a line for which the function raises ValueError.
        parse: The function.
        is_distinct: Whether every pair is in one line only; if not, it counts once.
    """
    builder, seen = TableBuilder(str(path)), None if is_distinct else set()
    line, user_number, num_skipped = 1, 0, 0
    for block in blocks:
        users: list[str] = []
        items: list[str] = []
        for number, text in enumerate(io.StringIO(block.decode(), newline=None), start=line):
            if not text.strip():
                continue
            user_number += 1
            try:
                user, chosen = parse(user_number - 1, text)
            except ValueError as error:
                if on_bad_line == "error":
                    raise bad_line(path, number, str(error)) from None
                num_skipped += 1
                continue
            if seen is not None:
                chosen = [item for item in dict.fromkeys(chosen) if (user, item) not in seen]
                seen.update((user, item) for item in chosen)
            users += [user] * len(chosen)
            items += chosen
        line += num_line_breaks(block)
        _add(builder, users, items)
    return builder.finish(num_skipped)


def _add(builder: TableBuilder, users: list[str], items: list[str]) -> None:
    import pyarrow as pa

    if users:
        builder.add(pa.array(users, pa.string()), pa.array(items, pa.string()), None, None)


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
