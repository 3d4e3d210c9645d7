"""Some seconds of fuzzing of all readers; `readers.py` runs for as long as one likes."""

import os

import readers

SECONDS = float(os.environ.get("FCF_FUZZ_SECONDS", "4"))


def test_readers_give_interactions_or_one_line():
    counts, failures = readers.fuzz(SECONDS)
    assert not failures, failures[0]
    assert sum(counts.values()) > 20 and counts["legal tables read"]


def test_every_kind_of_trial_is_repeated_by_its_seed(tmp_path):
    for trial in set(readers.TRIALS):
        found = []
        for name in "ab":
            (tmp_path / name).mkdir(exist_ok=True)
            found.append(trial(readers.random.Random(3), tmp_path / name))
        assert found[0] == found[1]
