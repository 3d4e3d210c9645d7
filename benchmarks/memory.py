"""Memory of this process, as the system counts it; needs no JAX."""

import contextlib
import re
import sys
from pathlib import Path


def peak_memory_bytes() -> int | None:
    """Return the largest resident size so far; None where the system does not report it."""
    found = _status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int | None:
    """Return the resident size now; None where the system does not report it."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return 1024 * int(found[1])
    return None
