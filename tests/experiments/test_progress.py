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


def test_time_left_leaves_out_what_compiles_later_and_lines_not_worth_keeping(clock, line, capsys):
    line.compiling("round")
    for done, now in ((1, 90.0), (2, 91.0), (10, 99.0)):
        clock["now"] = now
        line.show("round", done, 40, "fine", is_kept=done != 2)
    line.compiling("round")
    for done, now in ((20, 200.0), (30, 220.0)):
        clock["now"] = now
        line.show("round", done, 40, "fine")
    assert capsys.readouterr().out.splitlines() == [
        "round 1/40  fine",
        "round 10/40  30 s left  fine",
        "round 20/40  fine",
        "round 30/40  20 s left  fine",
    ]


def test_terminal_reads_compiling_until_the_first_round_is_done():
    console = Console(width=80, force_terminal=True, record=True)
    with ProgressLine(console) as line:
        line.compiling("round")
        line._live.refresh()
        assert "round  compiling ..." in console.export_text()
        line.show("round", 1, 30, "loss 3")
        line._live.refresh()
        shown = console.export_text()
        assert "round 1/30  loss 3" in shown and "compiling" not in shown
