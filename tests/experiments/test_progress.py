"""The progress line: what a pipe gets to see."""

import pytest
from rich.console import Console

from fcf_jax.experiments.progress import ProgressLine


@pytest.fixture
def clock():
    """The time in seconds, to be set."""
    return {"now": 0.0}


@pytest.fixture
def line(clock):
    with ProgressLine(Console(width=80, get_time=lambda: clock["now"])) as line:
        yield line


def test_time_left_is_that_of_the_rounds_after_the_first_that_compiled(clock, line, capsys):
    for done, now in ((10, 100.0), (20, 102.0), (40, 106.0), (100, 108.0)):
        clock["now"] = now
        line.show("round", done, 100, "fine")
    line.show("ALS sweep", 10, None, "fine")
    assert capsys.readouterr().out.splitlines() == [
        "round 10/100  fine",
        "round 20/100  16 s left  fine",
        "round 40/100  12 s left  fine",
        "round 100/100  fine",
        "ALS sweep 10  fine",
    ]


def test_time_left_of_slow_rounds(clock, line, capsys):
    for done, now in ((0, 0.0), (1, 600.0), (2, 1200.0)):
        clock["now"] = now
        line.show("round", done, 4, "fine")
    assert capsys.readouterr().out.splitlines() == [
        "round 0/4  fine",
        "round 1/4  30 min left  fine",
        "round 2/4  20 min left  fine",
    ]
