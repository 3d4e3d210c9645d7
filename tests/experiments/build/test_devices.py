"""Devices of an experiment: how many a cohort is worth."""

from types import SimpleNamespace

import pytest

from fcf_jax.experiments.build.devices import devices_worth


@pytest.mark.parametrize(
    ("users", "items", "interactions", "cohort_size", "expected"),
    [
        (6040, 3706, 800_193, 50, 0),
        (6040, 3706, 800_193, 200, 3),  # MovieLens 1M: two devices take .7 of the time of one
        (943, 1682, 80_000, 200, 3),  # MovieLens 100K: likewise
        (20_000, 10_000, 320_000, 300, 0),  # a large catalogue: one device takes .8 of the time of two
        (20_000, 10_000, 320_000, 4000, 3),
        (0, 10, 0, 5, 0),
    ],
)
def test_devices_are_worth_their_work_on_all_items(users, items, interactions, cohort_size, expected):
    histories = SimpleNamespace(num_users=users, num_items=items, item_ids=range(interactions))
    assert devices_worth(cohort_size, histories) == expected
