"""From a file to text in UTF-8: decompression and character encodings."""

import bz2
import codecs
import gzip
import io
import zipfile
import zlib
from pathlib import Path

from fcf_jax.data.layouts import layout_of_name

# RuntimeError: a zip archive with a password; ValueError: a bzip2 stream that ends early.
_DAMAGED = (EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)


def read_bytes(path: Path) -> tuple[bytes, str]:
    """Read a file whole, decompressed; what it is (gzip, bzip2, zip or plain) is told by its first bytes, not
    its name.

    Returns:
        The content, and the name of the file or of the member of a zip archive.

    Raises:
        ValueError: For a truncated or damaged archive, or a zip archive with several files and no known name
            among them.
    """
    data = path.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data), path.name
        if data.startswith(b"BZh"):
            return bz2.decompress(data), path.name
        if data.startswith(b"PK\x03\x04"):
            member, content = _unzip(data)
            return content, member
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: truncated or damaged archive ({one_line(error)}); fetch it again"
        ) from error
    except LookupError as error:
        raise ValueError(f"{path}: {error}; unpack it and set data.path") from error
    return data, path.name


def _unzip(data: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/")]
        known = [name for name in members if layout_of_name(Path(name).name) != "generic"]
        chosen = members if len(members) == 1 else known
        if len(chosen) != 1:
            raise LookupError(
                f"expected one data file in the archive, found {', '.join(members[:10]) or 'nothing'}"
            )
        return Path(chosen[0]).name, archive.read(chosen[0])


def to_utf8(data: bytes) -> tuple[bytes, str]:
    """Return the text as UTF-8 without a byte order mark, and the encoding it was in.

    What is not valid UTF-8 is taken as latin-1, which has a character for every byte.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").encode(), "utf-16"
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.isascii():
        return data, "utf-8"
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode(), "latin-1"
    return data, "utf-8"


def one_line(error: Exception) -> str:
    """Return an exception's message without line breaks, its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
