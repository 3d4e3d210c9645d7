"""A count of everything that is compiled, down to single operations outside `jit`."""

import jax
import pytest

_COMPILED = []


def _note(event, duration, **details):
    if event == "/jax/core/compile/backend_compile_duration":  # of programs taken from the disk cache too
        _COMPILED.append(details)


jax.monitoring.register_event_duration_secs_listener(_note)


@pytest.fixture
def num_compiled():
    """Return the number of programs compiled so far."""
    return lambda: len(_COMPILED)
