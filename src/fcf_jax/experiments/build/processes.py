"""Several processes that act as one: what process 0 has, and what any of them was asked."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

_PIECE = 2**26  # bytes


def any_process(wish: bool) -> bool:
    """Tell whether any process has this wish; all must ask."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))


def share_files(folder: Path, patterns: Iterable[str]) -> None:
    """Copy these files of process 0 to the same names in the folders of the others; all must call this."""
    if jax.process_count() == 1:
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
            archive.write(path, path.relative_to(folder))
    content = _broadcast(buffer.getvalue())
    if jax.process_index() > 0:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)


def _broadcast(content: bytes) -> bytes:
    """Give all processes the bytes of process 0, whose number only it knows, in pieces."""
    is_first = jax.process_index() == 0
    num_whole, rest = multihost_utils.broadcast_one_to_all(np.array(divmod(len(content), _PIECE), np.int32))
    pieces = []
    for size in [_PIECE] * int(num_whole) + [int(rest)]:
        start = _PIECE * len(pieces)
        piece = np.frombuffer(content, np.uint8, size, start) if is_first else np.zeros(size, np.uint8)
        pieces.append(np.asarray(multihost_utils.broadcast_one_to_all(piece), np.uint8).tobytes())
    return b"".join(pieces)
