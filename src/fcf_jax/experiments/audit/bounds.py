"""Bounds on the figures of an audit, such as `cohort_sum.recall<=0.05`."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES, View

_BOUND = re.compile(r"\s*(\w+)\.([\w.]+?)\s*(<=|>=)\s*(\S+)\s*")
TPR = "tpr_at_fpr_0.001"
TPR_OF_MEMBERS = "tpr_at_fpr_0.01"
_SETS = ("exact_set_rate", "precision", "recall", "f1")
_SCORES = ("auc", "auc_ceiling", TPR)
_RECOVERED = (*_SETS, *_SCORES, "strength_rate", "strength_error", "cosine", "consistent_rate")
_NOISY = (*_SETS, *_SCORES, *(f"in_out_{name}" for name in _SCORES))
_SUM = ("union_recall", "union_precision", "precision", "recall", "f1", "cosine", "auc", "auc_ceiling")
_FIGURES: dict[View, tuple[str, ...]] = {
    "upload": _RECOVERED,
    "noisy_upload": _NOISY,
    "noisy_uploads": _NOISY,
    "sum": _SUM,
    "many_sums": _SETS,
    "late_sums": (*_SETS, "auc"),
    "difference": _RECOVERED,
    "noisy_sum": (*_SUM, TPR),
    "noisy_sums": _SCORES,
    "published_model": ("auc", "auc_ceiling", TPR_OF_MEMBERS),
    "popularity": (*_SETS, "auc"),
}


class Bound(NamedTuple):
    """Bound on a figure of an audit.

    Attributes:
        attack: name of the attack.
        figure: name of the figure.
        operator: "<=" or ">=".
        limit: right side of the inequality.
    """

    attack: str
    figure: str
    operator: str
    limit: float

    def __str__(self) -> str:
        """Return the bound as the command line spells it."""
        return f"{self.attack}.{self.figure}{self.operator}{self.limit:g}"


def figure_names(
    mode: str, *, has_cohorts: bool, sends_gram: bool, has_shadows: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return the names of the figures of each attack that applies, without running any.

    Args:
        mode: privacy mode.
        has_cohorts: whether a cohort size is configured.
        sends_gram: whether the server step asks for A.
        has_shadows: whether shadow models are trained.
    """
    attacks = PRIVACY_MODES[mode].attacks_on(has_cohorts=has_cohorts)
    if has_shadows:
        attacks["published_model"] = "published_model"
    fitted = ("fitted_precision", "fitted_recall") if sends_gram else ()
    return {
        name: _FIGURES[view] + (fitted if view in ("sum", "noisy_sum") else ())
        for name, view in attacks.items()
    }


def parse_bounds(texts: Iterable[str], known: Mapping[str, tuple[str, ...]]) -> list[Bound]:
    """Parse bounds.

    Args:
        texts: ATTACK.FIGURE<=NUMBER or ATTACK.FIGURE>=NUMBER each.
        known: the figures of each attack.

    Raises:
        ValueError: for a text that is no bound, or a figure that is not measured.
    """
    return [_parse(text, known) for text in texts]


def _parse(text: str, known: Mapping[str, tuple[str, ...]]) -> Bound:
    match = _BOUND.fullmatch(text)
    number = math.nan
    if match:
        try:
            number = float(match[4])
        except ValueError:
            match = None
    if not match or not math.isfinite(number):
        raise ValueError(
            f"--require {text}: expected ATTACK.FIGURE<=NUMBER or >=, as in cohort_sum.recall<=0.05"
        )
    attack, figure, operator, _ = match.groups()
    if attack not in known:
        raise ValueError(
            f"--require {text}: expected an attack of this mode ({', '.join(known)}), got {attack}"
        )
    if figure not in known[attack]:
        expected = ", ".join(known[attack])
        raise ValueError(f"--require {text}: expected a figure of {attack} ({expected}), got {figure}")
    return Bound(attack, figure, operator, number)


def unmet(bounds: Iterable[Bound], found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Describe the bounds that fail at the conservative end of the figure's interval; nan fails all."""
    return [line for bound in bounds if (line := _failure(bound, found[bound.attack][bound.figure]))]


def _failure(bound: Bound, figure: Mapping[str, Any]) -> str:
    end = "high" if bound.operator == "<=" else "low"
    reached = figure[end]
    is_kept = reached <= bound.limit if bound.operator == "<=" else reached >= bound.limit
    if is_kept:
        return ""
    return f"{bound}: got {figure['value']:.4g}, {reached:.4g} at the {end} end of its interval"
