"""Verdicts of an audit: one sentence for each attack, the strongest of them, and what no attack covers.

Each view of the server has a row in `_SENTENCES`; each figure of an attack has one in `MEANINGS`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from fcf_jax.experiments.audit.bounds import TPR, TPR_OF_MEMBERS
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES, View

Document = Mapping[str, Any]  # content of audit.json
Outcome = Literal["succeeds", "in part", "fails", "baseline"]
_SUCCEEDS, _IN_PART = 0.9, 0.1  # smallest success of each outcome

OUTCOMES_LEGEND = (
    "succeeds: the attack finds at least nine tenths of what it looks for; in part: at least a tenth; fails: "
    "less. For participation, which is guessed at chance with AUC 0.5, that is 2 AUC - 1."
)
MEANINGS = {
    "exact_set_rate": "clients whose set of items is found exactly",
    "precision": "found interactions that are right",
    "recall": "interactions of the clients that are found",
    "f1": "harmonic mean of precision and recall",
    "auc": "how well held items, or clients that take part, are told from others; 0.5 is chance",
    "auc_ceiling": "largest AUC that the noise leaves to any attacker",
    TPR: "found at one false alarm in a thousand",
    TPR_OF_MEMBERS: "members found at one false alarm in a hundred",
    "in_out": "the same for participation of a client in the round",
    "strength_rate": "interactions whose strength is found within 1 %",
    "strength_error": "mean relative error of the strengths found",
    "cosine": "between true and reconstructed user factors",
    "consistent_rate": "uploads that the attack explains without a contradiction",
    "union_recall": "interactions whose item is among those found to be touched by anyone",
    "union_precision": "items found to be touched that someone touched",
    "epsilon_low": "lower bound on epsilon at 95 % confidence, whatever the mechanism",
    "epsilon_low_gaussian": "the same if the noise of the whole run is one Gaussian mechanism",
    "epsilon_claimed": "epsilon that the accountant claims for these runs",
    "fitted": "the same if the server asks for no sums but the upload",
}


class Verdict(NamedTuple):
    """Outcome of an attack.

    Attributes:
        outcome: of the attack, as `OUTCOMES_LEGEND` explains; "baseline" uses no upload.
        sentence: what the server learns by it.
        success: from 0, nothing, to 1, everything.
    """

    outcome: Outcome
    sentence: str
    success: float


class _Found(NamedTuple):
    """Figures of an attack, and the facts of its audit."""

    figures: Mapping[str, Mapping[str, float | None]]
    facts: Mapping[str, Any]

    def value(self, name: str) -> float:
        """Return the value of a figure; nan if it is unknown."""
        value = self.figures.get(name, {}).get("value")
        return math.nan if value is None else value

    def percent(self, name: str) -> str:
        """Return a figure in percent, in words if it is unknown."""
        value = self.value(name)
        return f"{100 * value:.1f} %" if math.isfinite(value) else "an unknown share"

    def auc(self, name: str) -> str:
        """Return an AUC in words."""
        value = self.value(name)
        return f"AUC {value:.3f}; 0.5 is chance" if math.isfinite(value) else "an unknown AUC"


def verdicts_of(document: Document) -> dict[str, Verdict]:
    """Return a verdict on each attack.

    Args:
        document: content of `audit.json`, without its verdicts.
    """
    mode = PRIVACY_MODES[document["mode"]]
    verdicts: dict[str, Verdict] = {}
    views: dict[str, View] = {
        name: view for cohorts in (False, True) for name, view in mode.attacks_on(has_cohorts=cohorts).items()
    }
    views["published_model"] = "published_model"
    for name, figures in document["attacks"].items():
        if name not in views:
            continue  # of another version
        sentence, success = _SENTENCES[views[name]](_Found(figures, document["facts"]))
        success = success if math.isfinite(success) else 0.0
        verdicts[name] = Verdict(_outcome(views[name], success), sentence, success)
    return verdicts


def strongest(verdicts: Mapping[str, Verdict]) -> str:
    """Return the sentence on the attack that succeeds most."""
    attacks = [verdict for verdict in verdicts.values() if verdict.outcome != "baseline"]
    return max(attacks, key=lambda verdict: verdict.success).sentence


def legend_of(document: Document) -> dict[str, str]:
    """Return what each figure of the audit means."""
    names = dict.fromkeys(name for figures in document["attacks"].values() for name in figures)
    prefixed = {
        name: next(one for one in ("in_out_", "fitted_", "") if name.startswith(one)) for name in names
    }
    keys = {prefix.rstrip("_") or name: prefix for name, prefix in prefixed.items()}
    return {f"{key}_..." if prefix else key: MEANINGS[key] for key, prefix in keys.items() if key in MEANINGS}


def not_covered(mode: str, *, has_shadows: bool = False) -> list[str]:
    """Return sentences on what no attack of the audit covers, to stand beside the verdicts."""
    left = _NOT_COVERED.get(mode, [])
    return [sentence for sentence in left if not (has_shadows and sentence == _MODEL_ITSELF)]


def _outcome(view: View, success: float) -> Outcome:
    if view == "popularity":
        return "baseline"
    return "succeeds" if success >= _SUCCEEDS else "in part" if success >= _IN_PART else "fails"


def _largest(*successes: float) -> float:
    return max([success for success in successes if math.isfinite(success)], default=math.nan)


def _upload(found: _Found) -> tuple[str, float]:
    return (
        f"From one upload, the server learns the exact item set of {found.percent('exact_set_rate')} of the "
        f"clients, and {found.percent('recall')} of all interactions.",
        found.value("f1"),
    )


def _difference(found: _Found) -> tuple[str, float]:
    return (
        "From two sums whose cohorts differ by one client, the server learns the exact item set of "
        f"{found.percent('exact_set_rate')} of the clients, unless such pairs are refused.",
        found.value("f1"),
    )


def _sum(found: _Found) -> tuple[str, float]:
    return (
        f"From a sum over {found.facts['attacked_cohort_size']} clients, {found.percent('recall')} of the "
        "interactions are linked to one client each, under a pseudonym; of all that they touched, "
        f"{found.percent('union_recall')} is known without a name.",
        found.value("recall"),
    )


def _many_sums(found: _Found) -> tuple[str, float]:
    return (
        f"From the sums of all {found.facts['num_rounds']} rounds together, the server learns by name the "
        f"exact item set of {found.percent('exact_set_rate')} of the clients, and {found.percent('recall')} "
        "of all interactions.",
        found.value("f1"),
    )


def _late_sums(found: _Found) -> tuple[str, float]:
    return (
        f"If Y stands still, as it nearly does in late rounds, the uploads of {found.facts['num_rounds']} "
        f"rounds together give {found.percent('recall')} of the interactions by name "
        f"({found.auc('auc')}).",
        max(found.value("f1") * (found.value("auc") > 0.5), 2 * found.value("auc") - 1),
    )


def _noisy_upload(found: _Found, uploads: str = "one noisy upload") -> tuple[str, float]:
    return (
        f"From {uploads} at noise multiplier {found.facts['noise_multiplier']:.3g}, the server finds "
        f"{found.percent('recall')} of a client's items, and the strongest attacker infers whether a client "
        f"takes part with {found.auc('in_out_auc')}.",
        _largest(found.value("f1"), 2 * found.value("in_out_auc") - 1),
    )


def _noisy_uploads(found: _Found) -> tuple[str, float]:
    return _noisy_upload(found, f"the mean of {found.facts['num_rounds']} noisy uploads for one model")


def _noisy_sum(found: _Found, sums: str = "a round") -> tuple[str, float]:
    return (
        f"At noise multiplier {found.facts['noise_multiplier']:.3g}, the strongest attacker infers whether a "
        f"client takes part in {sums} with {found.auc('auc')}.",
        2 * found.value("auc") - 1,
    )


def _noisy_sums(found: _Found) -> tuple[str, float]:
    return _noisy_sum(found, f"all {found.facts['num_rounds']} rounds, averaged for one model,")


def _published_model(found: _Found) -> tuple[str, float]:
    return (
        "From the published item factors alone, whoever knows a history infers whether it was trained on, "
        f"with {found.auc('auc')}; {found.percent(TPR_OF_MEMBERS)} of the members are found at one false "
        "alarm in a hundred.",
        2 * found.value("auc") - 1,
    )


def _popularity(found: _Found) -> tuple[str, float]:
    return (
        f"Without any upload, guessing the most popular items finds {found.percent('recall')} of a client's "
        "items: anything above that comes from uploads.",
        0.0,
    )


_SENTENCES: dict[View, Callable[[_Found], tuple[str, float]]] = {
    "upload": _upload,
    "difference": _difference,
    "many_sums": _many_sums,
    "late_sums": _late_sums,
    "sum": _sum,
    "noisy_upload": _noisy_upload,
    "noisy_uploads": _noisy_uploads,
    "noisy_sum": _noisy_sum,
    "noisy_sums": _noisy_sums,
    "published_model": _published_model,
    "popularity": _popularity,
}
_MODEL_ITSELF = (
    "No attack here uses the published item factors, which alone tell who took part: see --shadow-models."
)
_NOT_COVERED = {
    "plain": [_MODEL_ITSELF],
    "secure_sum": [
        "No attack here follows Y from round to round, or joins pseudonyms of single sums over rounds.",
        _MODEL_ITSELF,
    ],
}
