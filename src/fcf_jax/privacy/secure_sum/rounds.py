"""The sum of a cohort's uploads, securely and plainly: the same integers, bit for bit.

Simulated in one process: all clients' work is done here, and `ServerView` keeps apart what the
server gets. What a client does by itself (keys, masks) is in `protocol`, and used here as there.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt32

from fcf_jax.core.cohort_sum import add_unseen
from fcf_jax.core.records import Clip, CohortSum, Key, PackedClients, Scalar, SentNorms, Weighting
from fcf_jax.core.weighting import as_pytree
from fcf_jax.privacy.secure_sum import protocol
from fcf_jax.privacy.secure_sum.fixed_point import check_formats
from fcf_jax.privacy.secure_sum.keys import Binding, Entropy, model_hash
from fcf_jax.privacy.secure_sum.masks import masked_words, sum_of_masks
from fcf_jax.privacy.secure_sum.pieces import count_words
from fcf_jax.privacy.secure_sum.protocol import ServerView
from fcf_jax.privacy.secure_sum.uploads import (
    ClientUploads,
    client_uploads,
    read_sum,
    upload_words,
)

_SHAPES = 16  # clients and streams are filled up to multiples of this, so that few shapes are compiled


class NoiseShares(NamedTuple):
    """Noise that the clients add among themselves, so that no server adds any.

    Each adds N(0, std^2 / num_shares). Should fewer than `num_shares` remain, the sum is refused: it has
    at least `std` then. Clients that conspire with the server can take their own shares off.
    """

    key: Key  # in earnest from the operating system's entropy, each client its own
    stds: SentNorms  # of the sum, in each piece; None or 0 for none
    num_shares: int


class SecureSumInfo(NamedTuple):
    """What a simulation knows of a round, and a server would not."""

    cohort: np.ndarray  # ids of the survivors: an earlier cohort for the next rounds
    num_clipped_clients: int
    num_clipped_entries: int  # by the bounds of the formats
    solve_error: float


def secure_cohort_sum(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    formats: SentNorms,
    round_index: int,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    noise: NoiseShares | None = None,
    rules: protocol.SumRules | None = None,
    dropped: Sequence[int] = (),
    is_sparse: bool = False,
    earlier_cohorts: Sequence[np.ndarray] = (),
    entropy: Entropy = os.urandom,
    mesh: Mesh | None = None,
) -> tuple[CohortSum, ServerView, SecureSumInfo]:
    """Sum what all packed clients send so that the server learns the sum only.

    On the host, and not to be traced: keys and shares are no matter for arrays.

    Args:
        item_factors: Y; masks are bound to it.
        regularization: lambda, at least 0.
        formats: from `choose_formats`; None for a piece that is not sent, of which the sum is nan.
        round_index: masks are bound to it, and no two rounds of one model may share it.
        unobserved_weight: w0, the confidence of items outside a history.
        clip: from the norms of what a client sends to the factor that scales all of it.
        noise: added by the clients before rounding.
        rules: None: 20 neighbours, a majority of them, 100 clients at least.
        dropped: ids of clients that have dealt keys and then send nothing.
        is_sparse: clients leave -w0 s x out of their uploads, and the server adds it for all from the
            sum of x x^T, which has to be sent: the integers of `fixed_point_sums`, hence of a training.
        earlier_cohorts: `info.cohort` of earlier rounds; a cohort that nearly equals one is refused.
        entropy: of keys and shares; other than the operating system's in tests only.
        mesh: devices that share the masks, along an axis "clients".

    Raises:
        ValueError: for sums that could overflow, and for a cohort that the rules refuse.
        ImportError: without the package `cryptography`.

    References:
        Bonawitz et al., CCS 2017; Bell et al., CCS 2020.
    """
    rules = protocol.SumRules() if rules is None else rules
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    ids = _ids_of(clients)
    stds = _check(formats, noise, num_clients=ids.size, is_sparse=is_sparse)
    facts = protocol.open_round(ids, Binding(model_hash(item_factors), round_index), rules)
    secrets = protocol.deal_secrets(facts, entropy)
    public_keys = tuple(one.keys.public for one in secrets)
    request = protocol.declare(facts, np.flatnonzero(~np.isin(ids, dropped)).tolist())
    _check_survivors(noise, len(request.survivors))
    protocol.check_request(facts, request, earlier_cohorts)

    streams = [protocol.mask_streams(facts, who, secrets[who], public_keys) for who in request.survivors]
    cohort = ids[list(request.survivors)]
    work = item_factors, clients, as_pytree(weighting), as_pytree(clip), weights
    one_by_one = _uploads_by_chunk(*work, cohort, is_sparse=is_sparse)
    masked, info = _mask_chunks(one_by_one, cohort, *_stacked(streams), formats, stds, _key(noise), mesh=mesh)
    revealed = protocol.collect_shares(facts, secrets, request)
    removed = protocol.streams_to_remove(facts, public_keys, request, revealed)
    total = unmask(masked, *removed, mesh=mesh)
    sums = _read(jnp.asarray(total), formats, item_factors, cohort.size, weights, is_sparse=is_sparse)
    return sums, ServerView(facts, public_keys, request, masked, revealed, total), info


def plain_integer_sum(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    formats: SentNorms,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    noise: NoiseShares | None = None,
    dropped: Sequence[int] = (),
    is_sparse: bool = False,
) -> tuple[CohortSum, np.ndarray, SecureSumInfo]:
    """Sum the same integers without masks; arguments as for `secure_cohort_sum`.

    Returns:
        The sums, their words, and the info.

    Raises:
        ValueError: for sums that could overflow.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    ids = _ids_of(clients)
    stds = _check(formats, noise, num_clients=ids.size, is_sparse=is_sparse)
    cohort = ids[~np.isin(ids, dropped)]
    _check_survivors(noise, cohort.size)
    work = item_factors, clients, as_pytree(weighting), as_pytree(clip), weights
    num_items, num_factors = item_factors.shape
    words = np.zeros(count_words(formats, num_items=num_items, num_factors=num_factors), np.uint32)
    clipped, entries, worst = 0, 0, 0.0
    for uploads, error in _uploads_by_chunk(*work, cohort, is_sparse=is_sparse):
        of_chunk, cut = _integer_sum(uploads, _key(noise), formats=formats, noise_stds=stds)
        words, entries, worst = words + np.asarray(of_chunk), entries + int(cut), max(worst, float(error))
        clipped += int(jnp.sum(uploads.is_clipped))
    sums = _read(jnp.asarray(words), formats, item_factors, cohort.size, weights, is_sparse=is_sparse)
    return sums, words, SecureSumInfo(cohort, clipped, entries, worst)


def mask_uploads(
    uploads: ClientUploads,
    seeds: np.ndarray,
    signs: np.ndarray,
    formats: SentNorms,
    noise_stds: SentNorms | None = None,
    key: Key | None = None,
    *,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, int]:
    """Compute the masked words of all these clients; both ends make each pair's mask.

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
    """Sum masked words and take off the masks that are left, as the server does."""
    missing = -len(signs) % (_SHAPES * _num_shares(mesh))
    seeds, signs = np.pad(seeds, ((0, missing), (0, 0))), np.pad(signs, (0, missing))  # sign 0: left out
    masks = sum_of_masks(jnp.asarray(seeds), jnp.asarray(signs), masked.shape[1], mesh)
    return masked.sum(axis=0, dtype=np.uint32) + np.asarray(masks)


class _Words(NamedTuple):
    """From one client's upload and the key of the noise to its words; equal if made of equal parts."""

    formats: SentNorms
    noise_stds: SentNorms | None

    def __call__(self, upload: tuple[ClientUploads, Key | None]) -> tuple[Array, Array]:
        return upload_words(upload[0], self.formats, self.noise_stds, upload[1])


@partial(jax.jit, static_argnames=("formats", "noise_stds"))
def _integer_sum(
    uploads: ClientUploads, key: Key | None, *, formats: SentNorms, noise_stds: SentNorms | None
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
def _uploads(
    item_factors: Array,
    clients: PackedClients,
    weighting: Weighting,
    clip: Clip | None,
    weights: dict,
    *,
    is_sparse: bool,
) -> tuple[ClientUploads, Array]:
    return client_uploads(item_factors, clients, weighting, clip=clip, is_sparse=is_sparse, **weights)


def _uploads_by_chunk(
    item_factors: Array,
    clients: PackedClients,
    weighting: Weighting,
    clip: Clip | None,
    weights: dict,
    cohort: np.ndarray,
    *,
    is_sparse: bool,
) -> Iterator[tuple[ClientUploads, Array]]:
    """Let one chunk after the other send, so that dense residuals of few clients exist at a time."""
    for chunk in range(clients.owners.shape[0]):
        parts = clients.rows, clients.owners, clients.client_ids
        rows, owners, client_ids = jax.tree.map(lambda leaf, chunk=chunk: leaf[chunk : chunk + 1], parts)
        one = clients._replace(rows=rows, owners=owners, client_ids=client_ids)
        uploads, error = _uploads(item_factors, one, weighting, clip, weights, is_sparse=is_sparse)
        places = np.flatnonzero(np.isin(np.asarray(client_ids)[0], cohort))
        if places.size:
            yield jax.tree.map(lambda leaf, places=places: leaf[places], uploads), error


def _mask_chunks(
    one_by_one: Iterable[tuple[ClientUploads, Array]],
    cohort: np.ndarray,
    seeds: np.ndarray,
    signs: np.ndarray,
    *noised_formats: Any,
    mesh: Mesh | None,
) -> tuple[np.ndarray, SecureSumInfo]:
    masked, done, clipped, entries, worst = [], 0, 0, 0, 0.0
    for uploads, error in one_by_one:
        own = slice(done, done + uploads.loss.shape[0])
        words, of_chunk = mask_uploads(uploads, seeds[own], signs[own], *noised_formats, mesh=mesh)
        masked.append(words)
        done, entries, worst = own.stop, entries + of_chunk, max(worst, float(error))
        clipped += int(jnp.sum(uploads.is_clipped))
    return np.concatenate(masked), SecureSumInfo(cohort, clipped, entries, worst)


def _read(
    words: Array,
    formats: SentNorms,
    item_factors: Array,
    num_clients: int,
    weights: dict,
    *,
    is_sparse: bool,
) -> CohortSum:
    sums = read_sum(words, formats, item_factors=item_factors, num_clients=num_clients)
    return add_unseen(item_factors, sums, weights["unobserved_weight"]) if is_sparse else sums


def _ids_of(clients: PackedClients) -> np.ndarray:
    """List who takes part, in the order of the chunks."""
    ids = np.asarray(clients.client_ids).ravel()
    return ids[ids < clients.row_counts.shape[0]]


def _stacked(streams: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([seeds for seeds, _ in streams]), np.stack([signs for _, signs in streams])


def _check(
    formats: SentNorms, noise: NoiseShares | None, *, num_clients: int, is_sparse: bool
) -> SentNorms | None:
    """Rule out overflow, with everybody's noise; return the standard deviations of one client's."""
    if is_sparse and formats.user_gram is None:
        raise ValueError("expected a format of user_gram for sparse uploads, got None; give it a bound")
    if noise is None:
        check_formats(formats, max_clients=num_clients)
        return None

    def scaled(factor: float) -> SentNorms:
        return SentNorms(*(None if std is None else float(std) * factor for std in noise.stds))

    share = noise.num_shares**-0.5
    check_formats(formats, max_clients=num_clients, noise_stds=scaled(share * num_clients**0.5))
    return scaled(share)


def _check_survivors(noise: NoiseShares | None, num_survivors: int) -> None:
    if noise is not None and num_survivors < noise.num_shares:
        raise ValueError(
            f"expected at least {noise.num_shares} survivors (num_shares of the noise), got {num_survivors}; "
            "repeat the round"
        )


def _key(noise: NoiseShares | None) -> Key | None:
    return None if noise is None else noise.key


def _num_shares(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.shape["clients"]
