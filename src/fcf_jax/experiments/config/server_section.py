"""The section of the server step."""

from typing import TYPE_CHECKING, Literal

import optax
from pydantic import Field

from fcf_jax.experiments.config.section import Section
from fcf_jax.experiments.config.server_steps import SERVER_STEPS, ServerStep

if TYPE_CHECKING:
    _ServerStepName = str
else:  # a new row of the table is a new choice
    _ServerStepName = Literal[tuple(SERVER_STEPS)]

Confidences = Literal["each_round", "once"]


def _defaults(field: str) -> str:
    """Name what the server steps take where a key is unset."""
    values = {name: getattr(step, field) for name, step in SERVER_STEPS.items()}
    return ", ".join(f"{value:g} ({name})" for name, value in values.items() if value is not None)


class ServerConfig(Section):
    """Server step: the update of the item factors from the sum of the clients' uploads."""

    step: _ServerStepName = Field(default="guarded_gram", description="optimizer of the server")
    learning_rate: float | None = Field(
        default=None, gt=0, description=f"unset = {_defaults('learning_rate')}"
    )
    decay: Literal["constant", "cosine"] = Field(
        default="constant", description="decay of the learning rate over the rounds"
    )
    final_learning_rate: float = Field(
        default=0.0, ge=0, description="learning rate in the last round of a cosine decay"
    )
    b1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the first moment")
    b2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the second moment")
    eps: float = Field(default=1e-8, gt=0, description="Adam's epsilon")
    confidence_factor: float | None = Field(
        default=None,
        ge=0,
        description=f"weight of confidence in the curvature; unset = {_defaults('confidence_factor')}",
    )
    confidences: Confidences | None = Field(
        default=None,
        description="when clients send them, if they have weight: each_round; or once, everybody before the "
        "first round, since their sum does not depend on Y; unset = once under secure_sum, else each_round",
    )
    averaging: float = Field(
        default=0.8, ge=0, le=1, description="of running_sums: round t weighs (t + 1)^-averaging"
    )
    initial_damping: float = Field(
        default=2.0, gt=0, description="of guarded_gram: damping in the first round"
    )
    memory: int = Field(
        default=5, ge=0, le=20, description="of guarded_gram: rounds that its acceleration combines; 0 = none"
    )
    initial_item_factors: str | None = Field(
        default=None,
        description="a warm start: run directory, or file of FederatedCollaborativeFilter.save, with items "
        "matched by label; unset = drawn",
    )

    @property
    def spec(self) -> ServerStep:
        """Properties of the step."""
        return SERVER_STEPS[self.step]

    @property
    def rate(self) -> float:
        """The configured learning rate, otherwise the default of the step.

        Raises:
            ValueError: for a step that has no learning rate.
        """
        rate = self.spec.learning_rate if self.learning_rate is None else self.learning_rate
        if rate is None:
            raise ValueError(f"expected a server step with a learning rate, got {self.step}")
        return rate

    @property
    def factor(self) -> float:
        """The configured confidence factor, otherwise the default of the step; 0 if it has none."""
        factor = self.confidence_factor
        return self.spec.confidence_factor or 0.0 if factor is None else factor

    def optimizer(self, num_rounds: int) -> optax.GradientTransformation:
        """Build the optax transformation; numbers may be traced, except `memory`."""
        return self.spec.build(self, num_rounds)
