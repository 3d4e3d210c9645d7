"""Kinds of values: what the fields of a column look like, where no header says what they are."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Strength of a kind of event, in the order of commitment: chosen, not tuned; data.strength_values has others.
EVENT_WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("view", "views", "pageview", "pv", "click", "clicks", "detail", "play", "listen"), 1.0),
    **dict.fromkeys(("like", "favorite", "favourite", "fav", "save", "bookmark", "wishlist", "share"), 2.0),
    **dict.fromkeys(("cart", "carts", "addtocart", "basket", "addtobasket"), 3.0),
    **dict.fromkeys(("purchase", "purchases", "transaction", "buy", "order", "orders"), 4.0),
    **dict.fromkeys(("removefromcart", "remove", "dislike", "skip"), 0.0),
}  # fmt: skip

_DAY = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}"
_CLOCK = r"\d{1,2}:\d{2}"
_KINDS = {
    "number": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "whole": re.compile(r"\d+"),
    "time": re.compile(
        r"(8|9)\d{8}|1\d{9}(\d{3})?(\.\d+)?"  # seconds from 1995 on, milliseconds from 2001 on
        rf"|{_DAY}([T ]{_CLOCK}.*)?|\w{{3}} \w{{3}} \d\d {_CLOCK}:\d\d \+\d{{4}} \d{{4}}"
    ),
    "amazon_item": re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]"),
    "amazon_user": re.compile(r"A[0-9A-Z]{9,27}"),
    "isbn": re.compile(r"\d{9}[\dXx]|97[89]\d{10}"),
    "object_id": re.compile(r"[0-9a-f]{24}"),
    "sha1": re.compile(r"[0-9a-f]{40}"),
    "uuid_or_empty": re.compile(r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?"),
    "bought_or_played": re.compile(r"purchase|play"),
    "text": re.compile(r".*"),
}

_SEEN = "seen"


class Meaning(NamedTuple):
    """Meaning of words and special numbers in a strength column.

    Attributes:
        weights: Strength of each word, by `event_word`; empty if none is given.
        unrated: Numbers that mean "seen, not rated"; None if none is given.
    """

    weights: Mapping[str, float]
    unrated: tuple[float, ...] | None


PLAIN_NUMBERS = Meaning({}, None)


def meaning_of(values: Mapping[Any, float | str] | None) -> Meaning:
    """Take apart what words and numbers stand for.

    Args:
        values: Such as {"view": 1, "buy": 4} or {-1: "seen"}; None: nothing special.

    Raises:
        ValueError: For a word without a number >= 0, or a number that stands for something but "seen".
    """
    weights, unrated = {}, []
    for value, meaning in (values or {}).items():
        is_number = looks_like("number", [str(value)])
        if is_number and meaning == _SEEN:
            unrated.append(float(value))
        elif not is_number and isinstance(meaning, int | float) and 0 <= meaning < float("inf"):
            weights[event_word(str(value))] = float(meaning)
        else:
            raise ValueError(
                f'expected data.strength_values such as {{view = 1, buy = 4}} or {{-1 = "seen"}}, got '
                f"{value} = {meaning!r}; give words a number >= 0, and numbers the word seen"
            )
    return Meaning(weights, tuple(unrated) or None)


def looks_like(kind: str, values: Sequence[str]) -> bool:
    """Return True if there are values and each has the form of this kind."""
    return bool(values) and all(_KINDS[kind].fullmatch(value) for value in values)


def event_word(value: str) -> str:
    """Return the name of an event in the form that `EVENT_WEIGHTS` has: `Add_To_Cart` as `addtocart`."""
    return re.sub(r"[\s_\-]+", "", value.lower())


def weights_of(values: Sequence[str], given: Mapping[str, float]) -> Mapping[str, float]:
    """Return the weights of events if the values are events; empty if they are anything else.

    Args:
        values: Of a strength column.
        given: Weights that the caller chose, of which one must occur; empty for `EVENT_WEIGHTS`, which must
            have every value.
    """
    words = {event_word(value) for value in values}
    if given:
        return given if words & given.keys() else {}
    return EVENT_WEIGHTS if words and words <= EVENT_WEIGHTS.keys() else {}
