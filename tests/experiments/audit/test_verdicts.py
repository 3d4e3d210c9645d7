"""Verdicts on made-up attacks: nothing is trained."""

import pytest
from made_up_runs import audit_of

from fcf_jax.experiments.audit.bounds import figure_names
from fcf_jax.experiments.audit.verdicts import MEANINGS, legend_of, not_covered, strongest, verdicts_of
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.report.tables import show_audit

EVERY_AUDIT = [(mode, has_cohorts) for mode in PRIVACY_MODES for has_cohorts in (False, True)]


def full_audit(mode, has_cohorts, value):
    names = figure_names(mode, has_cohorts=has_cohorts, sends_gram=True, has_shadows=True)
    attacks = {attack: dict.fromkeys(figures, value) for attack, figures in names.items()}
    return {**audit_of(attacks, mode), "notes": not_covered(mode)}


def test_attack_that_succeeds_is_not_summed_up_by_one_that_fails():
    failing, succeeding = {"recall": 0.02, "union_recall": 1.0}, {"exact_set_rate": 1.0, "f1": 1.0}
    document = audit_of({"cohort_sum": failing, "differencing": succeeding})
    verdicts = verdicts_of(document)
    assert [one.outcome for one in verdicts.values()] == ["fails", "succeeds"]
    assert strongest(verdicts) == verdicts["differencing"].sentence
    assert "100.0 % of the clients" in strongest(verdicts) and "2.0 %" in verdicts["cohort_sum"].sentence


@pytest.mark.parametrize(
    ("auc", "outcome"), [(0.5, "fails"), (0.56, "in part"), (0.94, "in part"), (0.96, "succeeds")]
)
def test_participation_succeeds_by_its_distance_from_chance(auc, outcome):
    verdicts = verdicts_of(audit_of({"cohort_sum": {"auc": auc, "recall": 0.0}}, "central_noise"))
    assert verdicts["cohort_sum"].outcome == outcome and f"{auc:.3f}" in verdicts["cohort_sum"].sentence


@pytest.mark.parametrize(("mode", "has_cohorts"), EVERY_AUDIT)
def test_every_attack_has_one_sentence_on_screen_and_every_figure_a_meaning(mode, has_cohorts, capsys):
    document = full_audit(mode, has_cohorts, 1.0)
    show_audit(document)
    shown = " ".join(capsys.readouterr().out.split())
    for name, one in verdicts_of(document).items():
        assert f"{name} {one.outcome}" in shown and one.sentence.count(". ") == 0
    assert set(legend_of(document).values()) <= set(MEANINGS.values())
    assert all(name in shown and meaning.split()[0] in shown for name, meaning in legend_of(document).items())


@pytest.mark.parametrize(("mode", "has_cohorts"), EVERY_AUDIT)
def test_unknown_figures_are_never_shown_as_nan(mode, has_cohorts, capsys):
    for unknown in (float("nan"), None):
        document = full_audit(mode, has_cohorts, unknown)
        sentences = [one.sentence for one in verdicts_of(document).values()]
        assert not any("nan" in sentence.split() for sentence in sentences)
        assert strongest(verdicts_of(document)) in sentences
    show_audit(full_audit(mode, has_cohorts, float("nan")))
    assert "nan" not in capsys.readouterr().out.split()
