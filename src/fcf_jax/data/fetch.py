"""Download of a known data set: its archive is checked and unpacked into the cache.

The archive is checked against the first checksum that exists:

1. the published one in `KNOWN_SETS`, for the benchmark sets that never change;
2. the one in ARCHIVE.json, which an earlier download left beside the archive in the cache;
3. the published one in ARCHIVE.md5 beside the archive on the server;
4. none, for a first download without a published checksum.

In the last two cases ARCHIVE.json is written, so that later downloads must have the same checksum. Its
`origin` tells a published checksum from one computed on the first download.

The archive appears in the cache once it is complete and checked, the folder once it is completely unpacked:
both are written under another name and renamed. An archive that was put into the cache by hand is checked and
unpacked in the same way; a folder without an archive is used unchecked.
"""

import dataclasses
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

from fcf_jax.data.formats.text import is_damage, reason
from fcf_jax.data.known_sets import KnownSet, cache_folder

SERVER = "https://files.grouplens.org/datasets"

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 2**16


class FetchError(Exception):
    """Download or archive that failed, in one line with the remedy."""


@dataclasses.dataclass(frozen=True)
class Checksum:
    """Checksum of an archive.

    Attributes:
        value: "md5:..." or "sha256:...".
        origin: "published" in `KNOWN_SETS`, "published beside it" on the server, or "pinned at the first
            download" and published nowhere.
    """

    value: str
    origin: Literal["published", "published beside it", "pinned at the first download"]


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Data set in the cache.

    Attributes:
        folder: Folder of its files.
        checksum: Checksum of its archive; None for a folder without an archive.
        is_first: Whether the checksum was computed on this download, so that nothing was checked.
    """

    folder: Path
    checksum: Checksum | None
    is_first: bool = False


def fetch(
    known: KnownSet, *, cache: Path | None = None, server: str = SERVER, progress: Any = None
) -> Fetched:
    """Download, check and unpack a data set, unless it is in the cache.

    Args:
        known: One of `KNOWN_SETS`.
        cache: Folder for archives and data sets; None means `cache_folder()`.
        server: URL of the folder that holds the archives.
        progress: Progress bar for pooch, with `total`, `update(num_bytes)`, `reset()` and `close()`.

    Raises:
        FetchError: If the server does not answer, or sends something else; nothing is kept.
        OSError: If the cache cannot be written.
    """
    import pooch

    cache = cache_folder() if cache is None else cache
    archive, pin = cache / known.file_name, cache / f"{known.file_name}.json"
    if known.is_in(known.folder(cache)) and not archive.exists():
        return Fetched(known.folder(cache), None)
    cache.mkdir(parents=True, exist_ok=True)
    url = f"{server.rstrip('/')}/{known.archive}"
    checksum = _known_checksum(known, pin) or _published_checksum(f"{url}.md5")
    _download(known, url, archive, checksum, progress)
    _unpack(known, archive)
    found = checksum or Checksum(f"sha256:{pooch.file_hash(str(archive))}", "pinned at the first download")
    if known.md5 is None and not pin.exists():
        _write_pin(pin, found, url)
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


def _published_checksum(url: str) -> Checksum | None:
    import requests

    try:
        answer = requests.get(url, timeout=_TIMEOUT_SECONDS)
    except requests.RequestException:
        return None
    sums = re.findall(r"\b[0-9a-f]{32}\b", answer.text.lower()) if answer.ok else []
    return Checksum(f"md5:{sums[0]}", "published beside it") if len(sums) == 1 else None


def _write_pin(pin: Path, checksum: Checksum, url: str) -> None:
    content = {"address": url, "checksum": checksum.value, "origin": checksum.origin}
    partial = pin.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    partial.replace(pin)


def _download(known: KnownSet, url: str, archive: Path, checksum: Checksum | None, progress: Any) -> None:
    """Download the archive, unless the one in the cache has this checksum."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # the command prints what matters
    download: Any = pooch.HTTPDownloader(progress or False, _CHUNK_BYTES, timeout=_TIMEOUT_SECONDS)
    expected = None if checksum is None else checksum.value
    try:
        pooch.retrieve(url, expected, archive.name, archive.parent, downloader=download)
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"the server answers {status}" if status else f"no answer ({type(error).__name__})"
        place = f"{archive} (the file there has another checksum)" if archive.exists() else archive
        raise FetchError(
            f"{url}: {reason}; get {archive.name} from {known.homepage}, put it at {place} and run this again"
        ) from None
    except ValueError as error:  # another checksum
        found = str(error).partition(" but got ")[2].partition(".")[0] or "another"
        pin = Path(f"{archive}.json")
        remedy = f", or remove {pin} to accept what the server has now" if pin.exists() else ""
        raise FetchError(
            f"{url}: expected the checksum {expected}, got {found}; nothing was kept, try again{remedy}"
        ) from None


def _unpack(known: KnownSet, archive: Path) -> None:
    """Unpack the archive into the folder beside it, completely or not at all."""
    folder, wanted = known.folder(archive.parent), " and ".join(known.files)
    if known.is_in(folder):
        return
    if folder.exists():
        raise FetchError(f"{folder}: expected {wanted} in it; move the folder away")
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="unpacking-") as staging:
        content = Path(staging) / "content"
        content.mkdir()
        try:
            with zipfile.ZipFile(archive) as members:
                members.extractall(content)
            _folder_of_data(known, content).replace(folder)
        except Exception as error:
            if not is_damage(error):  # such as a full disk
                raise
            archive.unlink()
            raise FetchError(
                f"{archive}: expected a zip archive with {wanted}, got another file ({reason(error)}); "
                "it was removed, try again"
            ) from None


def _folder_of_data(known: KnownSet, content: Path) -> Path:
    inside = sorted(content.iterdir())
    for candidate in (content, *inside):  # some archives contain a single folder
        if known.is_in(candidate):
            return candidate
    raise zipfile.BadZipFile(f"with {', '.join(path.name for path in inside[:5]) or 'nothing'}")
