"""What `fcf tune` searches: a distribution for each key of the configuration that it tries, and the start."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from fcf_jax.experiments.config.load import value_of, with_values
from fcf_jax.experiments.config.schema import ExperimentConfig

Space = dict[str, BaseDistribution]  # by key, such as "model.alpha"
Values = dict[str, Any]  # by key

SHAPES = ("model.num_factors", "server.memory")  # these decide about shapes: one value in a batch
_FREE_RATE = 10.0  # times the step's own learning rate, up and down
_FREE_NUMBERS = {  # key -> low, high, whether logarithmic
    "server.b1": (0.0, 0.95, False),
    "server.b2": (0.9, 0.999, False),
    "server.confidence_factor": (0.5, 5.0, False),  # 1 is bold, 3 is safe on MovieLens
    "server.initial_damping": (0.5, 8.0, True),
}
_MEMORIES = [0, 2, 5, 10]


def model_start(config: ExperimentConfig) -> Values:
    """Return the configured K, alpha (of implicit feedback) and lambda."""
    names = ["model.num_factors", "model.alpha", "model.regularization"]
    if config.data.feedback == "explicit":
        names.remove("model.alpha")
    return {name: value_of(config, name) for name in names}


def server_start(config: ExperimentConfig) -> Values:
    """Return the configured numbers that the server's step listens to, in the step's own where unset."""
    names = list(config.server.row.tuned)
    if config.server.decay == "cosine":
        names.append("server.final_learning_rate")
    filled = with_values(
        config,
        {
            "server.learning_rate": config.server.rate if "server.learning_rate" in names else None,
            "server.confidence_factor": config.server.factor,
        },
    )
    return {name: value_of(filled, name) for name in names}


def space_around(config: ExperimentConfig, start: Mapping[str, Any]) -> Space:
    """Return a distribution for each key of the start, wide enough to contain the start.

    Starts on a logarithmic scale are above 0, which the checks for "tune" see to.
    """
    return {name: _distribution(config, name, value) for name, value in start.items()}


def _distribution(config: ExperimentConfig, name: str, start: Any) -> BaseDistribution:
    if name in SHAPES:
        choices = config.tuning.num_factors if name == "model.num_factors" else _MEMORIES
        return CategoricalDistribution(sorted({*choices, start}))
    low, high, is_logarithmic = _bounds(config, name)
    return FloatDistribution(min(low, start), max(high, start), log=is_logarithmic)


def _bounds(config: ExperimentConfig, name: str) -> tuple[float, float, bool]:
    if name in ("model.alpha", "model.regularization"):
        low, high = value_of(config, name.replace("model", "tuning"))
        return low, high, True
    own_rate = (config.server.row.learning_rate or 0.0) if "rate" in name else 0.0
    if name == "server.learning_rate":
        return own_rate / _FREE_RATE, own_rate * _FREE_RATE, True
    if name == "server.final_learning_rate":
        return 0.0, own_rate / _FREE_RATE, False
    return _FREE_NUMBERS[name]
