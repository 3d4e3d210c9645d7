"""Federated Collaborative Filtering in JAX (Ammad-ud-din et al., arXiv:1901.09888)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcf_jax._public import *  # noqa: F403

__version__ = "0.1.0"


# JAX takes a second to import; the command line and its help do without.
def __getattr__(name: str) -> Any:
    if not name.startswith("__") or name == "__all__":
        public = importlib.import_module("fcf_jax._public")
        for place in (globals(), vars(public)):  # the import binds submodules such as `fcf_jax.core`
            if name in place:
                return place[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("fcf_jax._public").__all__})
