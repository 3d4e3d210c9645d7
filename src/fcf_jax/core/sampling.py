"""Cohorts of clients, drawn as a pure function of the key.

The host can therefore draw the cohorts of many rounds beforehand, and find how many rows they need.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Int

from fcf_jax.core.records import Cohort, Key, Sampler, as_pytree

Sampling = Literal["shuffled", "independent", "poisson"]
_SHUFFLING_ROUNDS = 8  # of the Feistel network; 4 suffice for large numbers of users


class Drawing(NamedTuple):
    """A sampling in the form that `jit` takes.

    Attributes:
        draw: (key of all rounds, round index, *, num_users, cohort_size) -> the cohort, or its user ids.
    """

    draw: Callable


class RoundKeys(NamedTuple):
    """Keys of one round, derived from its index, so that a resumed run draws the same numbers.

    Attributes:
        cohort: key of the cohort.
        server: key of the channel's server ends, such as noise on the sum.
        client: key of the channel's client ends.
    """

    cohort: Key
    server: Key
    client: Key


def round_keys(key: Key, round_index: Int[Array, ""]) -> RoundKeys:
    """Derive the keys of one round from the key of all rounds."""
    of_round = jax.random.fold_in(key, round_index)
    cohort, server = jax.random.split(of_round)
    return RoundKeys(cohort, server, client=jax.random.fold_in(of_round, 2))  # split took 0 and 1


def draw_cohort(
    key: Key,
    round_index: Int[Array, ""],
    *,
    num_users: int,
    cohort_size: int | None,
    sampling: Sampling | Sampler | Drawing = "shuffled",
) -> Cohort:
    """Draw the users of one round, without replacement.

    Args:
        key: the same key for all rounds.
        round_index: index of the round, from 0.
        num_users: N.
        cohort_size: Theta, at most N; None: all users, in order.
        sampling: "shuffled": each pass through all users takes them in a new random order, Theta per round
            (random reshuffling); the last N mod Theta users of each order sit that pass out.
            "independent": each round draws anew, all sets of users equally likely (to 30 bits a user), as
            privacy amplification by sampling requires; the same quality then takes more rounds
            (benchmarks/README.md). "poisson": each user independently with probability Theta / N. A function
            (key of the round, round index, *, num_users, cohort_size) -> `Cohort` or user ids: a sampling of
            your own, with weights if it is biased; ids out of range are empty places.

    Returns:
        The cohort; a Poisson sample is padded with N to `poisson_capacity`.

    Raises:
        ValueError: for more clients than users, or an unknown sampling.

    References:
        Mishchenko, Khaled & Richtarik, NeurIPS 2020, on random reshuffling.
    """
    if cohort_size is None:
        return Cohort(jnp.arange(num_users, dtype=jnp.int32))
    if cohort_size > num_users:
        raise ValueError(
            f"expected a cohort_size of at most {num_users} (users), got {cohort_size}; lower cohort_size"
        )
    drawn = drawing(sampling).draw(key, round_index, num_users=num_users, cohort_size=cohort_size)
    cohort = drawn if isinstance(drawn, Cohort) else Cohort(jnp.asarray(drawn))
    is_user = (cohort.client_ids >= 0) & (cohort.client_ids < num_users)
    return cohort._replace(client_ids=jnp.where(is_user, cohort.client_ids, num_users).astype(jnp.int32))


def drawing(sampling: str | Sampler | Drawing) -> Drawing:
    """Return the drawing of a named sampling, or of a function.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(sampling, Drawing):
        return sampling
    if callable(sampling):
        return Drawing(Partial(_own, as_pytree(sampling)))
    if sampling not in _DRAWINGS:
        raise ValueError(
            f"expected sampling to be one of {get_args(Sampling)} or a function, got {sampling!r}"
        )
    return Drawing(Partial(_DRAWINGS[sampling]))


def draw_cohorts(
    key: Key,
    first_round: Int[Array, ""],
    *,
    num_rounds: int,
    num_users: int,
    cohort_size: int | None,
    sampling: Sampling | Sampler | Drawing,
) -> Cohort:
    """Draw the cohorts of rounds `first_round`, `first_round + 1`, ...; other arguments as for `draw_cohort`.

    Compiled once for all models.
    """
    return _draw_cohorts(num_rounds, num_users, cohort_size, key, first_round, drawing(sampling))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _draw_cohorts(
    num_rounds: int, num_users: int, cohort_size: int | None, key: Key, first_round: Array, sampling: Drawing
) -> Cohort:
    def draw(round_index: Array) -> Cohort:
        return draw_cohort(key, round_index, num_users=num_users, cohort_size=cohort_size, sampling=sampling)

    return jax.lax.map(draw, first_round + jnp.arange(num_rounds, dtype=jnp.int32))


def _own(sampler: Sampler, key: Key, round_index: Array, *, num_users: int, cohort_size: int):
    key_of_round = _cohort_key(key, round_index)
    return sampler(key_of_round, round_index, num_users=num_users, cohort_size=cohort_size)


def _shuffled(key: Key, round_index: Array, *, num_users: int, cohort_size: int) -> Array:
    pass_index, turn = jnp.divmod(round_index, num_users // cohort_size)
    places = turn * cohort_size + jnp.arange(cohort_size, dtype=turn.dtype)
    return permute(_cohort_key(key, pass_index), places, size=num_users)


def _independent(key: Key, round_index: Array, *, num_users: int, cohort_size: int) -> Array:
    bits = jax.random.bits(_cohort_key(key, round_index), (num_users,), jnp.uint32) >> 2
    ranks = jax.lax.bitcast_convert_type(bits, jnp.float32)  # finite, in the same order
    return jax.lax.top_k(ranks, cohort_size)[1]  # on CPUs fast for floats only


def _poisson(key: Key, round_index: Array, *, num_users: int, cohort_size: int) -> Array:
    of_user = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = of_user(_cohort_key(key, round_index), jnp.arange(num_users))
    threshold = jnp.uint32(min(round(2**32 * cohort_size / num_users), 2**32 - 1))
    takes_part = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(keys) < threshold
    capacity = poisson_capacity(num_users=num_users, cohort_size=cohort_size)
    return jnp.nonzero(takes_part, size=capacity, fill_value=num_users)[0]


_DRAWINGS = {"shuffled": _shuffled, "independent": _independent, "poisson": _poisson}


def poisson_capacity(*, num_users: int, cohort_size: int) -> int:
    """Compute the capacity of a Poisson sample: more users are drawn with probability below 2e-14.

    The excess is left out. The bound is Bernstein's inequality, for any expected cohort size.
    """
    return min(num_users, cohort_size + math.ceil(8 * math.sqrt(cohort_size)) + 20)


def permute(key: Key, positions: Int[Array, "n"], *, size: int) -> Int[Array, "n"]:
    """Evaluate a pseudo-random permutation of range(size) at `positions`, without building the permutation.

    A Feistel network on the next power of two; values outside the range pass through it again.

    References:
        Luby & Rackoff, SIAM J. Comput. 17 (1988); Black & Rogaway, CT-RSA 2002 (cycle walking).
    """
    bits = max((size - 1).bit_length(), 2)
    subkeys = jax.random.bits(key, (_SHUFFLING_ROUNDS,), jnp.uint32)

    def exchange(values: Array) -> Array:
        low, high = bits // 2, bits - bits // 2
        for subkey in subkeys:
            left, right = values >> low, values & jnp.uint32(2**low - 1)
            left = (left ^ _scramble(right ^ subkey)) & jnp.uint32(2**high - 1)
            values, low, high = (right << high) | left, high, low
        return values

    permuted = jax.lax.while_loop(
        lambda values: jnp.any(values >= size),
        lambda values: jnp.where(values >= size, exchange(values), values),
        exchange(positions.astype(jnp.uint32)),
    )
    return permuted.astype(jnp.int32)


def _scramble(values: Array) -> Array:
    """Mix the bits, so that each output bit depends on all input bits: the finalizer of MurmurHash3."""
    values = (values ^ (values >> 16)) * jnp.uint32(0x85EBCA6B)
    values = (values ^ (values >> 13)) * jnp.uint32(0xC2B2AE35)
    return values ^ (values >> 16)


def _cohort_key(key: Key, index: Int[Array, ""]) -> Key:
    return round_keys(key, index).cohort
