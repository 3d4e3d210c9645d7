"""The server steps: one row for each, with all that other modules need to know about it.

A new step is a new row of `SERVER_STEPS`; configurations, checks, tuning and audits follow from it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import optax

from fcf_jax.optimizers import gram_preconditioned, guarded_gram, paper_adam, running_sums

if TYPE_CHECKING:  # the section takes the names of the steps from here
    from fcf_jax.experiments.config.server_section import ServerConfig

_GRADIENT = ("upload",)
_SUMS = ("upload", "user_gram", "confidence_sum", "loss")


class ServerStep(NamedTuple):
    """A server step.

    Attributes:
        name: value of `server.step`.
        build: (server section, number of rounds) -> optax transformation; numbers may be traced, except
            `server.memory`.
        pieces: what the server asks of each client, by the field names of `CohortSum`.
        tuned: keys that `fcf tune` varies.
        learning_rate: used where `server.learning_rate` is unset; None for a step that has none.
        confidence_factor: used where `server.confidence_factor` is unset; None for a step that has none.
        needs_everybody: whether all clients must take part in every round.
        is_guarded: whether the step takes itself back when the clients' loss rises.
        has_schedule: whether the learning rate may decay over the rounds.
    """

    name: str
    build: "Callable[[ServerConfig, int], optax.GradientTransformation]"
    pieces: tuple[str, ...]
    tuned: tuple[str, ...]
    learning_rate: float | None = None
    confidence_factor: float | None = None
    needs_everybody: bool = False
    is_guarded: bool = False
    has_schedule: bool = True

    @property
    def asks_for_gram(self) -> bool:
        """Whether clients send x x^T beside their upload."""
        return "user_gram" in self.pieces


def _guarded_gram(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    return guarded_gram(
        confidence_factor=server.factor, initial_damping=server.initial_damping, memory=server.memory
    )


def _gram(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    return gram_preconditioned(server.rate, confidence_factor=server.factor)


def _running_sums(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    power = server.averaging
    return running_sums(
        _schedule(server, num_rounds),
        confidence_factor=server.factor,
        averaging=lambda round_index: (round_index + 1.0) ** -power,
    )


def _adam(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    return optax.adam(_schedule(server, num_rounds), b1=server.b1, b2=server.b2, eps=server.eps)


def _paper_adam(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    return paper_adam(_schedule(server, num_rounds), b1=server.b1, b2=server.b2, eps=server.eps)


def _sgd(server: "ServerConfig", num_rounds: int) -> optax.GradientTransformation:
    return optax.sgd(_schedule(server, num_rounds))


def _schedule(server: "ServerConfig", num_rounds: int) -> optax.ScalarOrSchedule:
    if server.decay == "constant":
        return server.rate
    final = server.final_learning_rate / server.rate
    return optax.cosine_decay_schedule(server.rate, max(num_rounds, 1), alpha=final)


_ROWS = (
    ServerStep(
        "guarded_gram",
        build=_guarded_gram,
        pieces=_SUMS,
        tuned=("server.confidence_factor", "server.initial_damping", "server.memory"),
        confidence_factor=1.0,
        needs_everybody=True,
        is_guarded=True,
        has_schedule=False,
    ),
    ServerStep(
        "gram",
        build=_gram,
        pieces=_SUMS,
        tuned=("server.learning_rate", "server.confidence_factor"),
        learning_rate=1.0,
        confidence_factor=3.0,
        needs_everybody=True,
        has_schedule=False,
    ),
    ServerStep(
        "running_sums",
        build=_running_sums,
        pieces=_SUMS,
        tuned=("server.learning_rate", "server.confidence_factor"),
        learning_rate=0.5,
        confidence_factor=3.0,
    ),
    ServerStep(
        "adam",
        build=_adam,
        pieces=_GRADIENT,
        tuned=("server.learning_rate", "server.b1", "server.b2"),
        learning_rate=0.1,
    ),
    ServerStep(
        "paper_adam",
        build=_paper_adam,
        pieces=_GRADIENT,
        tuned=("server.learning_rate", "server.b1", "server.b2"),
        learning_rate=0.1,
    ),
    ServerStep("sgd", build=_sgd, pieces=_GRADIENT, tuned=("server.learning_rate",), learning_rate=1e-4),
)
SERVER_STEPS = {step.name: step for step in _ROWS}
