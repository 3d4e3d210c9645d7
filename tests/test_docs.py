"""The pages of docs/ do what they say: their code runs in order, and prints what they show.

On a page, ```python runs in one namespace; in ```bash, lines that begin with `fcf ` run through the command
line; a ```text after either is what it prints, fractions to a hundredth. ```console is an illustration.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.data import simulate_taste

pytestmark = pytest.mark.usefixtures("all_undrawn")

DOCS = Path(__file__).parents[1] / "docs"
# what is compiled for one page helps the next
GROUPS = [
    ("paper", "own-data", "trained-run"),
    ("metrics", "cold-start", "channel"),
    ("pipeline", "server-step", "objectives", "tuning", "privacy"),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRACTION = re.compile(r"[-+]?\d+\.\d*(?:e[-+]?\d+)?")


class Fence(NamedTuple):
    kind: str
    content: str
    line: int


def fences_of(page):
    text = page.read_text()
    return [Fence(one[1], one[2], text.count("\n", 0, one.start()) + 1) for one in FENCE.finditer(text)]


def commands_of(content):
    lines = content.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fcf ")]


def check_output(printed, shown, place):
    """Every word and whole number as shown, every fraction within a hundredth: machines round differently."""
    words = [FRACTION.sub("#", text).split() for text in (printed, shown)]
    assert words[0] == words[1], f"{place} printed\n{printed}"
    numbers = [np.array(FRACTION.findall(text), float) for text in (printed, shown)]
    np.testing.assert_allclose(*numbers, rtol=1e-2, atol=2e-3, err_msg=f"{place} printed\n{printed}")


@pytest.mark.parametrize("stems", GROUPS, ids=" and ".join)
def test_pages_run_and_print_what_they_show(stems, tmp_path, monkeypatch, capsys):
    for stem in stems:
        monkeypatch.chdir(tmp_path)
        follow(DOCS / f"{stem}.md", capsys)


def follow(page, capsys):
    namespace, printed = {"__name__": page.stem}, ""
    for fence in fences_of(page):
        place = f"{page.name}:{fence.line}"
        if fence.kind == "text":
            check_output(printed, fence.content, place)
            continue
        if fence.kind == "python":
            code = "\n" * fence.line + fence.content  # so that a traceback names the line of the page
            exec(compile(code, str(page), "exec"), namespace)
        elif fence.kind == "bash":
            for command in commands_of(fence.content):
                assert cli.main(command) == 0, f"{place}: {command}\n{capsys.readouterr().err}"
        else:
            assert fence.kind == "console", f"{place}: {fence.kind}"
        printed = capsys.readouterr().out


def test_code_of_the_readme_runs(tmp_path, capsys):
    """On a table of its own in place of MovieLens, with few factors."""
    plays = simulate_taste(num_users=60, num_items=40, mean_history=8, seed=0)
    rows = zip(plays.user_ids, plays.item_ids, plays.strengths, strict=True)
    table = tmp_path / "plays.csv"
    table.write_text("user,item,rating\n" + "".join(f"{user},{item},{count}\n" for user, item, count in rows))
    namespace = {"user_items": plays.to_scipy(), "userid": [1, 2]}
    blocks = [fence for fence in fences_of(DOCS.parent / "README.md") if fence.kind == "python"]
    for fence in blocks:
        code = fence.content.replace("path/to/ml-1m", str(table))
        exec(code.replace("num_factors=25", "num_factors=3"), namespace)
    assert len(blocks) == 2 and "ndcg_at_10" in capsys.readouterr().out
    assert namespace["ids"].shape == (2, 10)


TOY = [
    "data.num_users=60", "data.num_items=60", "data.mean_history=8", "model.num_factors=3",
    "federation.num_rounds=2", "evaluation.every=2", "evaluation.baseline=false",
    "privacy.min_cohort=2",
]  # fmt: skip
TOY_USERS = ["data.min_strength=1", "data.test_users=5", "data.validation_users=5"]
SLOW = {"compare", "sweep", "tune", "audit"}  # they have tests of their own


@pytest.fixture
def toy_sets(tmp_path, monkeypatch):
    """A folder with own data, and a cache with data sets of the right form and a toy's size."""
    plays = simulate_taste(num_users=60, num_items=60, mean_history=8, seed=0)
    rows = list(zip(plays.user_ids + 1, plays.item_ids + 1, plays.strengths.astype(int), strict=True))
    for path, separator in (("ml-1m/ratings.dat", "::"), ("ml-100k/u.data", "\t"), ("my.csv", ",")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        lines = [separator.join(map(str, (*row, 978300760))) for row in rows]
        (tmp_path / path).write_text("\n".join(lines) + "\n")
    (tmp_path / "ml-1m.test.negative").write_text("(0,0)\t7\t8\t9\n")  # the first user's first item
    for part, chosen in (("train.txt", rows[::2]), ("test.txt", rows[1::2])):
        (tmp_path / part).write_text("".join(f"{user} {item}\n" for user, item, _ in chosen))
    monkeypatch.setenv("FCF_JAX_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_commands_of_the_readme_run(toy_sets, capsys):
    """In order, on toy data. Slow commands, and runs on several devices (test_resume), are only resolved."""
    commands = commands_on(DOCS.parent / "README.md")
    assert len(commands) >= 15
    for command in commands:
        settings = [] if "--resume" in command else TOY + TOY_USERS * ("movielens-1m-strong" in command)
        toy = [part for one in settings for part in ("--set", one)]
        if command[0] in SLOW or "parallel." in " ".join(command):
            without_folder = [one for one in command[1:] if one != "--out" and not one.startswith("runs/")]
            first = [one.partition(",")[0] for one in without_folder]  # of the values of --vary
            command = ["config", *("--set" if one == "--vary" else one for one in first)]
        elif command[0] == "run":
            command = [*command, *toy]
        assert cli.main(command) == 0, f"{command}\n{capsys.readouterr().err}"
    assert "ndcg_at_10" in capsys.readouterr().out


def commands_on(page):
    return [one for fence in fences_of(page) if fence.kind == "bash" for one in commands_of(fence.content)]


def test_every_page_is_followed_and_shows_its_output():
    by_scripts = {"api", "accuracy"}
    written = sorted(page.stem for page in DOCS.glob("*.md") if page.stem not in by_scripts)
    assert sorted(sum(GROUPS, ())) == written
    for stem in sum(GROUPS, ()):
        kinds = [fence.kind for fence in fences_of(DOCS / f"{stem}.md")]
        assert "text" in kinds
        assert all(before in ("python", "bash") for before, kind in pairwise(kinds) if kind == "text")


def test_a_wrong_output_is_noticed():
    check_output("loss 100.2 after 3 rounds", "loss 100.1 after 3 rounds", "here")
    for wrong in ("loss 103.0 after 3 rounds", "loss 100.2 after 4 rounds", "gain 100.2 after 3 rounds"):
        with pytest.raises(AssertionError):
            check_output(wrong, "loss 100.1 after 3 rounds", "here")
