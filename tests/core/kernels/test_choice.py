"""When kernels are used, and what is said where they are not."""

import logging

import jax
import pytest
from jax import numpy as jnp

from fcf_jax.core.kernels import choice, remarks
from fcf_jax.core.kernels.plans import plan_of
from fcf_jax.experiments import doctor


@pytest.fixture
def said(monkeypatch, caplog):
    """Pretend that programs run on a GPU; return what is said."""
    monkeypatch.setattr(choice, "on_gpu", lambda: True)
    monkeypatch.setattr(remarks, "on_gpu", lambda: True)
    monkeypatch.setattr(choice, "_failure", lambda plan: None)
    remarks._say.cache_clear()
    caplog.set_level(logging.WARNING, logger="fcf_jax")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("num_factors", "dtype", "reason"),
    [(128, "float32", None), (129, "float32", "up to 128 factors, got 129"), (8, "float64", "got float64")],
)
def test_kernels_say_what_they_do_not_serve(said, num_factors, dtype, reason):
    obstacle = choice.obstacle_to(num_factors, jnp.dtype(dtype))
    assert obstacle is None if reason is None else reason in obstacle


def test_a_fallback_is_logged_once_with_its_reason(said):
    for _ in range(2):
        remarks.remark_on_kernels("they are tired")
    assert said() == ["rounds run without the GPU kernels, several times slower: they are tired"]


@pytest.mark.parametrize(
    ("version", "is_slow"),
    [("0.10.1", False), ("0.10.2", True), ("0.11.0", True), ("0.11.1", False), ("0.12.0.1", False)],
)
def test_only_the_versions_with_slow_scatters_are_named_with_the_remedy(said, monkeypatch, version, is_slow):
    monkeypatch.setattr(jax.lib, "__version__", version)
    remarks.remark_on_scatters()
    assert ["use jax 0.11.1 or later" in sentence for sentence in said()] == [True] * is_slow


def test_doctor_speaks_of_kernels_and_scatters_on_a_gpu(said, monkeypatch):
    monkeypatch.setattr(doctor, "on_gpu", lambda: True)
    monkeypatch.setattr(jax.lib, "__version__", "0.10.2")
    facts = doctor.diagnose().facts
    assert facts["GPU kernels"] == "in use for full rounds"
    assert "use jax 0.11.1" in facts["GPU scatters"]


def test_kernels_are_tried_while_a_program_is_traced():
    found = []

    @jax.jit
    def traced(number):
        found.append(choice._failure(plan_of(5, is_interpreted=True)))
        return number

    traced(1.0)
    assert found == [None]


def test_kernels_that_fail_are_not_used(monkeypatch):
    def refuse(plan):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr("fcf_jax.core.kernels.trial.error_of_trial", refuse)
    choice._failure.cache_clear()
    expected = "compiling them failed: RuntimeError: no such instruction"
    assert choice._failure(plan_of(5, is_interpreted=True)) == expected
    choice._failure.cache_clear()
