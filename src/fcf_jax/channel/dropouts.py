r"""Dropouts: clients of a round that do not come back, and rounds that are void for want of clients.

A client that drops out has taken part in nothing: it is not counted, and the sum is that of the others. Who
drops out depends on the key of the round and the user's id alone.

    channel = chain(dropouts(0.3), clip_and_noise(...), fixed_point(...), void_below(100))
"""

from typing import Any

import jax
import jax.core
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import Sent, uploads_of, user_keys, with_uploads
from fcf_jax.core.records import CohortSum, Key, Link, Scalar, Uploads

_BISECTIONS = 200  # halve an interval of log-odds down to rounding
_MOST_ODDS = 700.0  # logarithm of the largest odds: exp of it is finite


def dropouts(probability: Scalar | Float[Array | np.ndarray, "..."]) -> Link:
    """Build a link that some clients do not pass: they drop out of the round.

    Where the server divides by the number of clients, it divides by those that came back; under
    `clip_and_noise`, which does not reveal that number, still by the expected cohort size. In a round in
    which no client comes back, the item factors stay as they are.

    Args:
        probability: chance that a client drops out, in [0, 1]: one number; one for each user, such as from
            `dropouts_by_activity`; or [rounds, users], such as 1 - availability of a trace. After the last
            of its rounds, a trace begins anew.

    Raises:
        ValueError: for a number outside [0, 1], or more than two axes.

    Example:
        >>> federated_cf(model, optimizer, channel=dropouts(0.3), ...)
    """
    if jnp.ndim(probability) > 2:
        raise ValueError(
            "expected dropout probabilities as one number, [users] or [rounds, users], got "
            f"{jnp.ndim(probability)} axes"
        )
    if not isinstance(probability, jax.core.Tracer):
        given = np.asarray(probability, np.float64)
        if not np.all((given >= 0) & (given <= 1)):
            bad = given[~((given >= 0) & (given <= 1))].flat[0]
            raise ValueError(f"expected dropout probabilities in [0, 1], got {bad}")
    probability = jnp.asarray(probability, jnp.float32)
    if probability.ndim < 2:
        return link(client=Partial(_drop, probability))
    return link(init=_first_round, client=Partial(_drop_by_trace, probability), server=_next_round)


def dropouts_by_activity(
    history_lengths: Int[np.ndarray, "users"], *, mean: float
) -> Float[np.ndarray, "users"]:
    """Compute dropout probabilities of users whose odds of coming back grow with their histories.

    The odds are proportional to the length of the history (plus 1), and the mean over all users is `mean`.

    Args:
        history_lengths: number of interactions of each user.
        mean: mean probability of dropping out, in [0, 1].

    Returns:
        Probability of each user, for `dropouts`.

    Raises:
        ValueError: for a mean outside [0, 1].
    """
    if not 0 <= mean <= 1:
        raise ValueError(f"expected a mean dropout probability in [0, 1], got {mean}")
    logs = np.log1p(np.asarray(history_lengths, np.float64))
    if mean in (0, 1) or logs.size == 0:
        return np.full(logs.shape, float(mean))
    low, high = -_MOST_ODDS - logs.max(), _MOST_ODDS
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_too_many = np.mean(_chance_of_dropping(logs + middle)) > mean
        low, high = (middle, high) if is_too_many else (low, middle)
    return _chance_of_dropping(logs + high)


def void_below(min_clients: Scalar) -> Link:
    """Build a link that opens no sum of fewer clients: such a round is void, and changes nothing.

    Secure sums are opened only if enough clients come back. Put it last in the chain: it is then the first
    that the sum passes, before noise makes the number of clients unknown.

    Args:
        min_clients: fewest clients in a sum, at least 0.
    """
    return link(server=Partial(_void, min_clients))


def _chance_of_dropping(log_odds: np.ndarray) -> np.ndarray:
    """Return the chance that goes with the odds of coming back."""
    return 1.0 / (1.0 + np.exp(np.clip(log_odds, -_MOST_ODDS, _MOST_ODDS)))


def _drop(probability: Array, key: Key, state: Any, sent: Sent) -> Sent:
    if key is None:
        raise ValueError("expected a key for dropouts, got None; give cohort_sum a key")
    uploads = uploads_of(sent)
    keys = user_keys(key, uploads)
    chance = probability
    if probability.ndim:
        chance = probability.at[uploads.client_ids].get(mode="fill", fill_value=0.0)
    draws = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)  # whatever the precision
    return with_uploads(sent, without(uploads, draws < chance))


def without(uploads: Uploads, is_lost: Bool[Array, "clients"]) -> Uploads:
    """Leave clients out of the uploads of a chunk."""
    return uploads._replace(
        is_client=uploads.is_client & ~is_lost, weights=jnp.where(is_lost, 0.0, uploads.weights)
    )


def _first_round() -> Int[Array, ""]:
    return jnp.zeros((), jnp.int32)


def _drop_by_trace(probability: Array, key: Key, state: Array, sent: Sent) -> Sent:
    return _drop(probability[state % probability.shape[0]], key, (), sent)


def _next_round(key: Key, state: Array, sums: Any) -> tuple[Any, Array]:
    return sums, state + 1


def _void(min_clients: Scalar, key: Key, state: Any, sums: CohortSum) -> tuple[CohortSum, Any]:
    is_open = sums.num_clients >= min_clients
    return jax.tree.map(lambda total: jnp.where(is_open, total, jnp.zeros_like(total)), sums), state
