"""The schedule of blocks, evaluations and checkpoints; times of rounds; divergence."""

import itertools

import pytest

from fcf_jax.experiments.loop import Schedule, Training, find_divergence, seconds_per_round

SIZES = [(30, 10, [10] * 3), (10, 10, [2] * 5), (7, 2, [2, 2, 2, 1]), (1, 10, [1]), (0, 10, [])]


@pytest.mark.parametrize(("num_rounds", "every", "sizes"), SIZES)
def test_blocks_end_where_evaluations_are_due(num_rounds, every, sizes):
    schedule = Schedule(num_rounds, every)
    assert schedule.block_sizes == sizes
    assert list(schedule.blocks()) == list(zip(_starts(sizes), sizes, strict=True))
    ends = {first + size for first, size in schedule.blocks()}
    assert {done for done in range(1, num_rounds + 1) if schedule.is_evaluation_due(done)} <= ends


def _starts(sizes):
    return [sum(sizes[:index]) for index in range(len(sizes))]


@pytest.mark.parametrize("done", [0, 2, 4, 6, 7])
def test_blocks_that_are_left_are_those_of_an_unbroken_training(done):
    schedule = Schedule(7, 2)
    assert list(schedule.blocks(done=done)) == [block for block in schedule.blocks() if block[0] >= done]


@pytest.mark.parametrize(("num_rounds", "every", "sizes"), SIZES[:4])
def test_further_blocks_are_of_the_first_size_and_never_end(num_rounds, every, sizes):
    """As for the sweeps of `fcf compare` after its rounds: no further size is compiled."""
    blocks = list(itertools.islice(Schedule(num_rounds, every).blocks(endless_size=0), len(sizes) + 3))
    expected = [*sizes, *sizes[:1] * 3]
    assert blocks == list(zip(_starts(expected), expected, strict=True))


def test_without_rounds_further_blocks_have_the_size_asked_for():
    blocks = Schedule(0, 10).blocks(done=20, endless_size=10)
    assert list(itertools.islice(blocks, 2)) == [(20, 10), (30, 10)]


def test_reports_are_a_stretch_between_evaluations():
    assert list(Schedule(7, 3).reports) == [(0, 3), (3, 3), (6, 1)]


def test_evaluations_are_due_at_every_so_many_rounds_and_at_the_end():
    assert [done for done in range(1, 8) if Schedule(7, 3).is_evaluation_due(done)] == [3, 6, 7]


@pytest.mark.parametrize(
    ("every", "due"),
    [(None, [4, 8, 10, 12, 16]), (3, [4, 6, 10, 12, 16]), (5, [6, 10, 16]), (100, [10])],
)
def test_checkpoints_are_due_in_the_first_block_to_reach_them_and_at_the_end(every, due):
    """Also after the rounds, where a comparison only runs sweeps."""
    schedule = Schedule(10, 4, every)
    blocks = itertools.takewhile(lambda block: sum(block) <= 16, schedule.blocks(endless_size=0))
    assert [first + size for first, size in blocks if schedule.is_checkpoint_due(first + size, size)] == due


def test_seconds_per_round_leave_out_what_compiles_in_each_process():
    schedule = Schedule(num_rounds=25, evaluate_every=5)  # blocks of 5

    def median(seconds, starts):
        records = [{"kind": "round", "round": i, "seconds": seconds[i // 5]} for i in range(5 * len(seconds))]
        return seconds_per_round(Training(25, None, records, starts, None), schedule)

    assert median([9.0, 1.0, 3.0, 2.0, 1.0], []) == 1.5
    assert median([9.0, 1.0, 8.0, 2.0, 2.0], [10]) == 2.0  # another process took over at round 10
    assert median([9.0, 8.0], [5]) == 8.5  # nothing else is known


def test_divergence_is_found_at_its_first_round():
    assert find_divergence([1.0, 9.0]) is None
    assert find_divergence([1.0, 2.0, 11.0, 12.0]).round == 2
    assert find_divergence([1.0, float("nan")]).round == 1
    assert find_divergence([1.0, 11.0, 0.9], is_guarded=True) is None
    assert find_divergence([1.0, 11.0, 12.0], is_guarded=True).round == 2
