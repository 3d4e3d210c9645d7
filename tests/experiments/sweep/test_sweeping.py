"""A sweep through the command line: its numbers, its programs, its files, and resuming it."""

import contextlib
import itertools
import json

import jax
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fcf_jax import cli
from fcf_jax.data import simulate_taste
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.server_steps import SERVER_STEPS
from fcf_jax.experiments.errors import StoppedError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.store.run_directory import RUNS
from fcf_jax.experiments.sweep.outcome import document_of
from fcf_jax.experiments.sweep.plan import axes_of, combinations_of
from fcf_jax.experiments.sweep.runs import prepare, server_numbers
from fcf_jax.experiments.sweep.training import train_all

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "parallel.devices=1", "evaluation.every=20", "evaluation.baseline=false",
]  # fmt: skip
OF_FILE = [one for one in TINY if not one.startswith("data.")]
OF_FILE += ["server.step=adam", "federation.num_rounds=3", "devices.dropout=0.2", "devices.bandwidth=1e5"]
OF_FILE += ["attack.kind=explicit_boosting", "attack.share=0.05"]
NOISE = ["privacy.mode=central_noise", "server.step=gram"]
DEVICES = ["federation.cohort_size=10", "server.step=adam", "devices.bandwidth=1e5"]


def words(option, texts):
    return [word for text in texts for word in (option, text)]


def prepared(*vary, overrides=TINY, source=None, seeds=1):
    base = load_config(source, overrides)
    return prepare(combinations_of(source, overrides, axes_of(list(vary), seeds, base)))


def train(ready, folder, *, num_blocks=None):
    """Train all runs; stop after some blocks of rounds."""
    folder.mkdir(exist_ok=True)
    blocks = itertools.count(1)
    stop = contextlib.nullcontext(lambda: num_blocks is not None and next(blocks) >= num_blocks)
    return train_all(ready, folder, ProgressLine(Console(), quiet=True), stop=stop)


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Interactions whose splits have the same shapes."""
    path = tmp_path_factory.mktemp("data") / "plays.csv"
    found = simulate_taste(num_users=60, num_items=30, mean_history=8, seed=0)
    columns = {"user": found.user_ids, "item": found.item_ids, "strength": found.strengths}
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_file):
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    sets = words("--set", [*OF_FILE, f"data.path={data_file}"])
    varied = ["--vary", "server.learning_rate=0.1,1e9", "--seeds", "2"]
    assert cli.main(["sweep", "own-csv", *sets, *varied, "--out", str(folder)]) == 0
    return folder


@pytest.mark.usefixtures("undrawn")
def test_same_numbers_as_a_run_of_its_own(finished, data_file, tmp_path):
    rows = pd.read_csv(finished / "sweep.csv")
    sets = [*OF_FILE, f"data.path={data_file}"]
    sets += ["server.learning_rate=0.1", "federation.seed=1", "data.seed=1"]
    assert cli.main(["run", "own-csv", *words("--set", sets), "--quiet", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    row = rows[(rows["server.learning_rate"] == 0.1) & (rows["data.seed"] == 1)].iloc[0]
    for name, value in summary["federated"].items():
        assert row[name] == pytest.approx(value, rel=1e-5), name  # float32
    assert row["popularity"] == pytest.approx(summary["popularity"]["map_at_10"])
    assert row["er_at_10"] == pytest.approx(summary["attack"]["er_at_10"])
    assert row["honest_map_at_10"] == pytest.approx(summary["attack"]["honest"]["map_at_10"])
    for name in ("payload_bytes_up", "num_uploads", "virtual_seconds"):
        assert row[name] == summary[name]


def test_a_run_that_diverges_is_a_row_that_says_so(finished):
    document = json.loads((finished / "sweep.json").read_text())
    good, bad = document["configurations"]
    assert (good["values"], bad["values"]) == ({"server.learning_rate": 0.1}, {"server.learning_rate": 1e9})
    assert bad["num_failed"] == 2 and bad["failures"][0].startswith("diverged in round 1")
    assert good["is_non_dominated"] and not bad["is_non_dominated"]
    assert document["cautions"][0].startswith("2 of 4 runs diverged")
    assert (document["num_runs"], document["num_programs"]) == (4, 1)


def test_files_tables_and_report(finished, capsys):
    assert {path.name for path in finished.iterdir()} >= {
        "config.toml", "varied.json", "runs.jsonl", "sweep.json", "sweep.csv", "pareto.png", "pareto.svg",
        "report.html", "environment.json",
    }  # fmt: skip
    assert len(pd.read_csv(finished / "sweep.csv")) == 4
    (finished / "report.html").unlink()
    assert cli.main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    assert "learning_rate 0.1 has the best MAP@10" in page and "<svg" in page
    capsys.readouterr()
    assert cli.main(["sweep", "--resume", "--out", str(finished)]) == 0
    assert "nothing left to do" in capsys.readouterr().out


@pytest.fixture(scope="module")
def two_blocks(data_file):
    """Runs of two blocks each, whose program is that of `finished`."""
    longer = [
        "federation.num_rounds=12" if one.startswith("federation.num_rounds") else one for one in OF_FILE
    ]
    overrides = [*longer, f"data.path={data_file}"]
    return prepared("server.learning_rate=0.1,0.2", overrides=overrides, source="own-csv", seeds=2)


@pytest.fixture(scope="module")
def unbroken(finished, two_blocks, tmp_path_factory):
    return train(two_blocks, tmp_path_factory.mktemp("sweeps") / "unbroken")[0]


def test_a_resumed_sweep_has_the_same_records(two_blocks, unbroken, tmp_path):
    broken = tmp_path / "broken"
    for num_blocks, num_done in ((3, 1), (1, 1), (2, 2)):  # inside a run, at its end, inside the next
        with pytest.raises(StoppedError, match=f"after {num_done} of 4 runs"):
            train(two_blocks, broken, num_blocks=num_blocks)
        assert len(RUNS.read(broken)) == num_done
        assert list((broken / "checkpoints").glob("*.npz"))
    with (broken / "runs.jsonl").open("a") as file:
        file.write('{"run": 1, "stat')  # by a process that was killed
    assert train(two_blocks, broken)[0] == unbroken
    assert not (broken / "checkpoints").exists()


def test_other_numbers_of_a_sweep_compile_nothing(two_blocks, unbroken, tmp_path, num_compiled):
    others = ["federation.num_rounds=5", "model.alpha=2"]
    overrides = [one for one in OF_FILE if not one.startswith("federation.num_rounds")] + others
    path = two_blocks.groups[0].runs[0].problem.config.data.path
    ready = prepared(
        "server.learning_rate=0.3,0.4,0.5",
        overrides=[*overrides, f"data.path={path}"],
        source="own-csv",
        seeds=2,
    )
    before = num_compiled()
    train(ready, tmp_path / "others")
    assert num_compiled() - before == 0


@pytest.mark.parametrize(
    ("vary", "num_groups"),
    [
        (["model.alpha=1,4", "model.regularization=1,2", "server.initial_damping=1,2"], 1),
        (["federation.seed=0,1", "federation.num_rounds=2,5", "channel.form=dense,own_rows"], 1),
        (["model.init_scale=0.1,0.2", "model.unobserved_weight=1,0.5"], 1),
        (["server.confidence_factor=0,0.5"], 2),  # 0 may be another algorithm
        (["federation.cohort_size=10,20", "server.step=adam,sgd", "server.learning_rate=0.1,0.2"], 4),
        ([*DEVICES, "devices.dropout=0.1,0.2", "devices.deadline_seconds=1,2", "federation.seed=0,1"], 1),
        ([*DEVICES, "devices.concurrency=12", "federation.seed=0,1,2"], 1),
        (["channel.item_share=0.5", "server.step=adam", "model.alpha=1,4", "federation.seed=0,1"], 1),
        (["channel.form=own_rows", "channel.upload_bits=4,8", "channel.rounding=random,nearest"], 2),
        (["model.biases=false,true", "model.alpha=1,4"], 2),
        ([*NOISE, "privacy.noise_multiplier=1,2", "privacy.clip_norm=1,2", "privacy.seed=0,1"], 1),
        ([*NOISE, "privacy.noise_multiplier=1", "privacy.clipping=static,adaptive"], 2),
    ],
)
def test_runs_are_grouped_into_as_few_programs_as_can_be(vary, num_groups):
    ready = prepared(*vary)
    assert len(ready.groups) == num_groups
    assert sorted(run.number for group in ready.groups for run in group.runs) == [
        one.number for one in ready.combinations
    ]


def test_private_runs_draw_their_own_noise_and_their_epsilons_add_up():
    noise = [*NOISE, "privacy.noise_multiplier=30", "federation.num_rounds=3"]
    ready = prepared("model.alpha=1,4,8", overrides=[*TINY, *noise])
    keys = [jax.random.key_data(run.round_key).tolist() for run in ready.groups[0].runs]
    assert len({tuple(key) for key in keys}) == 3
    records = [
        {"run": run, "status": "finished", "reason": "", "metrics": {"map_at_10": 0.1 + run}}
        for run in range(3)
    ]
    (caution,) = document_of(ready, records, num_programs=1, seconds=0.0)["cautions"]
    assert caution.startswith("3 runs with noise are about the same users")
    protection = ready.groups[0].runs[0].problem.protection
    assert protection is not None and (alone := protection.epsilon) is not None
    together = float(caution.partition("spend epsilon ")[2].split()[0])
    assert alone < together < 3 * alone


@pytest.mark.parametrize("step", SERVER_STEPS)
def test_every_number_of_a_server_step_may_be_traced(step):
    decay = "cosine" if SERVER_STEPS[step].has_schedule else "constant"
    ready = prepared("model.alpha=1,2", overrides=[*TINY, f"server.step={step}", f"server.decay={decay}"])
    problem, clients = ready.groups[0].runs[0].problem, ready.packed[0].clients
    numbers = server_numbers(problem.config.server)

    def one_round(numbers):
        optimizer = problem.config.server.model_copy(update=numbers).optimizer(5)
        federation = problem.federation(optimizer=optimizer)
        return federation.round(problem.key, federation.init(problem.key), clients)

    state, _ = jax.eval_shape(one_round, {name: np.float32(value) for name, value in numbers.items()})
    assert state.item_factors.shape == (30, 4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--vary", "model.alfa=1,2"], "unknown key model.alfa; did you mean model.alpha?"),
        ([], "--vary: expected at least one key"),
        (["--vary", "server.step=adam,gram", "--set", "federation.cohort_size=10000"], "cohort_size"),
        (["--seeds", "0"], "--seeds"),
        (["--vary", "model.alpha=1,2", "--set", "parallel.stream=true"], "fcf sweep keeps all clients"),
        (["--vary", "model.alpha=1,2", "--resume"], "--resume: expected --out"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *words("--set", TINY), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
    assert list(tmp_path.iterdir()) == []
