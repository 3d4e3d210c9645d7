"""Numbers and names as people read them."""

import math
from collections.abc import Sequence
from typing import TypeGuard

NOTHING = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"  # before a unit
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_ACRONYMS = {"map": "MAP", "ndcg": "NDCG", "rmse": "RMSE", "auc": "AUC", "f1": "F1", "hit_rate": "Hit rate"}


def metric_text(name: str) -> str:
    """Write the name of a metric: `map_at_10` is MAP@10."""
    stem, at, k = name.removeprefix("normalized_").partition("_at_")
    return _ACRONYMS.get(stem, stem.replace("_", " ").capitalize()) + (f"@{k}" if at else "")


def number_text(value: float | None, *, decimals: int = 4) -> str:
    """Write a measured value."""
    return _signed(f"{value:,.{decimals}f}") if _is_known(value) else NOTHING


def count_text(value: float | None) -> str:
    """Write a count, 100,000 with its comma."""
    return f"{value:,.0f}" if _is_known(value) else NOTHING


def loss_text(value: float | None, *, beside: float | None = None) -> str:
    """Write a loss: six digits that count, or as many decimals as the value that it stands beside."""
    scale = value if beside is None else beside
    if not _is_known(scale) or not scale:
        return number_text(value)
    decimals = 5 - math.floor(math.log10(abs(scale)))
    return number_text(value, decimals=min(max(decimals, 0), 12))


def percent_text(value: float | None, *, digits: int | None = 2) -> str:
    """Write a difference in percent with its sign; `digits` after the point, None for as many as it has."""
    if not _is_known(value):
        return NOTHING
    text = f"{value:+,g}" if digits is None else f"{value:+,.{digits}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return f"{_signed(text)}{_SPACE}%"


def size_text(value: float | None, *, is_round: bool = False) -> str:
    """Write bytes in decimal units, with three digits that count, or fewer where the value is round."""
    if not _is_known(value):
        return NOTHING
    amount, unit = float(value), 0
    while abs(amount) >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    text = f"{amount:.3g}" if is_round or not unit else _three_digits(amount)
    return f"{text}{_SPACE}{_UNITS[unit]}"


def seconds_text(value: float | None) -> str:
    """Write a duration in s, ms or µs, with three digits that count."""
    if not _is_known(value):
        return NOTHING
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1 or not value:
            return f"{_three_digits(value * factor)}{_SPACE}{unit}"
    return f"{_three_digits(value * 1e6)}{_SPACE}µs"


def several(count: int, noun: str) -> str:
    """Write a count with its noun: 1 run, 2 runs."""
    return f"{count_text(count)} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Join words as in speech: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _three_digits(amount: float) -> str:
    return f"{amount:.0f}" if abs(amount) >= 99.95 else f"{amount:#.3g}"


def _signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
