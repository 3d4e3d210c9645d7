"""All that the server gets in a round of secure summation, and nothing else."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fcf_jax.privacy.secure_sum.keys import Binding


class RoundFacts(NamedTuple):
    """What everybody knows of a round before anything is sent; clients are named by their position."""

    client_ids: np.ndarray  # [clients]
    neighbors: np.ndarray  # positions, [clients, degree]
    threshold: int  # how many neighbours put a secret together
    binding: Binding
    min_cohort: int


class Request(NamedTuple):
    """Whom the server declares to have sent, and whom to have dropped out: positions, ascending."""

    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


class Revealed(NamedTuple):
    """Shares that neighbours gave to the server: owner's position -> holder's position -> share."""

    of_self_seeds: Mapping[int, Mapping[int, int]]  # of those who sent
    of_keys: Mapping[int, Mapping[int, int]]  # of those who dropped out


class ServerView(NamedTuple):
    """The server's side of a round.

    Shares on their way from client to client are not in it: they pass the server encrypted, or not at
    all, and are not simulated.
    """

    facts: RoundFacts
    public_keys: tuple[bytes, ...]
    request: Request
    masked: np.ndarray  # uint32 [survivors, words]
    revealed: Revealed
    total: np.ndarray  # uint32 [words]: the sum of the survivors' words
