"""Text forms of numbers and metric names, and the privacy notes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from fcf_jax.experiments.store.schemas import EPSILON_IN_NAME_ONLY

PRIVACY_NOTE = (
    "Plain FCF uploads are not private: a single upload reveals the user's history to the server; see README."
)
SECURE_SUM_NOTE = (
    "Uploads were summed in fixed point over at least {} clients, as in a secure sum. Training does not "
    "simulate the masks, which cancel exactly; fcf_jax.privacy.secure_sum.secure_cohort_sum does. Run "
    "fcf audit to see what such a sum still reveals."
)
UNFINISHED_NOTE = "Trained with noise; the privacy spent so far is in privacy_budget.json."
NOT_PRIVATE_NOTE = "NOT PRIVATE: trained with noise from a fixed seed, to measure what noise costs."
IN_NAME_ONLY_NOTE = "NOT PRIVATE: trained with so little noise that epsilon is {}, which protects nobody."

UNKNOWN = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"  # before a unit
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_NAMES = {"map": "MAP", "ndcg": "NDCG", "rmse": "RMSE", "auc": "AUC", "er": "ER"}
_AMONG = ("sampled_", "cold_", "warm_")  # other items than the whole catalogue


def privacy_note(summary: Mapping[str, Any] | None) -> str:
    """Return what the clients of a run are promised; `summary` is the content of `summary.json`."""
    summary = summary or {}
    if "secure_sum" in summary:
        return SECURE_SUM_NOTE.format(summary["secure_sum"]["min_cohort"])
    statement = summary.get("privacy")
    if statement is None:
        return PRIVACY_NOTE
    epsilon = math.inf if statement["epsilon"] is None else statement["epsilon"]
    if epsilon >= EPSILON_IN_NAME_ONLY:
        return IN_NAME_ONLY_NOTE.format(f"{epsilon:.3g}")
    if not statement["is_private"]:
        return NOT_PRIVATE_NOTE
    return (
        f"The item factors are differentially private: epsilon {epsilon:.3g} at delta "
        f"{statement['delta']:.2g} for {statement['unit']} ({statement['adjacency']}); the metrics, ALS and "
        "popularity are computed from the data themselves, and are not."
    )


def metric_text(name: str) -> str:
    """Return the name of a metric for people: `map_at_10` is MAP@10."""
    stem, at, k = name.removeprefix("normalized_").partition("_at_")
    among = next((one for one in _AMONG if stem.startswith(one)), "")
    name = stem.removeprefix(among)
    text = among.replace("_", " ") + _NAMES.get(name, name.replace("_", " "))
    return text[:1].upper() + text[1:] + (f"@{k}" if at else "")


def number_text(value: float | None, *, decimals: int = 4) -> str:
    """Format a measured value."""
    return _signed(f"{value:,.{decimals}f}") if _is_known(value) else UNKNOWN


def count_text(value: float | None) -> str:
    """Format a count with thousands separators."""
    return f"{value:,.0f}" if _is_known(value) else UNKNOWN


def loss_text(value: float | None, *, scale: float | None = None) -> str:
    """Format a loss with six significant digits, or with the decimals that `scale` would have."""
    scale = value if scale is None else scale
    if not _is_known(scale) or not scale:
        return number_text(value)
    decimals = 5 - math.floor(math.log10(abs(scale)))
    return number_text(value, decimals=min(max(decimals, 0), 12))


def value_text(name: str, value: float | None) -> str:
    """Format the value of a metric, or of the loss."""
    return loss_text(value) if name == "loss" else number_text(value)


def percent_text(value: float | None, *, decimals: int | None = 2, is_signed: bool = True) -> str:
    """Format a percentage; `decimals` of None keeps as many as the value has."""
    if not _is_known(value):
        return UNKNOWN
    text = f"{value:+,g}" if decimals is None else f"{value:+,.{decimals}f}"
    if not is_signed:
        text = text.lstrip("+")
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return f"{_signed(text)}{_SPACE}%"


def p_text(p: float | None) -> str:
    """Format a p value, tiny ones as a bound."""
    if p is None:
        return UNKNOWN
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def size_text(value: float | None, *, is_round: bool = False) -> str:
    """Format bytes in decimal units with three significant digits, without trailing zeros if `is_round`."""
    if not _is_known(value):
        return UNKNOWN
    amount, unit = float(value), 0
    while abs(amount) >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    text = f"{amount:.3g}" if is_round or not unit else _three_digits(amount)
    return f"{text}{_SPACE}{_UNITS[unit]}"


def seconds_text(value: float | None) -> str:
    """Format a duration in s, ms or µs with three significant digits."""
    if not _is_known(value):
        return UNKNOWN
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1 or not value:
            return f"{_three_digits(value * factor)}{_SPACE}{unit}"
    return f"{_three_digits(value * 1e6)}{_SPACE}µs"


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _three_digits(amount: float) -> str:
    return f"{amount:.0f}" if abs(amount) >= 99.95 else f"{amount:#.3g}"


def _signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
