r"""The round of secure summation: keys, masks, and what is revealed to take the masks off again.

    y_u = q_u + PRG(b_u) + \sum_{v in N(u), u < v} PRG(s_uv) - \sum_{v in N(u), v < u} PRG(s_uv)

Pair masks cancel between two that both sent. For those who sent, neighbours reveal shares of the
self seed b_u; for those who did not, of the key behind their s_uv: never both of one client, for
they would lay its upload open. The server follows the protocol but is curious; one that tells
different clients different things is held off by the threshold as long as that is a majority.

References:
    Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fcf_jax.privacy.secure_sum.chacha20 import words_of
from fcf_jax.privacy.secure_sum.cohorts import tells_too_much
from fcf_jax.privacy.secure_sum.graph import is_connected, neighbor_graph
from fcf_jax.privacy.secure_sum.keys import Binding, KeyPair, draw_key_pair, pair_seed
from fcf_jax.privacy.secure_sum.shamir import SECRET_BYTES, Entropy, recover, share
from fcf_jax.privacy.secure_sum.view import Request, Revealed, RoundFacts

_ADD, _SUBTRACT = 1, 2**32 - 1


class SumRules(NamedTuple):
    """What a sum must satisfy before anybody helps to reveal it."""

    degree: int = 20  # neighbours of each client; more survive more dropouts (`degree_needed`)
    threshold: int | None = None  # neighbours that put a secret together; None: a majority
    min_cohort: int = 100  # clients in a sum, and in the difference of two, at least


class ClientSecrets(NamedTuple):
    """What one client holds once keys and shares are dealt; neighbours by position."""

    keys: KeyPair
    self_seed: bytes
    shares_of_keys: dict[int, int]
    shares_of_self_seeds: dict[int, int]


def open_round(client_ids: Sequence[int] | np.ndarray, binding: Binding, rules: SumRules) -> RoundFacts:
    """Fix what everybody knows of a round.

    Raises:
        ValueError: for a cohort below the minimum, or one that names a client twice, or rules out of range.
    """
    ids = np.asarray(client_ids)
    if ids.size < max(rules.min_cohort, 2):
        raise ValueError(
            f"expected a cohort of at least {max(rules.min_cohort, 2)} (min_cohort), got {ids.size}; "
            "invite more"
        )
    if np.unique(ids).size != ids.size:
        raise ValueError("expected different client ids, got some twice; a client sends once in a round")
    seed = hashlib.sha256(binding.model_hash + binding.round_index.to_bytes(8, "big")).digest()
    neighbors = neighbor_graph(ids.size, degree=rules.degree, seed=seed)
    degree = neighbors.shape[1]
    threshold = degree // 2 + 1 if rules.threshold is None else rules.threshold
    if not 1 <= threshold <= degree:
        raise ValueError(f"expected a threshold from 1 to {degree} (neighbours), got {threshold}")
    return RoundFacts(ids, neighbors, threshold, binding, rules.min_cohort)


def deal_secrets(facts: RoundFacts, entropy: Entropy) -> list[ClientSecrets]:
    """Let each client draw its keys and give its neighbours shares of them."""
    keys = [draw_key_pair(entropy) for _ in facts.client_ids]
    seeds = [entropy(SECRET_BYTES) for _ in facts.client_ids]
    secrets = [ClientSecrets(pair, seed, {}, {}) for pair, seed in zip(keys, seeds, strict=True)]
    for owner, neighbors in enumerate(facts.neighbors.tolist()):
        options = {"threshold": facts.threshold, "entropy": entropy}
        for holder, value in share(keys[owner].private, neighbors, **options).items():
            secrets[holder].shares_of_keys[owner] = value
        for holder, value in share(seeds[owner], neighbors, **options).items():
            secrets[holder].shares_of_self_seeds[owner] = value
    return secrets


def mask_streams(
    facts: RoundFacts, who: int, secrets: ClientSecrets, public_keys: Sequence[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the seeds and signs of all masks of one client, [degree + 1, 8] and [degree + 1].

    Everything here is what that client knows; the other end of each pair computes the same by itself.
    """
    others = facts.neighbors[who].tolist()
    seeds = [_seed(facts, secrets.keys.private, who, other, public_keys[other]) for other in others]
    signs = [_sign(facts, who, other) for other in others]
    return np.stack([words_of(secrets.self_seed), *seeds]), np.array([_ADD, *signs], np.uint32)


def declare(facts: RoundFacts, survivors: Sequence[int]) -> Request:
    """Declare those who sent; everybody else dropped out, for good."""
    present = tuple(sorted(survivors))
    return Request(present, tuple(sorted(set(range(facts.client_ids.size)) - set(present))))


def check_arrival(who: int, request: Request | None) -> None:
    """Refuse the upload of a client that was declared dropped: its pair masks are laid open by then.

    Raises:
        ValueError: for such a late arrival.
    """
    if request is not None and who in request.dropped:
        raise ValueError(
            f"expected no upload of the client at position {who}, declared dropped; its masks are known: "
            "let it take part in the next round"
        )


def check_request(facts: RoundFacts, request: Request, earlier_cohorts: Sequence[np.ndarray] = ()) -> None:
    """Refuse a sum that would say too much (`cohorts`), before any share is revealed.

    Args:
        earlier_cohorts: ids of those summed in earlier rounds.

    Raises:
        ValueError: for too few survivors, survivors that do not hang together, or a cohort that nearly
            equals an earlier one.
    """
    survivors = list(request.survivors)
    if set(survivors) & set(request.dropped):
        raise ValueError("expected each client to have sent or to have dropped out, got some as both")
    if len(survivors) < facts.min_cohort:
        raise ValueError(
            f"expected at least {facts.min_cohort} survivors (min_cohort), got {len(survivors)}; "
            "repeat the round"
        )
    present = np.isin(np.arange(facts.client_ids.size), survivors)
    if not is_connected(facts.neighbors, present):
        raise ValueError(
            "expected survivors that hang together, got parts; raise degree and repeat the round"
        )
    cohort = facts.client_ids[survivors]
    for earlier in earlier_cohorts:
        different = np.setxor1d(cohort, earlier).size
        if tells_too_much(np.array(different), min_cohort=facts.min_cohort):
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
    """Let a client give the server what it asks for, one kind of share for each neighbour.

    Args:
        answered: the request that this client answered before in this round.

    Returns:
        Shares of the self seeds of neighbours who sent, and of the keys of those who dropped out.

    Raises:
        ValueError: for another request in the same round, for one that names a client as both, and for
            fewer survivors than the minimum.
    """
    if answered is not None and answered != request:
        raise ValueError(
            "expected one request in a round, got another; both masks of a client are never revealed"
        )
    survivors, dropped = set(request.survivors), set(request.dropped)
    if survivors & dropped:
        raise ValueError("expected each client to have sent or to have dropped out, got some as both")
    if len(survivors) < facts.min_cohort:
        raise ValueError(f"expected at least {facts.min_cohort} survivors (min_cohort), got {len(survivors)}")
    neighbors = facts.neighbors[holder].tolist()
    return (
        {owner: secrets.shares_of_self_seeds[owner] for owner in neighbors if owner in survivors},
        {owner: secrets.shares_of_keys[owner] for owner in neighbors if owner in dropped},
    )


def collect_shares(facts: RoundFacts, secrets: Sequence[ClientSecrets], request: Request) -> Revealed:
    """Ask all survivors for their shares.

    Raises:
        ValueError: when somebody has fewer neighbours left than the threshold; then nothing is asked for.
    """
    present = np.isin(np.arange(facts.client_ids.size), request.survivors)
    fewest = int(present[facts.neighbors].sum(axis=1).min())
    if fewest < facts.threshold:
        raise ValueError(
            f"expected at least {facts.threshold} neighbours left for everybody (threshold), got {fewest}; "
            "nothing was revealed: repeat the round with a higher degree (`degree_needed`)"
        )
    revealed = Revealed({owner: {} for owner in request.survivors}, {owner: {} for owner in request.dropped})
    for holder in request.survivors:
        for shares, kind in zip(
            reveal_shares(facts, holder, secrets[holder], request), revealed, strict=True
        ):
            for owner, value in shares.items():
                kind[owner][holder] = value  # type: ignore[index]
    return revealed


def streams_to_remove(
    facts: RoundFacts, public_keys: Sequence[bytes], request: Request, revealed: Revealed
) -> tuple[np.ndarray, np.ndarray]:
    """Compute, as the server, seeds and signs of all masks left in the sum, to be added to it.

    Raises:
        ValueError: for too few shares, or such as do not belong together.
    """
    seeds, signs = [], []
    for owner in request.survivors:
        self_seed = recover(revealed.of_self_seeds[owner], threshold=facts.threshold)
        seeds.append(words_of(self_seed))
        signs.append(_SUBTRACT)
    survivors = set(request.survivors)
    for owner in request.dropped:
        private = recover(revealed.of_keys[owner], threshold=facts.threshold)
        if draw_key_pair(lambda _, private=private: private).public != public_keys[owner]:
            raise ValueError(f"expected shares of the key at position {owner}, got shares of another")
        for other in facts.neighbors[owner].tolist():
            if other in survivors:
                seeds.append(_seed(facts, private, owner, other, public_keys[other]))
                signs.append(_sign(facts, owner, other))  # the survivor has it with the other sign
    return np.stack(seeds), np.array(signs, np.uint32)


def _seed(facts: RoundFacts, private: bytes, who: int, other: int, public: bytes) -> np.ndarray:
    pair = int(facts.client_ids[who]), int(facts.client_ids[other])
    return words_of(pair_seed(private, public, facts.binding, pair))


def _sign(facts: RoundFacts, who: int, other: int) -> int:
    return _ADD if facts.client_ids[who] < facts.client_ids[other] else _SUBTRACT
