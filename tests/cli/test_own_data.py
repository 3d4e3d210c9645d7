"""Data in place of a config: every command takes them, and says what was taken and what was left out."""

import gzip
from pathlib import Path

import pytest

from fcf_jax import cli
from fcf_jax.experiments.config.load import load_config

EXPLICIT = ["data.feedback=explicit", "data.strengths=keep", "model.unobserved_weight=0"]
PLAYS = "Customer-ID,Track,Plays,When\n" + "".join(
    f"c{user},t{item},{(user + item) % 4},2020-01-{item + 1:02d}\n" for user in range(6) for item in range(8)
)


@pytest.fixture
def plays(tmp_path):
    path = tmp_path / "plays.csv"
    path.write_text(PLAYS)
    return path


def preview(capsys, *arguments):
    """Return what `fcf data preview` prints, with every run of blanks as one."""
    assert cli.main(["data", "preview", *map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fcf: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("command", "what", "folder_name"),
    [
        ("run", "run.run_experiment", "plays-2"),
        ("compare", "compare.comparison.run_comparison", "plays-compare-2"),
        ("tune", "tune.tuning.run_tuning", "plays-tune-2"),
        ("audit", "audit.auditing.run_audit", "plays-audit-2"),
    ],
)
def test_every_command_says_what_was_taken_before_it_works(
    tmp_path, monkeypatch, capsys, command, what, folder_name
):
    def idle(*unused, **unused_too):
        raise OSError(5, "before the work")  # docs/own-data.md trains

    monkeypatch.setattr(f"fcf_jax.experiments.{what}", idle)
    monkeypatch.chdir(tmp_path)
    Path("plays.csv.gz").write_bytes(gzip.compress(PLAYS.encode()))
    assert cli.main([command, "plays.csv.gz"]) != 0
    said, _, rest = capsys.readouterr().out.partition("\n")
    assert said.startswith("users = Customer-ID, items = Track, strengths = Plays (binary), times = When")
    assert "12 zeros dropped" in said
    assert "Warning: 12 of 48 pairs were dropped as zeros (25%)" in rest
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith(folder_name)  # and the time
    assert str(tmp_path / "plays.csv.gz") in (folder / "config.toml").read_text()


@pytest.mark.parametrize("command", ["run", "compare", "tune", "audit"])
def test_every_command_reads_a_table_in_place_of_a_config(command, tmp_path, capsys):
    path = tmp_path / "broken.csv"
    path.write_text("user,item,rating\n1,2,3\n1,3,many\n")
    out = tmp_path / "out"
    assert f"{path}:3: expected a finite number" in refused(capsys, command, path, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.dat", "u.data", "a.jsonl", "a.parquet", "a.csv.gz", "a", "d/"]
)
def test_data_of_every_kind_take_the_config_for_own_data(name, tmp_path):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"1,2,3\n")
    data = load_config(str(path)).data
    assert (data.path, data.source) == (str(path), "file")
    assert (data.layout, data.user_column, data.strengths) == ("auto", None, "binary")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.xlsx", b"PK", "save the sheet as CSV"),
        ("a.pkl", b"\x80\x04", "save it as Parquet"),
        ("a.yaml", b"data:\n  path: x\n", "as TOML"),
        ("a.tar.gz", None, "no such config or data"),
        ("broken.toml", b"[data\n", "expected TOML"),
    ],
)
def test_what_is_neither_config_nor_data_is_refused_with_a_remedy(name, content, expected, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert expected in refused(capsys, "run", tmp_path / name)


def test_a_config_may_have_any_name(tmp_path):
    (tmp_path / "settings").write_text("[model]\nalpha = 7.5\n")
    assert load_config(str(tmp_path / "settings")).model.alpha == 7.5


def test_folder_of_a_run_is_no_data(tmp_path, capsys):
    for name in ("config.toml", "environment.json"):
        (tmp_path / name).write_text("")
    assert "--resume --out" in refused(capsys, "run", tmp_path)


def test_shipped_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "movielens-1m").mkdir()
    assert load_config("movielens-1m").data.name == "ml-1m"


def test_preview_shows_columns_rows_and_counts(plays, capsys):
    shown = preview(capsys, plays)
    for expected in (
        "48 rows",
        "users = Customer-ID",
        "c0 │ t1 │ 1 │ 2020-01-02",
        "users │ 6",
        "interactions │ 36",
    ):
        assert expected in shown
    assert not list(plays.parent.glob("runs"))


def test_preview_names_the_first_line_that_stops_a_run(plays, capsys):
    plays.write_text(PLAYS + "c9,t1,many,2020-01-01\nc9,t2,1\n")
    shown = preview(capsys, plays)
    assert "2 lines skipped" in shown and "plays.csv:50: expected a finite number" in shown


def test_preview_of_lines_of_which_none_can_be_read_names_the_first(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("user,item,rating\n1,2,many\n1,3,few\n")
    assert f"{path}:2: expected a finite number" in refused(capsys, "data", "preview", path)


def test_preview_of_what_the_filter_empties_still_shows_the_rows(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("user,item\nann,x\nbob,x\n")
    shown = preview(capsys, path)
    assert "ann │ x" in shown and "the filter leaves nothing" in shown
    error = refused(capsys, "run", path, "--out", tmp_path / "out")
    assert "after filtering 2 users and 1 item;" in error and "data.min_user_interactions (now 2)" in error


def test_preview_of_columns_by_order_says_how_to_turn_them_round(tmp_path, capsys):
    path = tmp_path / "beauty.csv"
    path.write_text("B00004U9V2,A3LCS4FTZHJ4U0,5.0,1418860800\nB00004U9V3,A3LCS4FTZHJ4U0,5.0,1418860801\n")
    shown = preview(capsys, path)
    assert "users = column 1, items = column 0, strengths = column 2 (binary), times = column 3" in shown
    assert "column 0 holds item numbers of Amazon" in shown
    assert "--set data.user_column=0 --set data.item_column=1" in shown
    turned = preview(
        capsys, path, "--set", "data.user_column=0", "--set", "data.item_column=1",
        "--set", "data.min_user_interactions=1",
    )  # fmt: skip
    assert "users = column 0, items = column 1" in turned


@pytest.mark.parametrize(
    ("content", "sets", "expected"),
    [
        (
            "user,item,n\n" * 0 + PLAYS + "c1,t9,-1,\n" * 9,
            ["data.on_bad_line=skip"],
            "9 of 57 lines were skipped",
        ),
        ("user,item\na,x\na,y\nb,x\n", [], "1 of 2 users were filtered out (50%)"),
        (
            "user,item\na,x\na,y\nb,x\n",
            ["data.min_item_interactions=2", "data.min_user_interactions=1"],
            "1 of 2 items were filtered out (50%); they have fewer than 2 interactions",
        ),
        ("user,item\na,x\na,y\nb,z\n", [], "1 of 3 items were filtered out (33%); each user of theirs"),
        (
            "user,item,rating\na,x,-1\na,y,4\n",
            ['data.strength_values={-1="seen"}', "data.min_user_interactions=1", *EXPLICIT],
            "1 of 2 rows were left out",
        ),
    ],
)
def test_more_than_a_tenth_left_out_is_a_warning(content, sets, expected, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text(content)
    shown = preview(capsys, path, *(part for one in sets for part in ("--set", one)))
    assert "Warning: " in shown and expected in shown


def test_little_left_out_is_said_without_a_warning(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text(PLAYS.replace(",0,", ",1,") + "c1,t2,0,2020-01-01\nc1,t9,-1,2020-01-01\n")
    shown = preview(capsys, path, "--set", "data.on_bad_line=skip")
    assert "1 line skipped, 1 duplicate merged" in shown and "Warning" not in shown


def test_explicit_feedback_of_seen_and_rated(tmp_path, capsys):
    path = tmp_path / "rating.csv"
    path.write_text("user_id,anime_id,rating\n1,20,-1\n1,24,9\n1,25,8\n3,20,8\n3,24,7\n")
    assert "1 seen but not rated, taken as strength 1" in preview(capsys, path)
    assert "1 seen but not rated, left out" in preview(
        capsys, path, *(part for one in EXPLICIT for part in ("--set", one))
    )


def test_strengths_of_events_are_configured(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("visitorid,event,itemid\n1,view,5\n1,buy,6\n")
    assert "│ from 1 to 4, median 2.5" in preview(capsys, path)
    values = "data.strength_values={view=0.5, buy=10}"
    assert "│ from 0.5 to 10, median 5.25" in preview(capsys, path, "--set", values)
    assert cli.main(["config", "--set", values, "--explain"]) == 0
    assert 'strength_values = {"view" = 0.5, "buy" = 10.0}' in capsys.readouterr().out
    assert "data.strength_values" in refused(capsys, "run", path, "--set", "data.strength_values={view=-1}")


def test_nothing_of_a_header_or_an_id_reaches_the_terminal(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("\x1b[31muser,item\n\x1b[2Jann,x\n\x1b[2Jann,y\n")
    shown = preview(capsys, path, "--set", "data.user_column=0")
    assert "\x1b" not in shown and "\\x1b[2Jann" in shown


def test_published_split_says_what_was_taken_and_left_out(tmp_path, monkeypatch, capsys):
    def idle(*unused, **unused_too):
        raise OSError(5, "before the work")

    monkeypatch.setattr("fcf_jax.experiments.run.run_experiment", idle)
    (tmp_path / "data1.txt").write_text("1\t1\t3\n1\t2\t0\n2\t1\t2\n2\t2\t2\n")
    (tmp_path / "test1.txt").write_text("1\t3\t1\n2\t3\t1\n")
    arguments = ["run", str(tmp_path), "--set", "model.num_factors=2", "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--set", "data.split=published"]) == 1
    shown = capsys.readouterr().out
    assert "layout lastfm-lightgcn, 1 zero dropped" in shown
    assert "published split: training set data1.txt, test set test1.txt" in shown
    assert "Warning: 1 of 6 pairs were dropped as zeros (17%)" in shown
    assert "joined and split anew" in preview(capsys, tmp_path)
