"""Forms of messages: the same uploads and sums, in more or fewer bytes.

In the form `own_rows` a client receives G = Y^T Y and the rows of its own items alone. Both are all that the
solve needs, w0 G + lambda I + sum (c - w0) y y^T, and the scores x.y of its items. Up go the rows e' x^T
of these items, e' = e + w0 s, and x x^T, of which the server makes the rest of the sum, -w0 Y sum x x^T. The
sums are those of the dense form to the bit. But whoever sees which rows a client asks for knows its history.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from fcf_jax.core.records import Part, Payload, Pieces

_ID_BITS = 32


class Sizes(NamedTuple):
    """Sizes that a client's messages depend on.

    Attributes:
        num_items: M.
        num_columns: numbers of an item's factor: K, and those of biases.
        history_length: items of the client; an array has one number for each client.
        sent: pieces that the server step asks for, by the names of `Pieces`.
    """

    num_items: int
    num_columns: int
    history_length: Any
    sent: Collection[str] = Pieces._fields


def dense(sizes: Sizes) -> Payload:
    """Count Y down, and up an item gradient of every item, whatever the history."""
    items, columns = sizes.num_items, sizes.num_columns
    up = Pieces(Part(items, columns), Part(columns, columns), Part(items), Part(1))
    return _asked(Payload(up, down=Part(items, columns)), sizes)


def rank_one(sizes: Sizes) -> Payload:
    """Count Y down, and up the user factor with id and residual of each item of the history."""
    length, columns = sizes.history_length, sizes.num_columns
    up = Pieces(Part(length, 1, row_bits=_ID_BITS), Part(1, columns), Part(length), Part(1))
    return _asked(Payload(up, down=Part(sizes.num_items, columns)), sizes, needed=("user_gram",))


def own_rows(sizes: Sizes) -> Payload:
    """Count Y^T Y and the rows of the history's items down, and up their ids and rows, and x x^T."""
    length, columns = sizes.history_length, sizes.num_columns
    gram = Part(columns, columns)
    up = Pieces(Part(length, columns, row_bits=_ID_BITS), gram, Part(length), Part(1))
    return _asked(Payload(up, down=Part(length, columns), down_gram=gram), sizes, needed=("user_gram",))


def _asked(payload: Payload, sizes: Sizes, *, needed: Collection[str] = ()) -> Payload:
    """Leave out what neither the server step asks for nor the form needs."""
    asked = {"upload", *needed, *sizes.sent}
    left_out = {name: Part(0) for name in Pieces._fields if name not in asked}
    return payload._replace(up=payload.up._replace(**left_out))


FORMS: Mapping[str, Callable[[Sizes], Payload]] = {"dense": dense, "rank_one": rank_one, "own_rows": own_rows}
