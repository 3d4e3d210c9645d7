"""What a user may do wrong, through the command line: exit code, one line, nothing written."""

import gzip
import json
import shutil

import numpy as np
import pytest

from fcf_jax import cli

pytestmark = pytest.mark.usefixtures("all_undrawn")

HEADER = "user,item,rating\n"
GOOD = HEADER + "".join(f"{user},{item},1\n" for user in range(6) for item in range(8) if (user + item) % 3)
SHORT = [
    "model.num_factors=3",
    "server.step=adam",
    "federation.num_rounds=3",
    "evaluation.baseline=false",
    "evaluation.every=1",
]
K_5 = "model.num_factors=5"
ARRAYS = ("indptr", "item_ids", "strengths", "user_labels", "item_labels")
GUARDED = "server.step=guarded_gram"


def run(folder, *overrides):
    sets = [part for override in (*SHORT, *overrides) for part in ("--set", override)]
    return cli.main(["run", *sets, "--quiet", "--out", str(folder / "out")])


def write(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"data.path={path}"


def assert_refused(folder, code, capsys, *named):
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("fcf: ")
    assert printed.err.count("\n") == 1
    assert not (folder / "out").exists()
    for word in named:
        assert word in printed.err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "empty"),
        (HEADER, "none"),
        (HEADER + "1,2,nan\n", "table.csv:2"),
        (HEADER + "1,2,inf\n", "table.csv:2"),
        (HEADER + "1,2,-3\n", "table.csv:2"),
        (HEADER + "1,2,1\n1,3,many\n", "table.csv:3"),
        (GOOD + "5,9", "table.csv:"),
        (GOOD + "5,9,2e9\n", "alpha"),
    ],
    ids=["empty", "header only", "NaN", "inf", "negative", "non-numeric", "truncated line", "huge strength"],
)
def test_bad_table_is_refused(tmp_path, capsys, content, named):
    assert_refused(tmp_path, run(tmp_path, write(tmp_path, content)), capsys, named)


def test_truncated_gzip_is_refused(tmp_path, capsys):
    packed = gzip.compress(GOOD.encode())[:-12]
    code = run(tmp_path, write(tmp_path, packed, "table.csv.gz"))
    assert_refused(tmp_path, code, capsys, "table.csv.gz")


def test_missing_path_is_refused(tmp_path, capsys):
    assert_refused(tmp_path, run(tmp_path, "data.path=/nowhere/at/all.csv"), capsys, "/nowhere/at/all.csv")


def test_missing_column_is_refused_with_those_found(tmp_path, capsys):
    code = run(tmp_path, write(tmp_path, GOOD), "data.user_column=customer")
    assert_refused(tmp_path, code, capsys, "customer", "rating")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.num_factors=0", "model.num_factors"),
        ("model.regularization=-1", "model.regularization"),
        (["model.regularization=0", "model.num_factors=12"], "model.regularization"),
        ("federation.cohort_size=7", "at most the 6 users"),
        (["federation.cohort_size=3", GUARDED], "running_sums"),
        ("federation.cohort_size=-1", "federation.cohort_size"),
        ("federation.cohort_size=0", "federation.cohort_size"),
        ("federation.num_rounds=-1", "federation.num_rounds"),
        ("federation.nun_rounds=1", "did you mean federation.num_rounds?"),
        ("model.num_factors=400000000", "bytes"),
        ("data.min_user_interactions=100", "data.min_user_interactions"),
        ("data.split=temporal", "data.timestamp_column"),
        ("data.layout=netflix", "data.layout"),
    ],
)
def test_bad_number_is_refused(tmp_path, capsys, override, named):
    overrides = override if isinstance(override, list) else [override]
    assert_refused(tmp_path, run(tmp_path, write(tmp_path, GOOD), *overrides), capsys, named)


def test_used_output_folder_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    assert run(tmp_path, write(tmp_path, GOOD)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_run_in_the_output_folder_is_refused_with_the_way_to_go_on(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").write_text("")
    assert run(tmp_path, write(tmp_path, GOOD)) == 2
    assert "--resume" in capsys.readouterr().err


def test_output_folder_under_a_file_is_refused(tmp_path, capsys):
    path = write(tmp_path, GOOD)
    code = cli.main(["run", "--set", path, "--quiet", "--out", str(tmp_path / "table.csv" / "out")])
    assert_refused(tmp_path, code, capsys, "table.csv", "one of the folders in it is a file")


@pytest.mark.parametrize("name", ["broken.csv", "./sub/../broken.csv", "{folder}/broken.csv"])
@pytest.mark.parametrize("given", ["{name}", "--set data.path={name}"], ids=["DATA", "data.path"])
def test_errors_name_a_file_as_it_was_given(name, given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    write(tmp_path, HEADER + "1,3,many\n", "broken.csv")
    name = name.format(folder=tmp_path)
    assert cli.main(["run", *given.format(name=name).split(), "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith(f"fcf: {name}:2: expected a finite number")


def test_every_error_of_a_path_has_a_remedy(tmp_path, capsys):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for out in ("circle/out", "n" * 300, "table.csv/out"):
        assert_refused(tmp_path, run(tmp_path / out, write(tmp_path, GOOD)), capsys, "; ")


def test_missing_and_broken_configs_are_refused(tmp_path, capsys):
    code = cli.main(["run", "movielens-9m", "--out", str(tmp_path / "out")])
    assert_refused(tmp_path, code, capsys, "did you mean movielens-1m?")
    (tmp_path / "broken.toml").write_text("[model\n")
    code = cli.main(["run", str(tmp_path / "broken.toml"), "--out", str(tmp_path / "out")])
    assert_refused(tmp_path, code, capsys, "line 1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(folder, write(folder, GOOD)) == 0
    return folder / "out"


@pytest.mark.parametrize("fault", ["NaN", "flipped byte", "no factors"])
def test_damaged_run_is_refused(trained, tmp_path, capsys, fault):
    shutil.copytree(trained, tmp_path / "out")
    factors = tmp_path / "out" / "item_factors.npz"
    if fault == "NaN":
        with np.load(factors) as arrays:
            content = dict(arrays)
        content["item_factors"] = content["item_factors"] * np.nan
        np.savez(factors, **content)
    elif fault == "flipped byte":
        content = bytearray(factors.read_bytes())
        content[200] ^= 0xFF  # inside the numbers: the zip's checksum tells
        factors.write_bytes(content)
    else:
        factors.unlink()
    capsys.readouterr()
    assert cli.main(["recommend", str(tmp_path / "out"), "--user", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "out") in error


@pytest.mark.parametrize(
    ("content", "overrides"),
    [
        (HEADER + "".join(f"1,{item},1\n" for item in range(8)), []),
        (HEADER + "".join(f"{user},1,1\n" for user in range(8)), []),
        (HEADER + "1,1,1\n", []),
        (HEADER + "".join(f"{user},{user % 3},1\n" for user in range(8)), []),
        (HEADER + "".join(f"{user},{item},1\n" for user in range(3) for item in range(4)), [K_5, GUARDED]),
        (GOOD + "".join(f"6,{item},1\n" for item in range(8)), ["data.test_fraction=0"]),
        (GOOD, ["model.regularization=0", "model.alpha=0", GUARDED]),
        (GOOD, ["federation.num_rounds=0"]),
        (GOOD.replace("5,0,1\n", "5,0,9999\n"), ["model.alpha=1e4"]),
        (GOOD + GOOD.removeprefix(HEADER) + "0,5,0\n", []),
    ],
    ids=[
        "one user", "one item", "one interaction", "one-interaction users", "K > users and items",
        "user with all items", "lambda 0 and alpha 0", "no rounds", "alpha r 1e8", "duplicates and a zero",
    ],
)  # fmt: skip
def test_unusual_but_sound_input_runs(tmp_path, capsys, content, overrides):
    assert run(tmp_path, write(tmp_path, content), *overrides) == 0
    assert capsys.readouterr().err == ""
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["federated"]["loss"] is not None  # finite


@pytest.mark.parametrize(
    ("content", "overrides"),
    [
        (GOOD.replace("\n", "\r\n"), []),
        (GOOD.replace(",", "\t"), []),
        ("\ufeff" + GOOD, []),
        (GOOD + "5,9", ["data.on_bad_line=skip"]),
    ],
    ids=["CRLF", "tabs", "BOM", "lenient"],
)
def test_form_of_the_file_leaves_the_data_as_they_are(tmp_path, content, overrides):
    from fcf_jax.experiments.build.dataset import load_dataset
    from fcf_jax.experiments.config.load import load_config

    def load(*options):
        split = load_dataset(load_config(None, [*SHORT, *options])).split
        return [getattr(part, name) for part in (split.train, split.test) for name in ARRAYS]

    expected = load(write(tmp_path, GOOD, "good.csv"))
    for array, one in zip(load(write(tmp_path, content), *overrides), expected, strict=True):
        np.testing.assert_array_equal(array, one)


def test_shuffled_rows_give_the_same_model(trained, tmp_path):
    from fcf_jax.experiments.store.run_directory import read_run

    lines = GOOD.removeprefix(HEADER).splitlines(keepends=True)
    assert run(tmp_path, write(tmp_path, HEADER + "".join(lines[::-1]))) == 0
    first, second = (read_run(folder) for folder in (trained, tmp_path / "out"))
    assert (first.item_factors == second.item_factors).all()
