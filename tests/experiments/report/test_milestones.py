from made_up_runs import run_of

from fcf_jax.experiments.report.milestones import Milestone, milestones


def test_milestones_known_answers():
    evaluations = [(1, {"map_at_10": 0.3}), (2, {"map_at_10": 0.399})]
    run = run_of(
        [30.0, 10.9, 10.05],
        sweeps=[30.0, 10.5],
        centralized={"loss": 10.0, "map_at_10": 0.4},
        evaluations=evaluations,
    )
    found = [one[1:] for one in milestones(run)]
    assert found == [(1, 50.0, 1, None), (2, 100.0, 2, None), (None, None, 2, None), (2, 100.0, None, None)]
    timed = run._replace(records=[one | {"virtual_seconds": 7.0 * (one["round"] + 1)} for one in run.records])
    assert [one.virtual_seconds for one in milestones(timed)] == [7.0, 14.0, None, 14.0]
    assert milestones(run_of([2.0, 1.0])) == []
    assert isinstance(milestones(run)[0], Milestone)
