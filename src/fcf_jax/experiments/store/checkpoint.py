"""Checkpoints of a training: atomic, digest-checked, never pickled.

checkpoints = Checkpoints(folder, keep=2, fingerprints={"config": ..., "data": ...})
checkpoints.save(30, state, score=0.21)
restored = checkpoints.latest(like=jax.eval_shape(start))

A checkpoint is an NPZ file: an array for each leaf of the state, named by its path, and a JSON header.
The archive's comment ends with the SHA-256 of everything before it.
"""

import contextlib
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import jax
import numpy as np
from pydantic import BaseModel, Field

from fcf_jax.experiments.errors import CheckpointError
from fcf_jax.experiments.store.files import written_atomically
from fcf_jax.messages import one_line
from fcf_jax.parallel.mesh import fetch

FORMAT = 2
_HEADER = "header"
_COMMENT, _DIGEST_LENGTH = b"sha256:", 64
_CHUNK_BYTES = 2**20


class Restored(NamedTuple):
    """A checkpoint, read back.

    Attributes:
        done: number of rounds done.
        state: the tree that was saved, on the host.
    """

    done: int
    state: Any


class Checkpoints:
    """Checkpoints of one training, in a folder of their own.

    Args:
        folder: created by the first save.
        keep: how many of the latest are kept, at least 1, besides the one with the best score.
        fingerprints: hashes, by name, of what the state depends on; only equal ones can be resumed.
        on_damaged: called with one line about each damaged checkpoint that is skipped.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        fingerprints: Mapping[str, str],
        on_damaged: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._fingerprints = {**fingerprints, "format": str(FORMAT)}
        self._on_damaged = on_damaged

    def save(self, done: int, state: Any, *, score: float | None = None) -> None:
        """Save the state, then delete checkpoints that need not be kept. Collective: call in all processes.

        Args:
            done: number of rounds done.
            state: a tree of arrays, typed keys included.
            score: quality of the state, higher is better; None or nan if it was not measured.

        Raises:
            OSError: when it cannot be written; earlier checkpoints are intact.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(self._folder / _name(done)) as file:
            _write(file, done, state, score, self._fingerprints)
        paths = self._paths()
        for path in set(paths[: -self._keep]) - {_best(paths)}:
            path.unlink()

    def latest(self, like: Any) -> Restored | None:
        """Read the latest intact checkpoint; None if there is none.

        Args:
            like: a tree of arrays or `jax.ShapeDtypeStruct`s with the structure of the state.

        Raises:
            CheckpointError: when its fingerprints or its tree differ.
            OSError: when it cannot be read.
        """
        for path in reversed(self._paths()):
            try:
                header, arrays = _read(path)
                if path.name != _name(header.done):
                    raise _DamagedError(f"it is of round {header.done}")
                _refuse_others(path, header.fingerprints, self._fingerprints)
                return Restored(header.done, _rebuild(path, header.leaves, arrays, like))
            except _DamagedError as damage:
                self._on_damaged(f"{path}: damaged ({damage}); passed over for the checkpoint before it")
        return None

    def discard(self) -> None:
        """Delete all checkpoints, once the training is finished."""
        for path in self._paths():
            path.unlink()
        with contextlib.suppress(OSError):  # missing, or other files in it
            self._folder.rmdir()

    def _paths(self) -> list[Path]:
        """Return the checkpoints in the order of rounds done, which is that of their names."""
        return sorted(self._folder.glob("round-*.npz"))


class _DamagedError(Exception):
    """A file whose digest does not match its content, or whose content is no checkpoint."""


class _Leaf(BaseModel):
    name: str
    array: str
    key: str | None


class _Header(BaseModel):
    done: Annotated[int, Field(ge=0)]
    fingerprints: dict[str, str]
    leaves: list[_Leaf]


def _name(done: int) -> str:
    return f"round-{done:08d}.npz"


def _write(
    file: BinaryIO, done: int, state: Any, score: float | None, fingerprints: Mapping[str, str]
) -> None:
    """Write the state leaf by leaf, as `numpy.savez` does with the whole of it in memory."""
    of_state = _named_leaves(state)
    leaves = [
        {"name": name, "array": _describe(name, leaf), "key": _impl_of(leaf)} for name, leaf in of_state
    ]
    score = None if score is None or math.isnan(score) else float(score)
    header = {"done": done, "score": score, "fingerprints": dict(fingerprints), "leaves": leaves}
    with zipfile.ZipFile(file, "w") as archive:
        _write_array(archive, _HEADER, np.frombuffer(json.dumps(header).encode(), np.uint8))
        for name, leaf in of_state:
            _write_array(archive, name, _to_host(leaf))
        archive.comment = _COMMENT + bytes(_DIGEST_LENGTH)
    digest = _digest(file)
    file.seek(-_DIGEST_LENGTH, os.SEEK_END)
    file.write(digest)


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _read(path: Path) -> tuple[_Header, dict[str, np.ndarray]]:
    with path.open("rb") as file:
        digest = _digest(file)
        if file.read() != digest:
            raise _DamagedError("its SHA-256 differs")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            return _Header.model_validate_json(arrays.pop(_HEADER).tobytes(), strict=True), arrays
        except Exception as error:  # another program wrote it: a zip, NPY or JSON can fail in any way
            raise _DamagedError(one_line(str(error))) from error


def _digest(file: BinaryIO) -> bytes:
    """Compute the digest of all but the place for it, where the file is then read on."""
    left, digest = file.seek(0, os.SEEK_END) - _DIGEST_LENGTH, hashlib.sha256()
    file.seek(0)
    while left > 0 and (part := file.read(min(left, _CHUNK_BYTES))):
        digest.update(part)
        left -= len(part)
    return digest.hexdigest().encode()


def _best(paths: list[Path]) -> Path | None:
    """Return the checkpoint with the best score, the latest of equals."""
    scores = [(score, path) for path in paths if (score := _score(path)) is not None]
    return max(scores)[1] if scores else None


def _score(path: Path) -> float | None:
    """Read the score from the header, without the state, which may be large."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return json.loads(archive[_HEADER].tobytes())["score"]
    except Exception:  # a damaged zip can raise anything; such a checkpoint has no score
        return None


def _refuse_others(path: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    for name in {**ours, **theirs}:
        if theirs.get(name) != ours.get(name):
            raise CheckpointError(
                f"{path}: expected a checkpoint of {name} {str(ours.get(name))[:12]}, got one of "
                f"{str(theirs.get(name))[:12]}; go on as it was begun, or choose another --out"
            )


def _rebuild(path: Path, leaves: list[_Leaf], arrays: dict[str, np.ndarray], like: Any) -> Any:
    expected = [_describe(name, leaf) for name, leaf in _named_leaves(like)]
    found = [leaf.array for leaf in leaves]
    if found != expected:
        ours, theirs = next(pair for pair in zip_longest(expected, found) if pair[0] != pair[1])
        raise CheckpointError(f"{path}: expected {ours}, got {theirs}; choose another --out")
    like, structure = jax.tree.flatten(like)
    restored = [_restore(arrays, leaf, other) for leaf, other in zip(leaves, like, strict=True)]
    return jax.tree.unflatten(structure, restored)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(f"state/{jax.tree_util.keystr(path, simple=True, separator='/')}", leaf) for path, leaf in paths]


def _describe(name: str, leaf: Any) -> str:
    return f"{name} {leaf.dtype} {list(leaf.shape)}"


def _impl_of(leaf: Any) -> str | None:
    return str(jax.random.key_impl(leaf)) if _is_key(leaf) else None


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return fetch(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _restore(arrays: dict[str, np.ndarray], leaf: _Leaf, like: Any) -> Any:
    try:
        array = arrays[leaf.name]
        if leaf.key is not None:
            restored = jax.random.wrap_key_data(jax.numpy.asarray(array), impl=leaf.key)
        else:
            restored = array.view(like.dtype)  # NPZ stores bfloat16 as plain bytes
    except (KeyError, TypeError, ValueError) as error:
        raise _DamagedError(f"{leaf.name}: {one_line(str(error))}") from error
    if (found := _describe(leaf.name, restored)) != leaf.array:
        raise _DamagedError(f"expected {leaf.array}, got {found}")
    return restored
