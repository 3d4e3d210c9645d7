"""Curves of both sides, written and read back."""

import numpy as np

from fcf_jax.experiments.compare.curves import Curves, read_curves

RNG = np.random.default_rng(0)


def test_curves_are_read_as_they_were_written(tmp_path):
    curves = Curves()
    for done in (20, 0, 10):
        curves.put("federated", "loss", done, RNG.normal(size=3))
    curves.put("federated", "loss", 10, [1 / 3, np.nan, 0.0])  # again
    curves.write(tmp_path / "curves.csv")
    rounds, found = read_curves(tmp_path / "curves.csv", until=10).get("federated", "loss")
    assert rounds.tolist() == [0, 10]
    np.testing.assert_array_equal(found, curves.get("federated", "loss").values[:2])
