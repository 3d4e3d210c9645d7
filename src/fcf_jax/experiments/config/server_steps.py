"""The server steps: one row for each, with all that other modules need to know about it.

A new step is a new row of `SERVER_STEPS`; configurations, checks, tuning and audits follow from it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import optax

from fcf_jax.optimizers import gram_preconditioned, guarded_gram, paper_adam, running_sums

if TYPE_CHECKING:  # the schema takes the names of the steps from here
    from fcf_jax.experiments.config.schema import ExperimentConfig

_GRADIENT = ("upload",)
_SUMS = ("upload", "user_gram", "confidence_sum", "loss")


class ServerStep(NamedTuple):
    """A server step.

    Attributes:
        name: value of `server.step`.
        build: builds the optax transformation; numbers of the configuration may be traced, except
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
    build: "Callable[[ExperimentConfig], optax.GradientTransformation]"
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


def step_of(config: "ExperimentConfig") -> ServerStep:
    """Return the configured server step."""
    return SERVER_STEPS[config.server.step]


def build_optimizer(config: "ExperimentConfig") -> optax.GradientTransformation:
    """Build the optax transformation of the configured server step."""
    return step_of(config).build(config)


def learning_rate(config: "ExperimentConfig") -> float:
    """Return the configured learning rate, otherwise the default of the step.

    Raises:
        ValueError: for a step that has no learning rate.
    """
    step, rate = step_of(config), config.server.learning_rate
    rate = step.learning_rate if rate is None else rate
    if rate is None:
        raise ValueError(f"expected a server step with a learning rate, got {step.name}")
    return rate


def confidence_factor(config: "ExperimentConfig") -> float:
    """Return the configured weight of confidence, otherwise the default of the step; 0 if it has none."""
    factor = config.server.confidence_factor
    return step_of(config).confidence_factor or 0.0 if factor is None else factor


def _guarded_gram(config: "ExperimentConfig") -> optax.GradientTransformation:
    server = config.server
    return guarded_gram(
        confidence_factor=confidence_factor(config),
        initial_damping=server.initial_damping,
        memory=server.memory,
    )


def _gram(config: "ExperimentConfig") -> optax.GradientTransformation:
    return gram_preconditioned(learning_rate(config), confidence_factor=confidence_factor(config))


def _running_sums(config: "ExperimentConfig") -> optax.GradientTransformation:
    power = config.server.averaging
    return running_sums(
        _schedule(config),
        confidence_factor=confidence_factor(config),
        averaging=lambda round_index: (round_index + 1.0) ** -power,
    )


def _adam(config: "ExperimentConfig") -> optax.GradientTransformation:
    server = config.server
    return optax.adam(_schedule(config), b1=server.b1, b2=server.b2, eps=server.eps)


def _paper_adam(config: "ExperimentConfig") -> optax.GradientTransformation:
    server = config.server
    return paper_adam(_schedule(config), b1=server.b1, b2=server.b2, eps=server.eps)


def _sgd(config: "ExperimentConfig") -> optax.GradientTransformation:
    return optax.sgd(_schedule(config))


def _schedule(config: "ExperimentConfig") -> optax.ScalarOrSchedule:
    rate = learning_rate(config)
    if config.server.decay == "constant":
        return rate
    final = config.server.final_learning_rate / rate
    return optax.cosine_decay_schedule(rate, max(config.federation.num_rounds, 1), alpha=final)


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
