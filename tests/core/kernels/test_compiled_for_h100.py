"""A full round compiled for an H100, where its compiler is installed: what can be known without a GPU."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_for_h100.py")
KERNELS = {"_kernel", "_sum_piece", "_add_pieces", "_eliminate"}

pytestmark = [
    pytest.mark.skipif(
        find_spec("jax_plugins.xla_cuda13") is None if find_spec("jax_plugins") else True,
        reason="no compiler for GPUs; install the extra aot",
    ),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, folder], capture_output=True, text=True, timeout=580
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_no_function_has_a_large_stack_and_no_kernel_spills(compiled):
    functions = compiled["functions"]
    assert set(functions) >= KERNELS
    assert max(function["stack"] for function in functions.values()) < 1024
    assert [name for name in KERNELS if functions[name]["spilled"] or functions[name]["stack"]] == []


def test_nothing_in_a_round_is_decided_by_the_host(compiled):
    assert "kConditional" not in compiled["thunks"]
    assert compiled["thunks"]["kWhile"] == compiled["loops"] == compiled["loops_of_known_length"]


def test_no_float_is_added_atomically(compiled):
    assert compiled["float_atomics"] == 0


def test_temporary_memory_is_below_that_of_the_data(compiled):
    assert compiled["temporary_bytes"] < compiled["argument_bytes"]
