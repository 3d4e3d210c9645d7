"""Refusal of what cannot fit into memory, by the computed bytes, before anything is allocated."""

import contextlib
import os
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fits_memory(num_bytes: int, what: str, remedy: str, *, where: str = "") -> None:
    """Raise ValueError if this many bytes are more than the memory of this machine or container.

    Args:
        num_bytes: Bytes needed at once.
        what: What needs them, for the message.
        remedy: What to do, in the imperative.
        where: The file, if there is one.
    """
    available = memory_bytes()
    if available is not None and num_bytes > available:
        raise ValueError(
            f"{where and f'{where}: '}expected {what} to fit into the memory of {_gibibytes(available)}, "
            f"got {_gibibytes(num_bytes)}; {remedy}"
        )


def memory_bytes() -> int | None:
    """Return the memory of this machine, or of its container if that has a limit; None if it is unknown."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            limits.append(int(Path(path).read_text()))
    return min((limit for limit in limits if limit > 0), default=None)


def _gibibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
