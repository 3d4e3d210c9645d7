"""How annotations are executed: as Python reads them, an int will do where a float is asked for."""

import functools
import operator
from types import UnionType
from typing import Annotated, Generic, Union, get_args, get_origin

from beartype import BeartypeConf, beartype
from beartype.vale import IsInstance

_as_annotated = beartype(conf=BeartypeConf(is_pep484_tower=True))


def executed(function):
    """Check the annotations of a function whenever it is called."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: _spelled_out(hint) for name, hint in hints.items()}
    return _as_annotated(function)


def _spelled_out(hint):
    """Spell a generic NamedTuple out as the tuple of its fields; beartype 0.23 cannot read it otherwise."""
    if get_origin(hint) in (Union, UnionType):
        return functools.reduce(operator.or_, (_spelled_out(one) for one in get_args(hint)))
    record = get_origin(hint) or hint
    if not (isinstance(record, type) and issubclass(record, tuple) and issubclass(record, Generic)):
        return hint
    fields = get_args(hint) * len(record._fields) or (object,) * len(record._fields)
    return Annotated[tuple[fields], IsInstance[record]]
