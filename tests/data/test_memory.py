"""What does not fit into memory is refused by the computed bytes, before anything is allocated."""

import io

import numpy as np
import pandas as pd
import pytest
from tables import failure

from fcf_jax.data import Interactions, memory, simulate_uniform


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**20)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "build",
    [
        lambda: Interactions.from_arrays([0], [0], num_users=10**6),
        lambda: Interactions.from_arrays([0], [0], num_items=10**6),
        lambda: Interactions.from_labels(["x" * 10**5, "a", "b"], [1, 2, 3]),
        lambda: simulate_uniform(num_users=10**4, num_items=10**4, seed=0),
    ],
    ids=["users", "items", "one long label", "simulation"],
)
def test_arrays_beyond_memory_are_refused(build):
    with pytest.raises(ValueError, match=r"to fit into the memory of 0\.0 GiB, got .* GiB; "):
        build()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("form", ["npz", "parquet", "csv"])
def test_files_beyond_memory_are_refused(file, form):
    columns = {"user": np.arange(10**5), "item": np.arange(10**5)}
    buffer = io.BytesIO()
    if form == "npz":
        np.savez(buffer, **columns)
    elif form == "parquet":
        pd.DataFrame(columns).to_parquet(buffer)
    else:
        buffer.write(b"user,item\n" + b"1,2\n" * 10**5)
    assert "to fit into the memory of 0.0 GiB" in failure(file(buffer.getvalue(), f"a.{form}"))


def test_memory_of_this_machine_is_known():
    assert memory.memory_bytes() > 2**28
