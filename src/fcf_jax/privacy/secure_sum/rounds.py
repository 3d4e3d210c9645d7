"""Sums of a cohort's uploads with masks and without: the same integers, bit for bit.

A simulation in one process: it does the work of all clients, and `ServerView` holds what the server receives.
The steps of a single client (keys, masks) are those of `protocol`.
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
from fcf_jax.core.accumulation import add_unobserved
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

_LEAST_SHARE = 2.0  # units 2^-f of a share's standard deviation, from which on sums of shares are as one draw
_MULTIPLE = 16  # clients and streams are padded to a multiple of this, so that few shapes are compiled


class NoiseShares(NamedTuple):
    """Noise that the clients add in shares, so that the server need not add any.

    Each client adds discrete Gaussian noise of variance std^2 / num_shares. A sum with fewer than
    `num_shares` survivors is refused, so its noise has at least the standard deviation `std`. Clients that
    collude with the server can subtract their shares.

    Attributes:
        key: key of all clients' noise, for simulation; a real client draws from its system's entropy.
        stds: standard deviation of the noise on the sum, for each piece; None or 0 for no noise.
        num_shares: number of clients whose shares add up to `stds`.
    """

    key: Key
    stds: Stds
    num_shares: int


class Encoding(NamedTuple):
    """Encoding of a client's upload as words.

    Attributes:
        formats: result of `choose_formats`; None for a piece that is not sent, whose sum is nan.
        noise: discrete noise that the clients add after rounding; None: no noise.
        is_sparse: True if clients leave -w0 s x out of their uploads, and the server adds it from the sum of
            x x^T, which must then be sent; the integers are those of `fcf_jax.channel.fixed_point`.
    """

    formats: Formats
    noise: NoiseShares | None = None
    is_sparse: bool = False


class RoundTerms(NamedTuple):
    """Terms of one secure sum: the round that its masks are bound to, and the cohorts that it accepts.

    Attributes:
        round_index: index of the round, different for all rounds of a model.
        rules: by default 20 neighbors, a majority of them, at least 100 clients.
        earlier_cohorts: `SecureSumInfo.cohort` of earlier rounds; a cohort too similar to one is refused.
        entropy: source of keys and shares; the operating system's, except in tests.
    """

    round_index: int
    rules: protocol.SumRules = protocol.SumRules()
    earlier_cohorts: Sequence[np.ndarray] = ()
    entropy: Entropy = os.urandom


class SecureSumInfo(NamedTuple):
    """Report of a secure sum that only a simulation can make, since no server knows these.

    Attributes:
        cohort: ids of the survivors; one of the `earlier_cohorts` of later rounds.
        num_clipped_clients: number of clients with a_u < 1.
        num_clipped_entries: number of entries clipped to the bounds of the formats.
        solve_error: largest solve error of a client.
    """

    cohort: np.ndarray
    num_clipped_clients: int
    num_clipped_entries: int
    solve_error: float


class _Cohort(NamedTuple):
    """The clients of a round, with the model, Y and channel that they use."""

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
    """Sum the uploads of all packed clients so that the server learns only the sum.

    Runs on the host: keys and shares are Python objects and cannot be traced.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y; masks are bound to it.
        clients: the cohort.
        encoding: encoding of uploads as words.
        terms: terms of the round.
        channel: its client ends, such as clipping, are applied before the encoding; None: no channel.
        dropped: ids of clients that drop out after the exchange of keys.
        mesh: devices that share the masks, along its axis "clients"; None: one device.

    Returns:
        The input of a server step, all that the server received, and a report of the simulation.

    Raises:
        ValueError: if a sum could overflow, or the rules refuse the cohort.
        ImportError: if the package `cryptography` is missing.

    References:
        Bonawitz et al., CCS 2017; Bell et al., CCS 2020.
    """
    ids = present_ids(clients)
    stds = _check(encoding, num_clients=ids.size)
    facts = protocol.open_round(ids, Binding(model_hash(item_factors), terms.round_index), terms.rules)
    secrets = protocol.deal_secrets(facts, terms.entropy)
    public_keys = tuple(of_client.keys.public for of_client in secrets)
    request = protocol.declare(facts, np.flatnonzero(~np.isin(ids, dropped)).tolist())
    _check_survivors(encoding.noise, len(request.survivors))
    protocol.check_request(facts, request, terms.earlier_cohorts)

    streams = [protocol.mask_streams(facts, who, secrets[who], public_keys) for who in request.survivors]
    survivors = ids[list(request.survivors)]
    cohort = _Cohort(as_pytree(model), item_factors, clients, channel)
    chunks = _uploads_by_chunk(cohort, survivors, is_sparse=encoding.is_sparse)
    seeds, signs = (np.stack(parts) for parts in zip(*streams, strict=True))
    masked, info = _mask_chunks(chunks, survivors, seeds, signs, encoding, stds, mesh=mesh)
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
    """Sum the same integers without masks; arguments as for `secure_cohort_sum`.

    Returns:
        The sums, their words, and a report.

    Raises:
        ValueError: if a sum could overflow.
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
    """Encode the uploads of clients as words, and add their masks.

    Args:
        uploads: uploads of the clients.
        seeds: seeds of the masks, [clients, streams, 8]; both clients of a pair derive the same mask.
        signs: 1 to add a mask, 2^32 - 1 to subtract it, [clients, streams].
        formats: format of each piece; None for a piece that is not sent.
        noise_stds: standard deviation of one client's noise, for each piece; None: no noise.
        key: key of the noise.
        mesh: devices that share the masks, along its axis "clients"; None: one device.

    Returns:
        The words, [clients, words], and the number of entries clipped to the bounds of the formats.
    """
    num_clients, num_shares = seeds.shape[0], _num_shares(mesh)
    places = np.arange(num_clients + -num_clients % (_MULTIPLE * num_shares)) % num_clients
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
    """Sum masked words [clients, words], and remove the masks of `protocol.streams_to_remove`."""
    missing = -len(signs) % (_MULTIPLE * _num_shares(mesh))
    seeds, signs = np.pad(seeds, ((0, missing), (0, 0))), np.pad(signs, (0, missing))  # sign 0: no mask
    masks = sum_of_masks(jnp.asarray(seeds), jnp.asarray(signs), masked.shape[1], mesh)
    return masked.sum(axis=0, dtype=np.uint32) + np.asarray(masks)


class _Words(NamedTuple):
    """Map from an upload and the key of the noise to words; instances with equal fields are equal."""

    formats: Formats
    noise_stds: Stds | None

    def __call__(self, upload: tuple[ClientUploads, Key | None]) -> tuple[Array, Array]:
        return upload_words(upload[0], self.formats, self.noise_stds, upload[1])


@partial(jax.jit, static_argnames=("formats", "noise_stds"))
def _integer_sum(
    uploads: ClientUploads, key: Key | None, *, formats: Formats, noise_stds: Stds | None
) -> tuple[UInt32[Array, "words"], Int[Array, ""]]:
    """Sum the words of the clients, and their clipped entries, one client at a time."""

    def words_of(upload: ClientUploads) -> tuple[Array, Array]:
        return upload_words(upload, formats, noise_stds, key)

    def add(total: tuple[Array, Array], upload: ClientUploads) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(jnp.add, total, words_of(upload)), None

    shapes = jax.eval_shape(words_of, jax.tree.map(lambda leaf: leaf[0], uploads))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, uploads)[0]


@partial(jax.jit, static_argnames="is_sparse")
def _uploads(cohort: _Cohort, *, is_sparse: bool) -> tuple[ClientUploads, Array]:
    return client_uploads(
        cohort.model, cohort.item_factors, cohort.clients, channel=cohort.channel, is_sparse=is_sparse
    )


def _uploads_by_chunk(
    cohort: _Cohort, survivors: np.ndarray, *, is_sparse: bool
) -> Iterator[tuple[ClientUploads, Array]]:
    """Solve chunk by chunk, so that dense residuals exist only for the clients of one chunk."""
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
        chunk = slice(done, done + uploads.loss.shape[0])
        words, of_chunk = mask_uploads(
            uploads, seeds[chunk], signs[chunk], encoding.formats, stds, _key(encoding), mesh=mesh
        )
        masked.append(words)
        done, entries, worst = chunk.stop, entries + of_chunk, max(worst, float(error))
        clipped += int(jnp.sum(uploads.is_clipped))
    return np.concatenate(masked), SecureSumInfo(survivors, clipped, entries, worst)


def _read(words: Array, encoding: Encoding, cohort: _Cohort, num_clients: int) -> CohortSum:
    sums = read_sum(words, encoding.formats, item_factors=cohort.item_factors, num_clients=num_clients)
    return add_unobserved(cohort.model, cohort.item_factors, sums) if encoding.is_sparse else sums


def _check(encoding: Encoding, *, num_clients: int) -> Stds | None:
    """Check that no sum can overflow; return the standard deviations of one client's share of the noise."""
    formats, noise = encoding.formats, encoding.noise
    if encoding.is_sparse and formats.user_gram is None:
        raise ValueError("expected a format of user_gram for sparse uploads, got None; choose its bound")
    if noise is None:
        check_formats(formats, max_clients=num_clients)
        return None

    def scaled(factor: float) -> Stds:
        return Pieces(*(None if std is None else float(std) * factor for std in noise.stds))

    share = noise.num_shares**-0.5
    check_formats(formats, max_clients=num_clients, noise_stds=scaled(share * num_clients**0.5))
    _check_shares(formats, shares := scaled(share))
    return shares


def _check_shares(formats: Formats, shares: Stds) -> None:
    for name, number, std in zip(Pieces._fields, formats, shares, strict=True):
        if number is not None and std and std * 2.0**number.fraction_bits < _LEAST_SHARE:
            raise ValueError(
                f"expected fraction_bits of {name} such that a client's share of the noise has a standard "
                f"deviation of at least {_LEAST_SHARE:g} units, got {std * 2.0**number.fraction_bits:.3g}; "
                "raise fraction_bits or the noise"
            )


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
