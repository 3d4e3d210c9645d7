"""Text that a terminal would obey, and output that nobody reads."""

import os
import sys

from rich.table import Table

from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.progress import ProgressLine

HOSTILE = "\x1b[2J\x1b]0;title\u202e\udcff\x9b1m"
SPELLED = r"\x1b[2J\x1b]0;title\u202e\udcff\x9b1m"


def test_control_characters_of_the_data_are_spelled_out(capsys):
    table = Table("item", title=HOSTILE)
    table.add_row(f"[bold]{HOSTILE}[/nothing] :smile:")
    console = new_console()
    console.width = 120
    console.print(table)
    with ProgressLine(console) as progress:
        progress.say(HOSTILE)
    say(f"{HOSTILE}\tand\n{HOSTILE}")
    printed = capsys.readouterr().out
    assert printed.count(SPELLED) == 5 and f"[bold]{SPELLED}[/nothing] :smile:" in printed
    assert not {character for character in HOSTILE if not character.isprintable()} & set(printed)


def test_output_that_nobody_reads_is_lost_with_a_word(monkeypatch, capsys):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with ProgressLine(new_console()) as progress:
            for _ in range(3):
                progress.say("round")
        say("written")  # into nothing
    printed = capsys.readouterr().err
    assert printed == "fcf: the output is lost (Broken pipe); going on without it\n"
