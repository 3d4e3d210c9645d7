"""Runs side by side: grouped by what differs, compared with one loss, on a page of bounded size."""

import numpy as np
import pytest
from made_up_runs import run_of

from fcf_jax.experiments.report.groups import MOST_GROUPS, groups_of, references_of
from fcf_jax.experiments.report.page import render
from fcf_jax.experiments.report.side_by_side import side_by_side


def run_with(name, losses, *, alpha=4.0, start=0, split=0, **options):
    config = {
        "data": {"seed": split}, "model": {"alpha": alpha}, "federation": {"seed": start}, "evaluation": {}
    }  # fmt: skip
    return run_of(losses, config=config, **options)._replace(name=name)


def runs_of(num_settings, num_seeds):
    return [
        run_with(f"run-{alpha}-{seed}", [30.0, 11.0, 10.0 + seed], alpha=float(alpha), start=seed)
        for alpha in range(num_settings)
        for seed in range(num_seeds)
    ]


def test_runs_that_differ_in_their_seeds_are_one_group_with_mean_and_sd():
    groups = groups_of(runs_of(2, 3))
    assert [[run.name for run in group.runs] for group in groups] == [
        [f"run-{alpha}-{seed}" for seed in range(3)] for alpha in range(2)
    ]
    assert [group.entry.label for group in groups] == ["alpha 0.0", "alpha 1.0"]
    assert groups[0].spread(lambda run: run.side("federated")["loss"]) == (11.0, 1.0)
    line = groups[0].line(lambda run: run.losses())
    assert line.y.tolist() == [30.0, 11.0, 11.0]
    np.testing.assert_allclose([line.low[-1], line.high[-1]], [10.0, 12.0])
    assert len({group.entry for group in groups_of(runs_of(MOST_GROUPS, 1))}) == MOST_GROUPS


def test_table_has_a_row_per_group_and_differences_a_row_per_key():
    content = side_by_side(runs_of(2, 3))
    (first, second), head = content["rows"], content["head"]
    assert first["cells"][head.index("loss")] == "11.0000 ±\N{NO-BREAK SPACE}1.0000"
    assert first["cells"][head.index("runs")] == second["cells"][head.index("runs")] == "3"
    assert content["differences"]["rows"] == [
        ("model.alpha", ["0.0", "1.0"]),
        ("federation.seed", ["0, 1, 2", "0, 1, 2"]),
    ]
    assert len(content["members"]) == 6
    assert side_by_side(runs_of(2, 1))["members"] == []  # each is a row of its own already


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        ((10.0, 8.0), (8.0, 8.0)),  # of two trainings of ALS on the same split, the better one
        ((None, 8.0), (8.0, 8.0)),
        ((None, None), (9.0, 9.0)),  # not each run's own best
    ],
)
def test_runs_of_one_problem_are_compared_with_one_loss(finals, expected):
    runs = [
        run_with(name, losses, start=start, centralized=None if final is None else {"loss": final})
        for start, (name, losses, final) in enumerate(
            zip(("one", "other"), ([30.0, 12.0], [30.0, 9.0]), finals, strict=True)
        )
    ]
    references = references_of(runs)
    assert tuple(references[name].loss for name in ("one", "other")) == expected
    assert {reference.is_als for reference in references.values()} == {any(finals)}


def test_other_splits_have_their_own_als_and_other_models_their_own_loss():
    runs = [
        run_with("a", [30.0, 12.0], split=0, centralized={"loss": 10.0}),
        run_with("b", [30.0, 12.0], split=1, centralized={"loss": 11.0}),
        run_with("c", [30.0, 12.0], split=2),
        run_with("d", [30.0, 5.0], alpha=1.0),
    ]
    losses = {name: reference.loss for name, reference in references_of(runs).items()}
    assert losses == {"a": 10.0, "b": 11.0, "c": 10.5, "d": 5.0}


def test_page_of_many_runs_does_not_grow_without_bound():
    some, many = (len(render(runs_of(num_settings, 2))) for num_settings in (110, 400))
    assert many < 1.01 * some < 150_000
