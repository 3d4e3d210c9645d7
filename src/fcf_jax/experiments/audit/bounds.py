"""What an audit is asked: the form of uploads, and bounds on what it may find (`cohort_sum.recall<=0.05`)."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

UploadForm = Literal["dense", "rank_one"]  # of a plain round

_BOUND = re.compile(r"\s*(\w+)\.([\w.]+?)\s*(<=|>=)\s*(\S+)\s*")
_ATTACK_FIGURES = {
    "recovered": ("exact_set_rate", "precision", "recall", "f1", "auc", "auc_ceiling", "tpr_at_fpr_0.001",
                  "strength_rate", "strength_error", "cosine", "consistent_rate"),
    "noisy": ("exact_set_rate", "precision", "recall", "f1", "auc", "auc_ceiling", "tpr_at_fpr_0.001",
              "in_out_auc", "in_out_auc_ceiling", "in_out_tpr_at_fpr_0.001"),
    "sum": ("union_recall", "union_precision", "precision", "recall", "f1", "cosine", "auc", "auc_ceiling"),
    "sum_with_gram": ("fitted_precision", "fitted_recall"),
    "in_out": ("auc", "auc_ceiling", "tpr_at_fpr_0.001"),
    "popularity": ("exact_set_rate", "precision", "recall", "f1", "auc"),
}  # fmt: skip


class Bound(NamedTuple):
    """What a figure must keep to."""

    attack: str
    figure: str
    operator: str  # "<=" or ">="
    limit: float

    def __str__(self) -> str:
        """Write it as it was asked for."""
        return f"{self.attack}.{self.figure}{self.operator}{self.limit:g}"


def figure_names(mode: str, *, has_cohorts: bool, sends_gram: bool) -> dict[str, tuple[str, ...]]:
    """Name the figures of every attack that applies, before any of it is run.

    Args:
        mode: of privacy.
        has_cohorts: whether rounds take fewer than everybody, or are configured to.
        sends_gram: whether the server step asks for A.
    """
    of = _ATTACK_FIGURES
    sums = of["sum"] + (of["sum_with_gram"] if sends_gram else ())
    found = {
        "plain": {"single_upload": of["recovered"]} | ({"cohort_sum": sums} if has_cohorts else {}),
        "secure_sum": {"cohort_sum": sums, "differencing": of["recovered"]},
        "local_noise": {"single_upload": of["noisy"], "averaging": of["noisy"]},
    }.get(mode)
    if found is None:
        found = {"cohort_sum": sums + ("tpr_at_fpr_0.001",)}
        found |= {} if has_cohorts else {"averaging": of["in_out"]}
    return found | {"popularity": of["popularity"]}


def parse_bounds(texts: Iterable[str], known: Mapping[str, tuple[str, ...]]) -> list[Bound]:
    """Read bounds.

    Args:
        texts: each ATTACK.FIGURE<=NUMBER or >=.
        known: the figures of each attack.

    Raises:
        ValueError: for what is no bound, or is on nothing that is measured.
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
    """Say which bounds are not kept, on the careful end of each interval; nan keeps none."""
    return [line for bound in bounds if (line := _broken(bound, found[bound.attack][bound.figure]))]


def _broken(bound: Bound, figure: Mapping[str, Any]) -> str:
    end = "high" if bound.operator == "<=" else "low"
    reached = figure[end]
    is_kept = reached <= bound.limit if bound.operator == "<=" else reached >= bound.limit
    if is_kept:
        return ""
    return f"{bound}: got {figure['value']:.4g}, {reached:.4g} at the {end} end of its interval"
