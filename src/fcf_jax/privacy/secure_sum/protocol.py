r"""Protocol of a secure sum: keys, masks, and what is revealed to remove the masks from the sum.

    y_u = q_u + PRG(b_u) + \sum_{v in N(u), u < v} PRG(s_uv) - \sum_{v in N(u), v < u} PRG(s_uv)

Pair masks cancel between two clients that both sent. For clients that sent, neighbours reveal shares of
the self seed b_u; for clients that dropped out, shares of the key behind their s_uv. They never reveal both
of one client, which would expose its upload. The server follows the protocol but is curious; a server
that tells different clients different things fails as long as the threshold is a majority.

References:
    Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from fcf_jax.privacy.secure_sum.cohorts import differ_too_little, is_connected, neighbor_graph
from fcf_jax.privacy.secure_sum.keys import (
    SECRET_BYTES,
    SHARE_BYTES,
    Binding,
    Entropy,
    KeyPair,
    draw_key_pair,
    pair_seed,
    recover,
    share,
)
from fcf_jax.privacy.secure_sum.masks import words_from_bytes

_ADD, _SUBTRACT = 1, 2**32 - 1


class SumRules(NamedTuple):
    """Conditions of a sum; clients reveal nothing before they hold.

    Attributes:
        degree: neighbours of each client; more of them survive more dropouts (`degree_needed`).
        threshold: neighbours that recover a secret; None: a majority.
        min_cohort: least number of clients in a sum, and in the difference of two sums.
    """

    degree: int = 20
    threshold: int | None = None
    min_cohort: int = 100


def key_bytes(rules: SumRules) -> tuple[int, int]:
    """Count the bytes (up, down) of a client's keys and shares in a round, beside its words.

    A client sends its public key, to each neighbour a share of its private key and one of its self seed, and
    at the end one share of each neighbour's secrets; it receives its neighbours' keys and shares. Ids, and
    what encryption and transport add, are not counted.
    """
    shares = 2 * rules.degree * SHARE_BYTES
    return SECRET_BYTES + shares + rules.degree * SHARE_BYTES, rules.degree * SECRET_BYTES + shares


class RoundFacts(NamedTuple):
    """Public facts of a round before anything is sent; clients are identified by position.

    Attributes:
        client_ids: of the cohort.
        neighbors: positions of each client's neighbours.
        threshold: neighbours that recover a secret.
        binding: model and round that the masks are bound to.
        min_cohort: of the `SumRules`.
    """

    client_ids: Int[np.ndarray, "clients"]
    neighbors: Int[np.ndarray, "clients degree"]
    threshold: int
    binding: Binding
    min_cohort: int


class Request(NamedTuple):
    """The server's declaration of who sent and who dropped out: positions, ascending."""

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


class Revealed(NamedTuple):
    """Shares that neighbours revealed to the server: position of the owner -> of the holder -> share.

    Attributes:
        of_self_seeds: of the clients that sent.
        of_keys: of the clients that dropped out.
    """

    of_self_seeds: Mapping[int, Mapping[int, int]]
    of_keys: Mapping[int, Mapping[int, int]]


class ServerView(NamedTuple):
    """Everything that the server receives in a round.

    Shares on their way from client to client are not included: they pass the server encrypted or not at
    all, and that transport is not simulated.

    Attributes:
        facts: of the round.
        public_keys: of all clients.
        request: as declared by the server.
        masked: words of each survivor.
        revealed: shares.
        total: the sum of the survivors' words, without masks.
    """

    facts: RoundFacts
    public_keys: tuple[bytes, ...]
    request: Request
    masked: UInt32[np.ndarray, "survivors words"]
    revealed: Revealed
    total: UInt32[np.ndarray, "words"]


class ClientSecrets(NamedTuple):
    """Secrets of one client after dealing; shares by the position of their owner.

    Attributes:
        keys: its own.
        self_seed: seed of the mask that no other client shares.
        shares_of_keys: of its neighbours' private keys.
        shares_of_self_seeds: of its neighbours' self seeds.
    """

    keys: KeyPair
    self_seed: bytes
    shares_of_keys: dict[int, int]
    shares_of_self_seeds: dict[int, int]


def open_round(client_ids: Sequence[int] | np.ndarray, binding: Binding, rules: SumRules) -> RoundFacts:
    """Fix the public facts of a round.

    Raises:
        ValueError: for a cohort below the minimum or with a repeated client, or rules out of range.
    """
    ids = np.asarray(client_ids)
    if ids.size < max(rules.min_cohort, 2):
        raise ValueError(
            f"expected a cohort of at least {max(rules.min_cohort, 2)} (min_cohort), got {ids.size}; "
            "invite more"
        )
    if np.unique(ids).size != ids.size:
        raise ValueError("expected different client ids, got some twice; a client sends once per round")
    seed = hashlib.sha256(binding.model_hash + binding.round_index.to_bytes(8, "big")).digest()
    neighbors = neighbor_graph(ids.size, degree=rules.degree, seed=seed)
    degree = neighbors.shape[1]
    threshold = degree // 2 + 1 if rules.threshold is None else rules.threshold
    if not 1 <= threshold <= degree:
        raise ValueError(f"expected a threshold from 1 to {degree} (neighbours), got {threshold}")
    return RoundFacts(ids, neighbors, threshold, binding, rules.min_cohort)


def deal_secrets(facts: RoundFacts, entropy: Entropy) -> list[ClientSecrets]:
    """Draw the keys and self seed of each client, and deal shares of them to its neighbours."""
    keys = [draw_key_pair(entropy) for _ in facts.client_ids]
    seeds = [entropy(SECRET_BYTES) for _ in facts.client_ids]
    secrets = [ClientSecrets(pair, seed, {}, {}) for pair, seed in zip(keys, seeds, strict=True)]
    for owner, neighbors in enumerate(facts.neighbors.tolist()):
        of_key, of_seed = (
            share(secret, neighbors, threshold=facts.threshold, entropy=entropy)
            for secret in (keys[owner].private, seeds[owner])
        )
        for holder in neighbors:
            secrets[holder].shares_of_keys[owner] = of_key[holder]
            secrets[holder].shares_of_self_seeds[owner] = of_seed[holder]
    return secrets


def mask_streams(
    facts: RoundFacts, who: int, secrets: ClientSecrets, public_keys: Sequence[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the seeds and signs of all masks of one client, [degree + 1, 8] and [degree + 1].

    Uses only what that client knows; the other client of each pair computes the same seed by itself.

    Args:
        facts: of the round.
        who: position of the client.
        secrets: of this client.
        public_keys: of all clients.
    """
    others = facts.neighbors[who].tolist()
    seeds = [_seed(facts, secrets.keys.private, who, other, public_keys[other]) for other in others]
    signs = [_sign(facts, who, other) for other in others]
    return np.stack([words_from_bytes(secrets.self_seed), *seeds]), np.array([_ADD, *signs], np.uint32)


def declare(facts: RoundFacts, survivors: Sequence[int]) -> Request:
    """Declare who sent; all others have dropped out for the rest of the round."""
    present = tuple(sorted(survivors))
    return Request(present, tuple(sorted(set(range(facts.client_ids.size)) - set(present))))


def check_arrival(who: int, request: Request | None) -> None:
    """Raise ValueError if a client was declared dropped, since its pair masks are known by then."""
    if request is not None and who in request.dropped:
        raise ValueError(
            f"expected no upload of the client at position {who}, declared dropped; its masks are known: "
            "let it take part in the next round"
        )


def check_request(facts: RoundFacts, request: Request, earlier_cohorts: Sequence[np.ndarray] = ()) -> None:
    """Refuse a sum that would reveal too much (`cohorts`), before any share is revealed.

    Raises:
        ValueError: for too few survivors, survivors that are not connected, or a cohort that nearly equals
            one of `earlier_cohorts`, the client ids summed in earlier rounds.
    """
    _check_survivors(facts, request)
    survivors = list(request.survivors)
    present = np.isin(np.arange(facts.client_ids.size), survivors)
    if not is_connected(facts.neighbors, present):
        raise ValueError(
            "expected survivors that are connected, got parts; raise degree and repeat the round"
        )
    cohort = facts.client_ids[survivors]
    for earlier in earlier_cohorts:
        different = np.setxor1d(cohort, earlier).size
        if differ_too_little(different, min_cohort=facts.min_cohort):
            raise ValueError(
                f"expected a cohort equal to each earlier one or different in at least "
                f"{facts.min_cohort} clients (min_cohort), got a difference of {different}; "
                "draw another cohort"
            )


def reveal_shares(
    facts: RoundFacts,
    holder: int,
    secrets: ClientSecrets,
    request: Request,
    *,
    answered: Request | None = None,
) -> tuple[dict[int, int], dict[int, int]]:
    """Return the shares that a client reveals to the server, one kind for each neighbour.

    Args:
        facts: of the round.
        holder: position of the client.
        secrets: of this client.
        request: of the server.
        answered: an earlier request of this round that the client has answered.

    Returns:
        Shares of the self seeds of neighbours that sent, and of the keys of neighbours that dropped out.

    Raises:
        ValueError: for a second, different request in a round, for a request that lists a client as both,
            and for fewer survivors than the minimum.
    """
    if answered is not None and answered != request:
        raise ValueError(
            "expected one request in a round, got another; both masks of a client are never revealed"
        )
    _check_survivors(facts, request)
    survivors, dropped = set(request.survivors), set(request.dropped)
    neighbors = facts.neighbors[holder].tolist()
    return (
        {owner: secrets.shares_of_self_seeds[owner] for owner in neighbors if owner in survivors},
        {owner: secrets.shares_of_keys[owner] for owner in neighbors if owner in dropped},
    )


def collect_shares(facts: RoundFacts, secrets: Sequence[ClientSecrets], request: Request) -> Revealed:
    """Collect the shares of all survivors.

    Raises:
        ValueError: if a client has fewer neighbours left than the threshold; then nothing is revealed.
    """
    present = np.isin(np.arange(facts.client_ids.size), request.survivors)
    fewest = int(present[facts.neighbors].sum(axis=1).min())
    if fewest < facts.threshold:
        raise ValueError(
            f"expected at least {facts.threshold} neighbours left for each client (threshold), got {fewest}; "
            "nothing was revealed: repeat the round with a higher degree (`degree_needed`)"
        )
    seed_shares: dict[int, dict[int, int]] = {owner: {} for owner in request.survivors}
    key_shares: dict[int, dict[int, int]] = {owner: {} for owner in request.dropped}
    for holder in request.survivors:
        of_seeds, of_keys = reveal_shares(facts, holder, secrets[holder], request)
        for owner, value in of_seeds.items():
            seed_shares[owner][holder] = value
        for owner, value in of_keys.items():
            key_shares[owner][holder] = value
    return Revealed(seed_shares, key_shares)


def streams_to_remove(
    facts: RoundFacts, public_keys: Sequence[bytes], request: Request, revealed: Revealed
) -> tuple[np.ndarray, np.ndarray]:
    """Compute, as the server, the seeds and signs that remove all remaining masks from the sum.

    Args:
        facts: of the round.
        public_keys: of all clients.
        request: of the server.
        revealed: the shares it got.

    Raises:
        ValueError: for too few shares, or shares that do not belong together.
    """
    seeds, signs = [], []
    for owner in request.survivors:
        self_seed = recover(revealed.of_self_seeds[owner], threshold=facts.threshold)
        seeds.append(words_from_bytes(self_seed))
        signs.append(_SUBTRACT)
    survivors = set(request.survivors)
    for owner in request.dropped:
        private = recover(revealed.of_keys[owner], threshold=facts.threshold)
        if draw_key_pair(lambda _, private=private: private).public != public_keys[owner]:
            raise ValueError(f"expected shares of the key at position {owner}, got shares of another")
        for other in facts.neighbors[owner].tolist():
            if other in survivors:
                seeds.append(_seed(facts, private, owner, other, public_keys[other]))
                signs.append(_sign(facts, owner, other))  # the survivor added it with the opposite sign
    return np.stack(seeds), np.array(signs, np.uint32)


def _check_survivors(facts: RoundFacts, request: Request) -> None:
    if set(request.survivors) & set(request.dropped):
        raise ValueError("expected each client to have sent or to have dropped out, got some as both")
    if len(request.survivors) < facts.min_cohort:
        raise ValueError(
            f"expected at least {facts.min_cohort} survivors (min_cohort), got {len(request.survivors)}; "
            "repeat the round"
        )


def _seed(facts: RoundFacts, private: bytes, who: int, other: int, public: bytes) -> np.ndarray:
    pair = int(facts.client_ids[who]), int(facts.client_ids[other])
    return words_from_bytes(pair_seed(private, public, facts.binding, pair))


def _sign(facts: RoundFacts, who: int, other: int) -> int:
    return _ADD if facts.client_ids[who] < facts.client_ids[other] else _SUBTRACT
