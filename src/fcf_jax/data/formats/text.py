"""Text files as blocks of whole lines in UTF-8, decompressed on the way: a file is never held as a whole."""

import bz2
import codecs
import contextlib
import errno
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from fcf_jax.data.formats.layouts import holds_data, layout_of_name
from fcf_jax.data.memory import check_fits_memory
from fcf_jax.messages import one_line

MAX_LINE_BYTES = 2**26

_BLOCK_BYTES = 2**22
_HEAD_BYTES = 2**16
_OPENERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_ZIP = b"PK\x03\x04"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What decoders raise for damaged data. RuntimeError: a zip archive with a password or an unknown method;
# OSError without a number: gzip and bzip2; EINVAL: an offset before the file.
_DAMAGED = (
    EOFError, OSError, RuntimeError, ValueError, lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Text(NamedTuple):
    """A text file that can be read any number of times, block by block.

    Attributes:
        path: The file.
        file_name: Name of the file, or of the member of a zip archive.
        encoding: "utf-8", "utf-16", or "latin-1" for what is not valid UTF-8: it has a character for every
            byte.
        head: The first lines.
        num_bytes: Decompressed size.
        num_lines: Number of line breaks.
    """

    path: Path
    file_name: str
    encoding: str
    head: bytes
    num_bytes: int
    num_lines: int

    def blocks(self) -> Iterator[bytes]:
        """Yield the content as UTF-8 without a byte order mark, in blocks of whole lines."""
        return _transcoded(_blocks(self.path), self.encoding)

    @property
    def content(self) -> bytes:
        """The whole content as UTF-8; refused if it does not fit into memory."""
        check_fits_memory(2 * self.num_bytes, "its text", "split the file", where=str(self.path))
        return b"".join(self.blocks())


def read_text(path: Path) -> Text:
    """Read a text file once, to find its encoding and its size.

    Compression (gzip, bzip2, xz, zip) and UTF-16 are recognized by the first bytes, not by the file name.

    Raises:
        ValueError: For a truncated or damaged archive, a zip archive with several files of which not exactly
            one has a known name, or a line of more than `MAX_LINE_BYTES`.
    """
    encoding, head, num_bytes, num_lines = "", b"", 0, 0
    for block in _blocks(path):
        encoding = encoding or ("utf-16" if block.startswith(_UTF_16) else "utf-8")
        if encoding == "utf-8" and not _is_utf_8(block):
            encoding = "latin-1"
        if len(head) < _HEAD_BYTES or (not head.strip() and len(head) < MAX_LINE_BYTES):
            head += block
        num_bytes += len(block)
        num_lines += num_line_breaks(block)
    head = b"".join(_transcoded([head], encoding)) if head else b""
    return Text(path, _file_name(path), encoding or "utf-8", head, num_bytes, num_lines)


def num_line_breaks(block: bytes) -> int:
    r"""Count line breaks, as universal newlines are: \n, \r\n and \r."""
    count = np.count_nonzero(
        np.frombuffer(block, np.uint8) == ord("\n")
    )  # four times faster than block.count
    return int(count) + (block.count(b"\r") - block.count(b"\r\n") if b"\r" in block else 0)


def reason(error: Exception) -> str:
    """Return the message of an exception on one line, or its type if it has no message."""
    return one_line(str(error)) or type(error).__name__


def is_damage(error: Exception) -> bool:
    """Return True for an exception of a decoder, False for one of the file system."""
    is_of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    return isinstance(error, _DAMAGED) and not is_of_system


def _is_utf_8(block: bytes) -> bool:
    try:
        if not block.isascii():  # saves decoding, and its memory, for most files
            block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _transcoded(blocks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    if encoding == "utf-16":
        decoder = codecs.getincrementaldecoder("utf-16")("replace")
        yield from _whole_lines(decoder.decode(block).encode() for block in blocks)
        return
    for number, block in enumerate(blocks):
        block = block if number else block.removeprefix(codecs.BOM_UTF8)
        yield block.decode("latin-1").encode() if encoding == "latin-1" else block


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes in blocks that end with a line break, but perhaps the last."""
    with contextlib.ExitStack() as stack:
        with _damage_as_error(path):
            stream = _opened(path, stack)
        yield from _whole_lines(_chunks(path, stream), str(path))


def _chunks(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    while True:
        with _damage_as_error(path):
            chunk = stream.read(_BLOCK_BYTES)
        if not chunk:
            return
        yield chunk


def _whole_lines(chunks: Iterable[bytes], where: str = "") -> Iterator[bytes]:
    rest: list[bytes] = []
    num_lines = 0
    for chunk in chunks:
        end = (chunk.rfind(b"\n") if b"\n" in chunk else chunk.rfind(b"\r", 0, -1)) + 1
        if end:
            block = b"".join([*rest, chunk[:end]])
            num_lines += num_line_breaks(block)
            yield block
            rest = []
        rest.append(chunk[end:])
        if sum(map(len, rest)) > MAX_LINE_BYTES:
            raise ValueError(
                f"{where}:{num_lines + 1}: expected lines of at most {MAX_LINE_BYTES // 2**20} MiB, "
                "got a longer one; choose a table of text"
            )
    if any(rest):
        yield b"".join(rest)


def _opened(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    file = stack.enter_context(path.open("rb"))
    start = file.read(8)
    file.seek(0)
    if start.startswith(_ZIP):
        archive = stack.enter_context(zipfile.ZipFile(file))
        return stack.enter_context(archive.open(_member(path, archive)))
    for magic, opener in _OPENERS:
        if start.startswith(magic):
            return stack.enter_context(opener(file))
    return file


def _file_name(path: Path) -> str:
    with contextlib.ExitStack() as stack:
        stream = _opened(path, stack)
        return Path(stream.name).name if isinstance(stream, zipfile.ZipExtFile) else path.name


class _UnclearArchiveError(ValueError):
    """Zip archive whose member to read is not clear."""


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    members = [name for name in archive.namelist() if not name.endswith("/")]
    known = [name for name in members if layout_of_name(Path(name).name) != "generic"]
    data = [name for name in members if holds_data(Path(name).name)]
    chosen = data if len(data) == 1 else known
    if len(chosen) != 1:
        found = ", ".join(members[:10]) or "nothing"
        raise _UnclearArchiveError(
            f"{path}: expected one data file in the archive, found {found}; unpack it and set data.path"
        )
    return chosen[0]


@contextlib.contextmanager
def _damage_as_error(path: Path) -> Iterator[None]:
    try:
        yield
    except _UnclearArchiveError:
        raise
    except Exception as error:
        if not is_damage(error):
            raise
        raise ValueError(f"{path}: truncated or damaged archive ({reason(error)}); fetch it again") from error
