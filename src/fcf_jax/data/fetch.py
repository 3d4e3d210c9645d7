"""Download a known data set, check it and unpack it into the cache.

What an archive is checked against, the first of these that there is:

1. the published sum in `KNOWN_SETS`, for the benchmark sets that never change;
2. the sum that an earlier download left in ARCHIVE.json beside the archive;
3. the published sum in ARCHIVE.md5 beside the archive on the server, read at the first download;
4. nothing, at a first download without a published sum.

In the last two cases ARCHIVE.json is written, so that every later download is held to what the first one was;
its `origin` says whether the sum was published or merely found: no sum is ever invented.

The archive appears in the cache once it is complete and checked, the folder once it is unpacked completely:
both are made under another name and renamed. An archive put into the cache by hand is checked and unpacked
likewise; a folder without an archive is taken as it is, and nothing is said about its sum.
"""

import dataclasses
import json
import re
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import pooch
import requests

from fcf_jax.data.known_sets import KnownSet, cache_folder
from fcf_jax.data.parse import one_line

SERVER = "https://files.grouplens.org/datasets"

_SECONDS_TO_ANSWER = 30
_CHUNK_BYTES = 2**16
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: a password


class FetchError(Exception):
    """A data set could not be had, told in one line with the remedy."""


@dataclasses.dataclass(frozen=True)
class Checksum:
    """A sum of an archive.

    Attributes:
        value: "md5:..." or "sha256:...".
        origin: Who says so: its publisher, the server that sent the archive, or nobody but that archive.
    """

    value: str
    origin: Literal["published", "published beside it", "pinned at the first download"]


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A data set that is here.

    Attributes:
        folder: Where its files lie.
        checksum: What its archive agrees with; None for a folder without an archive.
        is_first: Whether the sum was pinned only now, so that nothing could be checked.
    """

    folder: Path
    checksum: Checksum | None
    is_first: bool = False


def fetch(
    known: KnownSet, *, cache: Path | None = None, server: str = SERVER, progress: Any = None
) -> Fetched:
    """Bring a data set into the cache, unless it is there already.

    Args:
        known: One of `KNOWN_SETS`.
        cache: The folder to hold it; None for `cache_folder()`.
        server: The address below which the archives lie.
        progress: A progress bar as pooch takes it: `total`, `update(num_bytes)`, `reset()` and `close()`.

    Raises:
        FetchError: when the server does not answer, or what it sends is not the data set; nothing is kept.
        OSError: when the cache cannot be written.
    """
    cache = cache_folder() if cache is None else cache
    archive, pin = cache / known.file_name, cache / f"{known.file_name}.json"
    if known.is_in(known.folder(cache)) and not archive.exists():
        return Fetched(known.folder(cache), None)
    cache.mkdir(parents=True, exist_ok=True)
    address = f"{server.rstrip('/')}/{known.archive}"
    checksum = _known_checksum(known, pin) or _published_checksum(f"{address}.md5")
    _download(known, address, archive, checksum, progress)
    _unpack(known, archive)
    found = checksum or Checksum(f"sha256:{pooch.file_hash(str(archive))}", "pinned at the first download")
    if known.md5 is None and not pin.exists():
        _write_pin(pin, found, address)
    return Fetched(known.folder(cache), found, is_first=checksum is None)


def _known_checksum(known: KnownSet, pin: Path) -> Checksum | None:
    if known.md5 is not None:
        return Checksum(f"md5:{known.md5}", "published")
    if not pin.exists():
        return None
    try:
        content = json.loads(pin.read_text("utf-8"))
        return Checksum(content["checksum"], content["origin"])
    except (ValueError, TypeError, KeyError):
        raise FetchError(f"{pin}: expected the checksum of {known.file_name}; remove the file") from None


def _published_checksum(address: str) -> Checksum | None:
    try:
        answer = requests.get(address, timeout=_SECONDS_TO_ANSWER)
    except requests.RequestException:
        return None
    sums = re.findall(r"\b[0-9a-f]{32}\b", answer.text.lower()) if answer.ok else []
    return Checksum(f"md5:{sums[0]}", "published beside it") if len(sums) == 1 else None


def _write_pin(pin: Path, checksum: Checksum, address: str) -> None:
    content = {"address": address, "checksum": checksum.value, "origin": checksum.origin}
    partial = pin.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    partial.replace(pin)


def _download(known: KnownSet, address: str, archive: Path, checksum: Checksum | None, progress: Any) -> None:
    """Have the archive, complete and with this checksum: the one that is there, or a new one."""
    pooch.get_logger().setLevel("WARNING")  # the command tells what matters
    download: Any = pooch.HTTPDownloader(progress or False, _CHUNK_BYTES, timeout=_SECONDS_TO_ANSWER)
    expected = None if checksum is None else checksum.value
    try:
        pooch.retrieve(address, expected, archive.name, archive.parent, downloader=download)
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"the server answers {status}" if status else f"no answer ({type(error).__name__})"
        place = f"{archive} (the file there has another checksum)" if archive.exists() else archive
        raise FetchError(
            f"{address}: {reason}; get {archive.name} from {known.homepage}, put it at {place} "
            "and run this again"
        ) from None
    except ValueError as error:  # another checksum
        found = str(error).partition(" but got ")[2].partition(".")[0] or "another"
        pin = Path(f"{archive}.json")
        remedy = f", or remove {pin} to take what is served now" if pin.exists() else ""
        raise FetchError(
            f"{address}: expected the checksum {expected}, got {found}; nothing was kept, try again{remedy}"
        ) from None


def _unpack(known: KnownSet, archive: Path) -> None:
    """Make the folder beside the archive, whole or not at all."""
    folder, wanted = known.folder(archive.parent), " and ".join(known.files)
    if known.is_in(folder):
        return
    if folder.exists():
        raise FetchError(f"{folder}: expected {wanted} in it; move the folder away")
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="unpacking-") as staging:
        content = Path(staging) / "content"
        try:
            pooch.Unzip(extract_dir=str(content))(str(archive), "download", None)
            _folder_of_data(known, content).replace(folder)
        except _DAMAGED as error:
            archive.unlink()
            raise FetchError(
                f"{archive}: expected a zip archive with {wanted}, got another file ({one_line(error)}); "
                "it was removed, try again"
            ) from None


def _folder_of_data(known: KnownSet, content: Path) -> Path:
    inside = sorted(content.iterdir())
    for candidate in (content, *inside):  # some archives have a folder of their own
        if known.is_in(candidate):
            return candidate
    raise zipfile.BadZipFile(f"with {', '.join(path.name for path in inside[:5]) or 'nothing'}")
