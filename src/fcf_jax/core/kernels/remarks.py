"""What a program that is traced for a GPU has to say, each sentence once, by way of `logging`."""

import logging
from functools import cache

import jax

_LOG = logging.getLogger("fcf_jax")


def on_gpu() -> bool:
    """Return whether programs run on a GPU by default."""
    return jax.default_backend() == "gpu"


def remark_on_kernels(obstacle: str) -> None:
    """Log why a GPU computes without kernels."""
    if on_gpu():
        _say(f"rounds run without the GPU kernels, several times slower: {obstacle}")


def remark_on_scatters() -> None:
    """Log that sums without kernels are slow with this jaxlib, if they are."""
    slow = slow_scatters() if on_gpu() else None
    if slow is not None:
        _say(slow)


def slow_scatters() -> str | None:
    """Return a warning for a jaxlib that adds floats on a GPU in a compare-and-swap loop; else None.

    References:
        openxla/xla issue 46225; fixed in jaxlib 0.11.1.
    """
    version = jax.lib.__version__  # pyright: ignore[reportPrivateImportUsage]
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not (0, 10, 2) <= numbers < (0, 11, 1):
        return None
    return (
        f"jaxlib {version} adds popular items' gradients on a GPU up to thousands of times slower than it "
        "could, except by the kernels for full rounds; use jax 0.11.1 or later"
    )


@cache
def _say(sentence: str) -> None:
    _LOG.warning(sentence)
