"""The sum of a cohort's uploads, with masks and without: the same integers, bit for bit.

Simulated in one process: the work of all clients is done here, and `ServerView` holds what the server gets.
What a client does alone (keys, masks) is in `protocol`, and used here as there.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt32

from fcf_jax.channel.fixed_point import Formats, Stds, check_formats
from fcf_jax.core.cohort_sum import add_unobserved
from fcf_jax.core.packing import one_chunk_each, present_ids
from fcf_jax.core.records import CohortSum, Key, Link, Model, PackedClients, Pieces, as_pytree
from fcf_jax.privacy.secure_sum import protocol
from fcf_jax.privacy.secure_sum.keys import Binding, Entropy, model_hash
from fcf_jax.privacy.secure_sum.masks import masked_words, sum_of_masks
from fcf_jax.privacy.secure_sum.protocol import ServerView
from fcf_jax.privacy.secure_sum.uploads import (
    ClientUploads,
    client_uploads,
    count_words,
    read_sum,
    upload_words,
)

_SHAPES = 16  # clients and streams are padded to multiples of this, so that few shapes are compiled


class NoiseShares(NamedTuple):
    """Noise that the clients add among themselves, so that no server adds any.

    Each adds N(0, std^2 / num_shares). With fewer than `num_shares` survivors the sum is refused, so it has
    at least `std`. Clients that conspire with the server can subtract their own shares.

    Attributes:
        key: of the noise; in earnest from the operating system's entropy, each client its own.
        stds: standard deviation of the sum in each piece; None or 0 for none.
        num_shares: clients whose noise adds up to `stds`.
    """

    key: Key
    stds: Stds
    num_shares: int


class Encoding(NamedTuple):
    """How a client's upload becomes words.

    Attributes:
        formats: from `choose_formats`; None for a piece that is not sent, of which the sum is nan.
        noise: added by the clients before rounding; None for none.
        is_sparse: clients leave -w0 s x out of their uploads, and the server adds it for all of them from the
            sum of x x^T, which must be sent: the integers of `fcf_jax.channel.fixed_point`, hence of a
            training.
    """

    formats: Formats
    noise: NoiseShares | None = None
    is_sparse: bool = False


class RoundTerms(NamedTuple):
    """What a secure sum is bound to, and what it is refused for.

    Attributes:
        round_index: masks are bound to it; no two rounds of one model may share it.
        rules: by default 20 neighbors, a majority of them, at least 100 clients.
        earlier_cohorts: `SecureSumInfo.cohort` of earlier rounds; a cohort that nearly equals one is refused.
        entropy: of keys and shares; other than the operating system's in tests only.
    """

    round_index: int
    rules: protocol.SumRules = protocol.SumRules()
    earlier_cohorts: Sequence[np.ndarray] = ()
    entropy: Entropy = os.urandom


class SecureSumInfo(NamedTuple):
    """What a simulation knows of a round and a server would not.

    Attributes:
        cohort: ids of the survivors: an earlier cohort for the next rounds.
        num_clipped_clients: clients with a_u < 1.
        num_clipped_entries: numbers clipped to the bounds of the formats.
        solve_error: the worst client's.
    """

    cohort: np.ndarray
    num_clipped_clients: int
    num_clipped_entries: int
    solve_error: float


class _Cohort(NamedTuple):
    """The clients of a round, and the model that they solve."""

    model: Model
    item_factors: Array
    clients: PackedClients
    channel: Link | None


def secure_cohort_sum(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    encoding: Encoding,
    terms: RoundTerms,
    *,
    channel: Link | None = None,
    dropped: Sequence[int] = (),
    mesh: Mesh | None = None,
) -> tuple[CohortSum, ServerView, SecureSumInfo]:
    """Sum what all packed clients send so that the server learns only the sum.

    Runs on the host: keys and shares are Python objects and cannot be traced.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y; masks are bound to it.
        clients: the cohort.
        encoding: how uploads become words.
        terms: of the round.
        channel: whose client ends are applied before the encoding, such as clipping.
        dropped: ids of clients that have dealt keys and then send nothing.
        mesh: devices that share the masks, along an axis "clients".

    Returns:
        What a server step takes, all that the server saw, and what only a simulation knows.

    Raises:
        ValueError: for sums that could overflow, and for a cohort that the rules refuse.
        ImportError: without the package `cryptography`.

    References:
        Bonawitz et al., CCS 2017; Bell et al., CCS 2020.
    """
    ids = present_ids(clients)
    stds = _check(encoding, num_clients=ids.size)
    facts = protocol.open_round(ids, Binding(model_hash(item_factors), terms.round_index), terms.rules)
    secrets = protocol.deal_secrets(facts, terms.entropy)
    public_keys = tuple(one.keys.public for one in secrets)
    request = protocol.declare(facts, np.flatnonzero(~np.isin(ids, dropped)).tolist())
    _check_survivors(encoding.noise, len(request.survivors))
    protocol.check_request(facts, request, terms.earlier_cohorts)

    streams = [protocol.mask_streams(facts, who, secrets[who], public_keys) for who in request.survivors]
    survivors = ids[list(request.survivors)]
    cohort = _Cohort(as_pytree(model), item_factors, clients, channel)
    chunks = _uploads_by_chunk(cohort, survivors, is_sparse=encoding.is_sparse)
    masked, info = _mask_chunks(chunks, survivors, *_stacked(streams), encoding, stds, mesh=mesh)
    revealed = protocol.collect_shares(facts, secrets, request)
    removed = protocol.streams_to_remove(facts, public_keys, request, revealed)
    total = unmask(masked, *removed, mesh=mesh)
    sums = _read(jnp.asarray(total), encoding, cohort, survivors.size)
    return sums, ServerView(facts, public_keys, request, masked, revealed, total), info


def plain_integer_sum(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    encoding: Encoding,
    *,
    channel: Link | None = None,
    dropped: Sequence[int] = (),
) -> tuple[CohortSum, np.ndarray, SecureSumInfo]:
    """Sum the same integers without masks; arguments as of `secure_cohort_sum`.

    Returns:
        The sums, their words, and the info.

    Raises:
        ValueError: for sums that could overflow.
    """
    formats, ids = encoding.formats, present_ids(clients)
    stds = _check(encoding, num_clients=ids.size)
    survivors = ids[~np.isin(ids, dropped)]
    _check_survivors(encoding.noise, survivors.size)
    cohort = _Cohort(as_pytree(model), item_factors, clients, channel)
    num_items, num_factors = item_factors.shape
    words = np.zeros(count_words(formats, num_items=num_items, num_factors=num_factors), np.uint32)
    clipped, entries, worst = 0, 0, 0.0
    for uploads, error in _uploads_by_chunk(cohort, survivors, is_sparse=encoding.is_sparse):
        of_chunk, cut = _integer_sum(uploads, _key(encoding), formats=formats, noise_stds=stds)
        words, entries, worst = words + np.asarray(of_chunk), entries + int(cut), max(worst, float(error))
        clipped += int(jnp.sum(uploads.is_clipped))
    sums = _read(jnp.asarray(words), encoding, cohort, survivors.size)
    return sums, words, SecureSumInfo(survivors, clipped, entries, worst)


def mask_uploads(
    uploads: ClientUploads,
    seeds: np.ndarray,
    signs: np.ndarray,
    formats: Formats,
    noise_stds: Stds | None = None,
    key: Key | None = None,
    *,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, int]:
    """Compute the masked words of all these clients; both ends of each pair derive its mask.

    Returns:
        The words, [clients, words], and how many entries were clipped to the bounds of the formats.
    """
    num_clients, num_shares = seeds.shape[0], _num_shares(mesh)
    places = np.arange(num_clients + -num_clients % (_SHAPES * num_shares)) % num_clients
    of_client = jax.tree.map(lambda leaf: leaf[places], uploads)
    words_of = _Words(formats, noise_stds)
    keys = None if key is None else jnp.broadcast_to(key, places.shape)
    masked, entries = masked_words(
        words_of, (of_client, keys), jnp.asarray(seeds[places]), jnp.asarray(signs[places]), mesh
    )
    return np.asarray(masked)[:num_clients], int(np.asarray(entries)[:num_clients].sum())


def unmask(
    masked: np.ndarray, seeds: np.ndarray, signs: np.ndarray, *, mesh: Mesh | None = None
) -> np.ndarray:
    """Sum masked words and subtract the remaining masks, as the server does."""
    missing = -len(signs) % (_SHAPES * _num_shares(mesh))
    seeds, signs = np.pad(seeds, ((0, missing), (0, 0))), np.pad(signs, (0, missing))  # sign 0: left out
    masks = sum_of_masks(jnp.asarray(seeds), jnp.asarray(signs), masked.shape[1], mesh)
    return masked.sum(axis=0, dtype=np.uint32) + np.asarray(masks)


class _Words(NamedTuple):
    """Map from one client's upload and the key of the noise to its words; equal if made of equal parts."""

    formats: Formats
    noise_stds: Stds | None

    def __call__(self, upload: tuple[ClientUploads, Key | None]) -> tuple[Array, Array]:
        return upload_words(upload[0], self.formats, self.noise_stds, upload[1])


@partial(jax.jit, static_argnames=("formats", "noise_stds"))
def _integer_sum(
    uploads: ClientUploads, key: Key | None, *, formats: Formats, noise_stds: Stds | None
) -> tuple[UInt32[Array, "words"], Int[Array, ""]]:
    """Sum the clients' words, and count clipped entries, one client at a time."""

    def words_of(upload: ClientUploads) -> tuple[Array, Array]:
        return upload_words(upload, formats, noise_stds, key)

    def add(total: tuple[Array, Array], upload: ClientUploads) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(jnp.add, total, words_of(upload)), None

    one = jax.tree.map(lambda leaf: leaf[0], uploads)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(words_of, one))
    return jax.lax.scan(add, nothing, uploads)[0]


@partial(jax.jit, static_argnames="is_sparse")
def _uploads(cohort: _Cohort, *, is_sparse: bool) -> tuple[ClientUploads, Array]:
    return client_uploads(
        cohort.model, cohort.item_factors, cohort.clients, channel=cohort.channel, is_sparse=is_sparse
    )


def _uploads_by_chunk(
    cohort: _Cohort, survivors: np.ndarray, *, is_sparse: bool
) -> Iterator[tuple[ClientUploads, Array]]:
    """Solve chunk by chunk, so that the dense residuals of only few clients exist at a time."""
    for chunk in one_chunk_each(cohort.clients):
        uploads, error = _uploads(cohort._replace(clients=chunk), is_sparse=is_sparse)
        places = np.flatnonzero(np.isin(np.asarray(chunk.client_ids)[0], survivors))
        if places.size:
            yield jax.tree.map(lambda leaf, places=places: leaf[places], uploads), error


def _mask_chunks(
    chunks: Iterable[tuple[ClientUploads, Array]],
    survivors: np.ndarray,
    seeds: np.ndarray,
    signs: np.ndarray,
    encoding: Encoding,
    stds: Stds | None,
    *,
    mesh: Mesh | None,
) -> tuple[np.ndarray, SecureSumInfo]:
    masked, done, clipped, entries, worst = [], 0, 0, 0, 0.0
    for uploads, error in chunks:
        own = slice(done, done + uploads.loss.shape[0])
        words, of_chunk = mask_uploads(
            uploads, seeds[own], signs[own], encoding.formats, stds, _key(encoding), mesh=mesh
        )
        masked.append(words)
        done, entries, worst = own.stop, entries + of_chunk, max(worst, float(error))
        clipped += int(jnp.sum(uploads.is_clipped))
    return np.concatenate(masked), SecureSumInfo(survivors, clipped, entries, worst)


def _read(words: Array, encoding: Encoding, cohort: _Cohort, num_clients: int) -> CohortSum:
    sums = read_sum(words, encoding.formats, item_factors=cohort.item_factors, num_clients=num_clients)
    return add_unobserved(cohort.model, cohort.item_factors, sums) if encoding.is_sparse else sums


def _stacked(streams: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([seeds for seeds, _ in streams]), np.stack([signs for _, signs in streams])


def _check(encoding: Encoding, *, num_clients: int) -> Stds | None:
    """Rule out overflow, with everybody's noise; return the standard deviations of one client's."""
    formats, noise = encoding.formats, encoding.noise
    if encoding.is_sparse and formats.user_gram is None:
        raise ValueError("expected a format of user_gram for sparse uploads, got None; give it a bound")
    if noise is None:
        check_formats(formats, max_clients=num_clients)
        return None

    def scaled(factor: float) -> Stds:
        return Pieces(*(None if std is None else float(std) * factor for std in noise.stds))

    share = noise.num_shares**-0.5
    check_formats(formats, max_clients=num_clients, noise_stds=scaled(share * num_clients**0.5))
    return scaled(share)


def _check_survivors(noise: NoiseShares | None, num_survivors: int) -> None:
    if noise is not None and num_survivors < noise.num_shares:
        raise ValueError(
            f"expected at least {noise.num_shares} survivors (num_shares of the noise), got {num_survivors}; "
            "repeat the round"
        )


def _key(encoding: Encoding) -> Key | None:
    return None if encoding.noise is None else encoding.noise.key


def _num_shares(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["clients"]
