"""The schedule of blocks, evaluations and checkpoints; times of rounds; divergence."""

import itertools

import pytest

from fcf_jax.experiments.loop import Schedule, Training, find_divergence, seconds_per_round

SIZES = [
    (30, 10, [1] * 30),
    (1, 10, [1]),
    (0, 10, []),
    (120, 10, [1] * 10 + [10] * 11),
    (125, 20, [1] * 10 + [10] * 11 + [1] * 5),
    (110, 49, [1] * 7 + [7] * 14 + [1] * 5),
    (101, 2, [1] * 2 + [2] * 49 + [1]),
]


@pytest.mark.parametrize(("num_rounds", "every", "sizes"), SIZES)
def test_blocks_end_where_evaluations_are_due(num_rounds, every, sizes):
    schedule = Schedule(num_rounds, every)
    assert schedule.block_sizes == sizes
    assert list(schedule.blocks()) == list(zip(_starts(sizes), sizes, strict=True))
    ends = {first + size for first, size in schedule.blocks()}
    assert {done for done in range(1, num_rounds + 1) if schedule.is_evaluation_due(done)} <= ends


def _starts(sizes):
    return [sum(sizes[:index]) for index in range(len(sizes))]


@pytest.mark.parametrize("done", [0, 2, 10, 30, 125])
def test_blocks_that_are_left_are_those_of_an_unbroken_training(done):
    schedule = Schedule(125, 20)
    assert list(schedule.blocks(done=done)) == [block for block in schedule.blocks() if block[0] >= done]


def test_training_that_goes_on_with_other_blocks_first_does_the_rest_of_one():
    assert list(Schedule(120, 10).blocks(done=93)) == [(93, 7), (100, 10), (110, 10)]


@pytest.mark.parametrize(("num_rounds", "every", "sizes"), SIZES[:2] + SIZES[3:])
def test_further_blocks_are_of_the_usual_size_and_never_end(num_rounds, every, sizes):
    """As for the sweeps of `fcf compare` after its rounds: no further size is compiled."""
    schedule = Schedule(num_rounds, every)
    blocks = list(itertools.islice(schedule.blocks(endless_size=0), len(sizes) + 3))
    expected = [*sizes, *[schedule.block_size] * 3]
    assert schedule.block_size in sizes
    assert blocks == list(zip(_starts(expected), expected, strict=True))


def test_without_rounds_further_blocks_have_the_size_asked_for():
    blocks = Schedule(0, 10).blocks(done=20, endless_size=10)
    assert list(itertools.islice(blocks, 2)) == [(20, 10), (30, 10)]


def test_reports_are_a_stretch_between_evaluations():
    assert list(Schedule(7, 3).reports) == [(0, 3), (3, 3), (6, 1)]


@pytest.mark.parametrize(
    ("num_rounds", "every", "due"),
    [
        (7, 3, [0, 1, 2, 3, 6, 7]),
        (30, 10, [0, 1, 2, 5, 10, 20, 30]),
        (60, 1000, [0, 1, 2, 5, 10, 20, 50, 60]),
        (250, 100, [0, 1, 2, 5, 10, 20, 50, 100, 200, 250]),
        (110, 49, [0, 1, 2, 5, 14, 21, 49, 98, 110]),
        (0, 10, [0]),
    ],
)
def test_evaluations_are_due_where_the_curve_bends_then_at_every_so_many_rounds(num_rounds, every, due):
    schedule = Schedule(num_rounds, every)
    assert [done for done in range(num_rounds + 1) if schedule.is_evaluation_due(done)] == due


def test_evaluations_of_a_long_training_are_hardly_more_than_one_in_every_so_many_rounds():
    for every in (10, 100, 1000):
        schedule = Schedule(10_000, every)
        due = sum(schedule.is_evaluation_due(done) for done in range(10_001))
        assert due <= 10_000 // every + 3 * len(str(every))


@pytest.mark.parametrize(
    ("num_rounds", "every", "due"),
    [
        (10, None, [4, 8, 10, 12, 16, 20, 24]),
        (10, 9, [9, 10, 18]),
        (110, 30, [32, 60, 92, 110, 122]),
        (110, 1000, [110]),
    ],
)
def test_checkpoints_are_due_in_the_first_block_to_reach_them_and_at_the_end(num_rounds, every, due):
    """Also after the rounds, where a comparison only runs sweeps."""
    schedule = Schedule(num_rounds, 4, every)
    blocks = itertools.takewhile(lambda block: sum(block) <= num_rounds + 14, schedule.blocks(endless_size=0))
    assert [first + size for first, size in blocks if schedule.is_checkpoint_due(first + size, size)] == due


def test_seconds_per_round_leave_out_what_compiles_in_each_process():
    schedule = Schedule(num_rounds=5, evaluate_every=5)

    def median(seconds, starts):
        records = [{"kind": "round", "round": i, "seconds": one} for i, one in enumerate(seconds)]
        return seconds_per_round(Training(5, None, records, starts, None), schedule)

    assert median([9.0, 1.0, 3.0, 2.0, 1.0], []) == 1.5
    assert median([9.0, 1.0, 8.0, 2.0, 2.0], [2]) == 2.0  # another process took over at round 2
    assert median([9.0, 8.0], [1]) == 8.5  # nothing else is known


def test_divergence_is_found_at_its_first_round():
    assert find_divergence([1.0, 9.0]) is None
    assert find_divergence([1.0, 2.0, 11.0, 12.0]).round == 2
    assert find_divergence([1.0, float("nan")]).round == 1
    assert find_divergence([1.0, 11.0, 0.9], is_guarded=True) is None
    assert find_divergence([1.0, 11.0, 12.0], is_guarded=True).round == 2
