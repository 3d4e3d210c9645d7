"""Text of messages: numbers with their nouns, one line, and nothing that a terminal would obey."""

import re

_LONGEST = 1000  # characters of a message
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 item", "2,000 items".

    Args:
        number: of what is counted.
        noun: in the singular.
        plural: where it is not the singular with an "s".
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article: "an integer", "a number"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def one_line(message: str) -> str:
    """Return a message on one line; the middle of a very long one is left out."""
    line = " ".join(message.split())
    if len(line) <= _LONGEST:
        return line
    return f"{line[: 2 * _LONGEST // 3]} [...] {line[-_LONGEST // 3 :]}"


def printable(text: str) -> str:
    r"""Return a text with its control characters spelled out: a terminal obeys "\x1b[2J", even in an id."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
