"""Sections of a configuration that one command reads: `fcf compare` and `fcf tune`."""

from typing import Annotated

from pydantic import Field

from fcf_jax.experiments.config.section import Section

_Positive = Annotated[float, Field(gt=0)]


class ComparisonConfig(Section):
    """Replicates of `fcf compare`, and the differences that it accepts."""

    num_builds: int = Field(
        default=10, ge=1, description="replicates of both sides, each with another start and split"
    )
    margin_percent: float = Field(
        default=1.0, gt=0, description="equivalence margin (TOST), in percent of the mean of ALS"
    )
    tolerance_percent: float = Field(
        default=0.5, ge=0, description="in percent of the mean of ALS; a metric worse by more is reported"
    )
    max_rounds: int = Field(
        default=200,
        ge=0,
        description="federation.num_rounds is the fewest, and more follow until the loss has settled, up to "
        "so many: with everybody in every round, a constant learning rate and no noise",
    )


class TuningConfig(Section):
    """Search space of `fcf tune`; other commands ignore it."""

    metric: str | None = Field(
        default=None, description="on the validation set; unset = map_at_K, or rmse for explicit ratings"
    )
    num_model_trials: int = Field(
        default=30, ge=0, description="trials of alpha, lambda, nu and small K, by centralised ALS; 0 = none"
    )
    num_factors_trials: int = Field(
        default=3, ge=0, le=5, description="trials of lambda for each larger K after these; 0 = no larger K"
    )
    num_server_trials: int = Field(
        default=20, ge=0, description="trials of the server step after these, by federations; 0 = none"
    )
    batch_size: int = Field(
        default=2, ge=1, description="trials side by side, after which the search learns from them"
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="held out to score trials if data.validation_fraction is 0"
    )
    num_factors: list[Annotated[int, Field(ge=1)]] = Field(
        default=[16, 32, 64, 128, 256, 512],
        min_length=1,
        description="values of K: those up to 64 are searched with the rest, besides model.num_factors; "
        "larger ones follow in turn as long as the metric rises",
    )
    alpha: list[_Positive] = Field(
        default=[0.2, 400.0],
        min_length=2,
        max_length=2,
        description="low and high; unused for explicit ratings",
    )
    regularization: list[_Positive] = Field(
        default=[0.1, 1000.0],
        min_length=2,
        max_length=2,
        description="low and high of lambda times the mean of (n + w0 M)^nu over users and items",
    )
    regularization_exponent: list[Annotated[float, Field(ge=0, le=2)]] = Field(
        default=[0.0, 0.5, 1.0],
        description="values of nu to try, besides model.regularization_exponent; [] = no other",
    )
    num_sweeps: int = Field(default=40, ge=1, description="most sweeps of ALS in a trial")
    seed: int = Field(default=0, ge=0, description="seed of the search; models start from federation.seed")
