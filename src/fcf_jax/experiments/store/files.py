"""Files that are written whole or not at all, each with one writer and one reader.

counts = File[Arrays]("counts.npz", required=("counts",))
counts.write(folder, {"counts": np.zeros(3)})
counts.read(folder)["counts"]
"""

import csv
import io
import json
import os
import reprlib
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

import numpy as np
import tomli_w
from pydantic import TypeAdapter, ValidationError

from fcf_jax.experiments.errors import DamagedFileError

Content = TypeVar("Content")
Other = TypeVar("Other")
Document = dict[str, Any]
Arrays = dict[str, np.ndarray]
_TEMPORARY = ".fcf.tmp"  # ends the names of files half written, and of no others


@dataclass(frozen=True)
class File(Generic[Content]):
    """A file by its name in a folder; the suffix decides about the format.

    JSON, JSON lines and CSV (a list of records), TOML (sections) and NPZ (arrays, never pickled). Numbers
    that are not finite become null in JSON; null in JSON lines is read as nan.

    Attributes:
        name: file name with suffix.
        required: keys of an intact file, or of each of its records.
        schema: pydantic type that the content is validated against; None: it is not validated.
        remedy: what to do with a damaged file.
    """

    name: str
    required: tuple[str, ...] = ()
    schema: Any = None
    remedy: str = "repeat the run"

    def is_in(self, folder: Path) -> bool:
        """Return whether the folder has this file."""
        return (folder / self.name).is_file()

    def encode(self, content: Content) -> bytes:
        """Return the bytes that `write` writes."""
        return _FORMATS[Path(self.name).suffix].encode(content)

    def write(self, folder: Path, content: Content) -> None:
        """Write the file.

        Raises:
            OSError: when it cannot be written; the file is then left as it was.
        """
        write_atomically(folder / self.name, self.encode(content))

    def append(self, folder: Path, content: Content) -> None:
        """Append records of JSON lines, and flush them to disk.

        A process that is killed may leave a last line without an end, which `read` leaves out.

        Raises:
            OSError: when they cannot be written.
        """
        path = folder / self.name
        with _naming(path), path.open("ab") as file:
            file.write(self.encode(content))
            _flush(file)

    def read(self, folder: Path) -> Content:
        """Read the file back.

        Raises:
            DamagedFileError: when its content is not what the package writes.
            OSError: when it is missing or cannot be read.
        """
        path = folder / self.name
        try:
            content = _FORMATS[path.suffix].decode(path.read_bytes())
            self._refuse_incomplete(content)
            if self.schema is not None:
                TypeAdapter(self.schema).validate_python(content, strict=True)
        except ValidationError as error:
            raise self._damaged(path, _found(error)) from error
        except (ValueError, RecursionError) as error:  # of JSON, TOML and UTF-8 alike
            raise self._damaged(path, str(error)) from error
        return content

    def _damaged(self, path: Path, found: str) -> DamagedFileError:
        return DamagedFileError(f"{path}: expected an intact file, got {found}; {self.remedy}")

    def _refuse_incomplete(self, content: Any) -> None:
        for record in content if isinstance(content, list) else [content]:
            if missing := [key for key in self.required if key not in record]:
                raise ValueError(f"one without {missing[0]}")

    def remove(self, folder: Path) -> None:
        """Remove the file, if there is one.

        Raises:
            OSError: when it cannot be removed.
        """
        (folder / self.name).unlink(missing_ok=True)
        _flush_names(folder)

    def read_or(self, folder: Path, absent: Other) -> Content | Other:
        """Read the file back, or return `absent` where there is none."""
        return self.read(folder) if self.is_in(folder) else absent


def _found(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"one without {place}"
    return f"{place} = {reprlib.repr(problem['input'])} ({problem['msg']})"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole, as `written_atomically` does.

    Raises:
        OSError: naming the path, when it cannot be written; the file is then left as it was.
    """
    with written_atomically(path) as file:
        file.write(content)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary neighbor to write; flush it to disk, rename it, and flush the folder's names.

    Raises:
        OSError: naming the path, when it cannot be written; the file is then left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with _naming(path):
            with temporary.open("w+b") as file:
                yield file
                _flush(file)
            os.replace(temporary, path)
            _flush_names(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left of files half written, in this folder alone."""
    for left_over in folder.glob(f".*{_TEMPORARY}"):
        left_over.unlink(missing_ok=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the disk, which only know of a descriptor or a temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _flush_names(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(content: Any) -> bytes:
    return (json.dumps(_finite(content), indent=2) + "\n").encode()


def _from_json(content: bytes | str) -> Document:
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__}")
    return document


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    return content


def _to_json_lines(records: list[Document]) -> bytes:
    return "".join(json.dumps(_finite(record)) + "\n" for record in records).encode()


def _from_json_lines(content: bytes) -> list[Document]:
    nan = float("nan")
    whole, newline, rest = content.rpartition(b"\n")
    records = [_from_json(line) for line in (whole + newline).decode().splitlines()]
    with suppress(ValueError):  # what a killed process appended last
        records += [_from_json(rest.decode())]
    return [{key: nan if value is None else value for key, value in one.items()} for one in records]


def _to_csv(rows: list[Document]) -> bytes:
    """Write a column for each key of any row; cells of rows without it, None and nan are empty."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows({name: None if cell != cell else cell for name, cell in row.items()} for row in rows)
    return text.getvalue().encode()


def _from_csv(content: bytes) -> list[Document]:
    return list(csv.DictReader(content.decode().splitlines(), restval=""))


def _to_toml(sections: Document) -> bytes:
    return tomli_w.dumps(sections).encode()


def _from_toml(content: bytes) -> Document:
    sections = tomllib.loads(content.decode())
    if outside := [name for name, keys in sections.items() if not isinstance(keys, dict)]:
        raise ValueError(f"{outside[0]} outside of a section")
    return sections


def _to_npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _from_npz(content: bytes) -> Arrays:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # a damaged zip can raise anything: BadZipFile, zlib.error, KeyError, EOFError
        raise ValueError(str(error)) from error


class _Format(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


_FORMATS = {
    ".json": _Format(_to_json, _from_json),
    ".jsonl": _Format(_to_json_lines, _from_json_lines),
    ".csv": _Format(_to_csv, _from_csv),
    ".toml": _Format(_to_toml, _from_toml),
    ".npz": _Format(_to_npz, _from_npz),
}
