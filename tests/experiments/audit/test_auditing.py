"""`fcf audit`: figures under each mode, files and exit codes."""

import html
import json

import pytest

from fcf_jax import cli
from fcf_jax.experiments.audit import auditing
from fcf_jax.experiments.audit.bounds import figure_names
from fcf_jax.experiments.config.load import load_config

SMALL = ("data.num_users=60", "data.num_items=40", "data.mean_history=8", "model.num_factors=4")
SETTINGS = {
    "plain": ("server.step=adam",),
    "secure_sum": ("federation.cohort_size=30", "server.step=running_sums"),
    "local_noise": ("server.step=gram", "privacy.noise_multiplier=2"),
    "central_noise": ("server.step=gram", "privacy.noise_multiplier=1"),
}
WRITTEN = {"audit.json", "audit.md", "audit.csv", "leakage.png", "config.toml", "environment.json"}
MONTE_CARLO = 0.003  # three standard errors: 60 users, 1000 draws each with and without


def run(mode, folder, *more):
    """Audit small data; the exit code."""
    settings = (*SMALL, f"privacy.mode={mode}", *SETTINGS[mode])
    sets = [part for one in settings for part in ("--set", one)]
    return cli.main(["audit", *sets, "--out", str(folder), "--quiet", *more])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The run directory of an audit of each mode."""
    root = tmp_path_factory.mktemp("audits")
    for mode in SETTINGS:
        assert run(mode, root / mode) == 0
    return {mode: root / mode for mode in SETTINGS}


@pytest.fixture(scope="module")
def found(folders):
    """The attacks of each audit."""
    documents = {
        mode: json.loads((folder / "audit.json").read_text("utf-8")) for mode, folder in folders.items()
    }
    return {mode: document["attacks"] for mode, document in documents.items()}


def test_plain_upload_gives_everything_away(found):
    attack = found["plain"]["single_upload"]
    for name in ("exact_set_rate", "precision", "recall", "f1", "auc", "strength_rate", "consistent_rate"):
        assert attack[name]["value"] == 1.0, name
    assert attack["strength_error"]["value"] < 1e-3 and attack["cosine"]["value"] > 0.999999


def test_sum_of_thirty_gives_less_away_than_an_upload_and_differences_give_it_all(found):
    attacks = found["secure_sum"]
    assert attacks["cohort_sum"]["recall"]["high"] < 0.5
    assert attacks["cohort_sum"]["fitted_recall"]["value"] <= attacks["cohort_sum"]["recall"]["value"]
    assert attacks["cohort_sum"]["union_recall"]["value"] == 1.0
    assert attacks["differencing"]["exact_set_rate"]["value"] == 1.0


@pytest.mark.parametrize(
    ("mode", "attack", "auc"),
    [
        ("central_noise", "cohort_sum", "auc"),
        ("central_noise", "averaging", "auc"),
        ("local_noise", "single_upload", "in_out_auc"),
        ("local_noise", "averaging", "in_out_auc"),
    ],
)
def test_auc_under_noise_stays_below_its_ceiling(found, mode, attack, auc):
    one = found[mode][attack]
    assert 0.5 < one[auc]["value"] <= one[f"{auc}_ceiling"]["value"] + MONTE_CARLO


def test_items_under_local_noise_stay_below_their_ceiling(found):
    for attack in ("single_upload", "averaging"):
        one = found["local_noise"][attack]
        assert one["auc"]["low"] <= one["auc_ceiling"]["value"]  # 60 users: within its interval
    assert found["local_noise"]["single_upload"]["recall"]["value"] < 0.6


def test_popularity_is_at_chance_across_users(found):
    for attacks in found.values():
        assert attacks["popularity"]["auc"]["value"] == 0.5


def test_audit_json_has_intervals_and_facts(folders):
    for mode, folder in folders.items():
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == WRITTEN
        document = json.loads((folder / "audit.json").read_text("utf-8"))
        assert document["mode"] == mode and document["upload"] == "dense"
        assert set(document["attacks"]) == set(document["knows"])
        for attack in document["attacks"].values():
            for figure in attack.values():
                assert set(figure) == {"value", "low", "high"}
                ends = [figure[end] for end in ("low", "value", "high")]
                assert None in ends or ends[0] - 1e-12 <= ends[1] <= ends[2] + 1e-12
        facts = document["facts"]
        assert (facts["num_users"], facts["num_factors"], facts["rounds_trained_before"]) == (60, 4, 10)
        assert facts["cohort_size"] == (30 if mode == "secure_sum" else 60)
        shown = (folder / "audit.md").read_text("utf-8")
        assert document["verdict"] in shown and set(document["verdicts"]) == set(document["attacks"])
        assert all(one["sentence"] in shown for one in document["verdicts"].values())
        assert (folder / "leakage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("mode", "strongest"),
    [
        ("plain", "single_upload"),
        ("secure_sum", "differencing"),
        ("local_noise", "averaging"),
        ("central_noise", "averaging"),
    ],
)
def test_verdict_is_that_of_the_attack_that_succeeds_most(folders, mode, strongest):
    document = json.loads((folders[mode] / "audit.json").read_text("utf-8"))
    verdicts = document["verdicts"]
    assert document["verdict"] == verdicts[strongest]["sentence"]
    assert verdicts[strongest]["outcome"] == "succeeds" and verdicts["popularity"]["outcome"] == "baseline"


def test_report_has_the_verdict_on_each_attack(folders, tmp_path):
    page = tmp_path / "page.html"
    assert cli.main(["report", *map(str, folders.values()), "--out", str(page)]) == 0
    text = html.unescape(page.read_text("utf-8"))
    for folder in folders.values():
        document = json.loads((folder / "audit.json").read_text("utf-8"))
        assert all(one["sentence"] in text for one in document["verdicts"].values())
    assert text.count("Interactions linked to one client by a sum</figcaption>") == 2
    assert text.count("AUC of the strongest attacker; 0.5 is chance</figcaption>") == 2


def test_figures_are_those_that_bounds_may_name(folders, found):
    for mode, folder in folders.items():
        config = load_config(str(folder / "config.toml"))
        known = figure_names(
            mode,
            has_cohorts=config.federation.cohort_size is not None,
            sends_gram=config.server.spec.asks_for_gram,
        )
        assert {name: set(figures) for name, figures in found[mode].items()} == {
            name: set(figures) for name, figures in known.items()
        }


def test_bounds_exit_with_one_line(tmp_path, capsys):
    kept = ("--require", "single_upload.recall>=0.9", "--require", "popularity.auc<=0.5")
    assert run("plain", tmp_path / "kept", *kept, "--upload", "rank_one", "--max-users", "50") == 0
    assert capsys.readouterr().err == ""
    assert run("plain", tmp_path / "broken", "--require", "single_upload.recall<=0.05") == 1
    assert capsys.readouterr().err == (
        "fcf: single_upload.recall<=0.05: got 1, 1 at the high end of its interval\n"
    )
    assert (tmp_path / "broken" / "audit.json").is_file()


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ("cohort_sum.recall<=0.1", "expected an attack of this mode"),
        ("single_upload.recal<=0.1", "expected a figure of single_upload"),
        ("single_upload.recall<0.1", "expected ATTACK.FIGURE<=NUMBER"),
        ("single_upload.recall<=nan", "expected ATTACK.FIGURE<=NUMBER"),
        ("", "expected ATTACK.FIGURE<=NUMBER"),
    ],
)
def test_a_bound_on_nothing_is_a_mistake(tmp_path, capsys, bound, words):
    assert run("plain", tmp_path / "out", "--require", bound) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_step_that_does_not_fit_is_replaced_and_named():
    for settings, fitting in (
        (["privacy.mode=central_noise"], "gram"),
        (["federation.cohort_size=30"], "running_sums"),
        (["privacy.mode=central_noise", "federation.cohort_size=30"], "running_sums"),
    ):
        config, note = auditing.with_fitting_step(load_config(None, settings))
        assert config.server.step == fitting and fitting in note
    assert auditing.with_fitting_step(load_config(None, ["server.step=adam"]))[1] == ""


def test_rank_one_uploads_exist_in_plain_mode_only(tmp_path, capsys):
    assert run("secure_sum", tmp_path / "out", "--upload", "rank_one") == 2
    assert 'channel.form: expected "dense"' in capsys.readouterr().err


def test_rows_that_a_client_asks_for_tell_its_history(tmp_path):
    assert run("plain", tmp_path, "--upload", "own_rows", "--max-users", "20") == 0
    document = json.loads((tmp_path / "audit.json").read_text())
    assert document["upload"] == "own_rows" and any("own_rows" in note for note in document["notes"])
    assert document["attacks"]["single_upload"]["exact_set_rate"]["value"] == 1
    assert "asked for" in document["knows"]["single_upload"]


def test_a_used_folder_is_refused(folders, capsys):
    assert run("plain", folders["plain"]) == 2
    assert "expected an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("shadows", ["5", "many"])
def test_too_few_shadow_models_are_a_mistake(tmp_path, capsys, shadows):
    assert run("plain", tmp_path / "out", "--shadow-models", shadows) == 2
    assert "at least 6" in capsys.readouterr().err and not (tmp_path / "out").exists()
