"""Rules for the arguments of public functions, checked before anything is traced.

Each rule stands once, under the name of its argument. Traced values pass: their errors show in the info.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.core
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from fcf_jax.core.biases import Biases
from fcf_jax.core.objectives.record import Objective
from fcf_jax.core.packing import padded_size
from fcf_jax.core.records import Link, Model, PackedClients


class Rule(NamedTuple):
    """A rule for one argument.

    Attributes:
        holds: whether a value obeys it.
        expected: what is expected, to follow the word "expected".
        remedy: what to do about it.
    """

    holds: Callable[[Any], bool]
    expected: str
    remedy: str


def require(**arguments: Any) -> None:
    """Check arguments by the rule of their name; what is traced passes.

    Raises:
        ValueError: for an argument that breaks its rule, with what was expected, what was given and a remedy.
    """
    for name, value in arguments.items():
        rule = _RULES[name]
        if not isinstance(value, jax.core.Tracer) and not rule.holds(value):
            raise ValueError(f"expected {rule.expected}, got {_in_words(value)}; {rule.remedy}")
        if isinstance(value, Model):
            fields = ((name, getattr(value, name)) for name in Model._fields if name in _RULES)
            numbers = {name: number for name, number in fields if number is not None}
            require(**numbers)
            _require_pairs_alone(value)


def _require_pairs_alone(model: Model) -> None:
    """Refuse weight on unobserved items beside pairs, whose scores are differences."""
    if model.objective is None or not model.objective.is_pairwise:
        return
    if not isinstance(model.unobserved_weight, jax.core.Tracer) and np.any(
        np.asarray(model.unobserved_weight) != 0
    ):
        raise ValueError(
            f"expected unobserved_weight (w0) of 0 with {model.objective.name}, "
            f"got {model.unobserved_weight}; negatives take its place"
        )


def require_negatives(model: Model, negative_ids: Any) -> None:
    """Check that histories have negatives if the objective compares with them, and only then.

    Raises:
        ValueError: otherwise.
    """
    is_pairwise = model.objective is not None and model.objective.is_pairwise
    if is_pairwise and negative_ids is None:
        raise ValueError("expected pairs, got histories without negatives; use fcf_jax.data.with_pairs")
    if negative_ids is not None and not is_pairwise:
        raise ValueError("expected histories, got pairs; give the model a pairwise objective, such as bpr()")


def require_catalogue(num_items: int, *, name: str, **packings: PackedClients) -> None:
    """Check that packed clients are of a catalogue of `num_items`.

    Args:
        num_items: M.
        name: what says so, such as "num_items".
        packings: packed clients, by the name of the argument.

    Raises:
        ValueError: for clients of another catalogue.
    """
    for argument, clients in packings.items():
        found = clients.item_counts.shape[-1]
        if found != num_items:
            raise ValueError(
                f"expected {argument} of {num_items} items, as {name} says, got {found} items; "
                f"use {argument} and {name} of one data set"
            )


def require_item_factors(item_factors: Any, clients: PackedClients, mesh: Mesh | None) -> None:
    """Check that the item factors are of the clients' catalogue, padded to the mesh or not.

    Raises:
        ValueError: for another number of rows.
    """
    require(clients=clients)
    num_items = clients.item_counts.shape[-1]
    if item_factors.shape[0] not in {num_items, padded_size(num_items, mesh)}:
        require_catalogue(item_factors.shape[0], name="item_factors", clients=clients)


def require_user_map(user_map: Any, clients: PackedClients, channel: Link | None = None) -> None:
    """Check that clients have features if there is a map for them, of the same number, and no channel.

    Raises:
        ValueError: if one of the two is missing, for other numbers of features, or for a channel.
    """
    num_features = 0 if user_map is None else user_map.shape[-2]
    require_num_features(num_features, clients)
    require_no_channel(channel, num_user_features=num_features)


def require_no_channel(channel: Link | None, *, num_user_features: int) -> None:
    """Check that there is no channel if users have features.

    Raises:
        ValueError: for both together.
    """
    if channel is not None and num_user_features:
        raise ValueError(
            "expected no channel where users have features, got one: their sums of features would pass it "
            "without noise or masks; leave the user features out (item features need nothing of the clients)"
        )


def require_num_features(num_features: int, clients: PackedClients) -> None:
    """Check that clients have so many features.

    Raises:
        ValueError: if they have not.
    """
    found = 0 if clients.features is None else clients.features.shape[-1]
    if found != num_features:
        raise ValueError(
            f"expected clients with {num_features} features, as the map from features to factors has, got "
            f"{found}; give pack_clients and federated_cf (num_user_features) the same features"
        )


def require_pair(clients: PackedClients, items: PackedClients) -> None:
    """Check that `items` can be the transpose of `clients`.

    Raises:
        ValueError: for other numbers of users or items.
    """
    require(clients=clients, items=items)
    of_clients = clients.row_counts.shape[-1], clients.item_counts.shape[-1]
    of_items = items.item_counts.shape[-1], items.row_counts.shape[-1]
    if of_clients != of_items:
        raise ValueError(
            f"expected clients and items of the same (num_users, num_items), got {of_clients} and "
            f"{of_items}; pack both from the same interactions, with pack_clients and pack_items"
        )


def _numbers(value: Any) -> np.ndarray | None:
    """Return the numbers of a hyperparameter, one or one per run; None for anything else."""
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.number) else None


def _in_words(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, PackedClients):
        return f"{value.row_counts.shape[-1]} users"
    if callable(value) and not isinstance(value, type):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, int | float | str | np.number) or getattr(value, "shape", None) == ():
        return repr(value) if isinstance(value, str) else f"{value}"
    kind = type(value)
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _whole(name: str, least: int, remedy: str, *, is_optional: bool = False) -> Rule:
    def holds(value: Any) -> bool:
        if value is None:
            return is_optional
        return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)

    return Rule(holds, f"{name} of at least {least}", remedy)


def _number(name: str, remedy: str) -> Rule:
    def holds(value: Any) -> bool:
        numbers = _numbers(value)
        return numbers is not None and bool(np.all((numbers >= 0) & (numbers < np.inf)))

    return Rule(holds, f"{name} of at least 0 and finite", remedy)


def _packed(name: str, function: str) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, PackedClients) and value.row_counts.shape[-1] > 0

    expected = f"{name} to be packed interactions of at least one user"
    return Rule(holds, expected, f"build them with {function}")


_RULES = {
    "num_items": _whole("num_items", 1, "give the size of the catalogue, a whole number"),
    "num_factors": _whole("num_factors", 1, "give a whole number; 25 is the paper's"),
    "cohort_size": _whole("cohort_size", 1, "None lets all users take part", is_optional=True),
    "num_rounds": _whole("num_rounds", 0, "0 leaves the state as it is"),
    "num_sweeps": _whole("num_sweeps", 0, "0 leaves the item factors as they are"),
    "block_chunks": _whole("block_chunks", 1, "more chunks in a block are faster, and take more memory"),
    "row_capacity": _whole("row_capacity", 1, "None computes what is needed", is_optional=True),
    "alpha": _number("alpha", "0 gives every interaction the confidence 1"),
    "regularization": _number("regularization (lambda)", "1.0 suits implicit feedback"),
    "unobserved_weight": _number("unobserved_weight (w0)", "use 1 as the paper does, or 0 for ratings"),
    "objective": Rule(
        lambda value: value is None or isinstance(value, Objective),
        "objective to be None or an Objective",
        "call what builds it, such as fcf_jax.objectives.logistic()",
    ),
    "biases": Rule(
        lambda value: value is None or isinstance(value, Biases),
        "biases to be None or Biases",
        "call fcf_jax.objectives.biases()",
    ),
    "solve_tolerance": Rule(
        lambda value: (
            (numbers := _numbers(value)) is not None and bool(np.all((numbers >= 0) & (numbers < 1)))
        ),
        "solve_tolerance of at least 0 and below 1",
        "0 solves to the level of rounding",
    ),
    "regularization_exponent": Rule(
        lambda value: (numbers := _numbers(value)) is not None and bool(np.all(np.abs(numbers) < np.inf)),
        "regularization_exponent (nu) to be finite",
        "1.0 scales lambda by the length of a history, None leaves it the same for all",
    ),
    "feature_regularization": _number("feature_regularization (lambda_F)", "1.0 is the default"),
    "num_user_features": _whole("num_user_features", 0, "0: users have no features"),
    "seed": _whole("seed", 0, "0 is the default"),
    "k": _whole("k", 1, "ask for at least one item; 10 is the paper's"),
    "init_scale": _number("init_scale", "0.1 is the default"),
    "model": Rule(
        lambda value: isinstance(value, Model) and callable(value.weighting),
        "model to be a Model",
        "build one with Model(implicit_feedback(alpha=...), regularization=...)",
    ),
    "optimizer": Rule(
        lambda value: callable(getattr(value, "init", None)) and callable(getattr(value, "update", None)),
        "optimizer to be an optax transformation",
        "call what builds it, such as optax.adam(0.1)",
    ),
    "key": Rule(
        lambda value: hasattr(value, "dtype"), "key to be a JAX key", "make one with jax.random.key(0)"
    ),
    "clients": _packed("clients", "pack_clients"),
    "items": _packed("items", "pack_items"),
}
