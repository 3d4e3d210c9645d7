"""Records in the registry of `jax.export`: an exported round can be written to a file and read back."""

import contextlib
import inspect

import optax
from jax import export

import fcf_jax.als as als
import fcf_jax.optimizers as optimizers
from fcf_jax.channel.clip_and_noise import ClippingState
from fcf_jax.core import client, records

# states of the optax transformations behind `optax.adam` and `paper_adam`, unless optax registers them itself
_OF_OPTAX = (optax.EmptyState, optax.ScaleByAdamState, optax.ScaleByScheduleState)


def exported_records() -> list[type]:
    """List the records that cross `jit` in rounds and sweeps."""
    modules = (records, client, als, optimizers)
    defined = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    own = {one for one in defined if hasattr(one, "_fields") and one.__module__.startswith("fcf_jax.")}
    return sorted(own | {ClippingState}, key=lambda one: one.__name__)


def register() -> None:
    """Register all records, once."""
    for record in exported_records():
        export.register_namedtuple_serialization(record, serialized_name=f"fcf_jax.{record.__name__}")
    for record in _OF_OPTAX:
        with contextlib.suppress(ValueError):
            export.register_namedtuple_serialization(record, serialized_name=f"optax.{record.__name__}")
