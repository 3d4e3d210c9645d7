"""Space of a search: its first trial, the range of each parameter, and the values that a trial stands for.

Lambda is searched as *effective* lambda: lambda times the mean of (n + w0 N)^nu over the users and items of
the training set. Its range keeps its meaning for every nu, and the sampler learns one scale for all of them.

References:
    Rendle et al., RecSys 2022, "Revisiting the Performance of iALS", section 4.3: lambda normalized over nu.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import numpy as jnp
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from fcf_jax.core.objective import regularization_of
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.problem import model_of
from fcf_jax.experiments.config.schema import ExperimentConfig, ServerConfig, TuningConfig

EFFECTIVE = "effective_regularization"  # parameter of the search that stands for model.regularization
FACTORS, LAMBDA, EXPONENT = "model.num_factors", "model.regularization", "model.regularization_exponent"
_MOST_SEARCHED = 64  # factors: larger K come after the search
_DIGITS = 4  # significant digits of a tried value: enough for distinct trials, and easy to read
_MEMORIES = [0, 2, 5, 10]
_RATE_FACTOR = 10.0  # learning rates are tried up to this factor above and below the step's default
_RANGES = {  # key -> low, high, whether logarithmic
    "server.b1": (0.0, 0.95, False),
    "server.b2": (0.9, 0.999, False),
    "server.confidence_factor": (0.5, 5.0, False),  # 1 is bold, 3 is safe on MovieLens
    "server.initial_damping": (0.5, 8.0, True),
}
_NEAR = 0.02  # of a range on its logarithmic scale: a value this close to an end is at the end

Params = dict[str, Any]  # values by key of the configuration, such as "model.alpha"
Space = dict[str, BaseDistribution]  # by parameter: a key of the configuration, or EFFECTIVE


class LambdaScale(NamedTuple):
    """Ratio of effective lambda to lambda, by nu.

    Attributes:
        by_exponent: mean of (n + w0 N)^nu over users and items, for each nu of a search.
    """

    by_exponent: dict[float, float]

    def effective(self, values: Params) -> Params:
        """Return the parameters of the search for values of the configuration."""
        if EXPONENT not in values:
            return values
        params = {key: value for key, value in values.items() if key != LAMBDA}
        return params | {EFFECTIVE: values[LAMBDA] * self.by_exponent[values[EXPONENT]]}

    def values(self, params: Params) -> Params:
        """Return the values of the configuration for parameters of the search, rounded to a few digits."""
        values = {key: value for key, value in params.items() if key != EFFECTIVE}
        if EFFECTIVE in params:
            values[LAMBDA] = params[EFFECTIVE] / self.by_exponent[params[EXPONENT]]
        return {key: rounded(value) for key, value in values.items()}


def lambda_scale(config: ExperimentConfig, train: Interactions) -> LambdaScale:
    """Compute the scale for each nu that is tried on a training set, and for that of the configuration."""
    of_users = jnp.asarray(np.bincount(train.user_ids, minlength=train.num_users))
    of_items = jnp.asarray(train.item_counts)

    def mean_of(exponent: float) -> float:
        unit = {"regularization": 1.0, "regularization_exponent": exponent}
        model = model_of(config.model.model_copy(update=unit), config.data.feedback, 0.0)
        users = regularization_of(model, of_users, train.num_items) * np.ones(train.num_users)
        items = regularization_of(model, of_items, train.num_users) * np.ones(train.num_items)
        return rounded(float(np.concatenate([users, items]).mean(dtype=np.float64)))

    exponents = {*config.tuning.regularization_exponent, config.model.regularization_exponent}
    return LambdaScale({exponent: mean_of(exponent) for exponent in sorted(exponents)})


def model_start(config: ExperimentConfig) -> Params:
    """Return the configured K, alpha (for implicit feedback only), lambda and nu (without noise only)."""
    model = config.model
    alpha = {} if config.data.feedback == "explicit" else {"model.alpha": model.alpha}
    exponent = {} if config.privacy.has_noise else {EXPONENT: model.regularization_exponent}
    return {FACTORS: model.num_factors, **alpha, LAMBDA: model.regularization, **exponent}


def server_start(server: ServerConfig) -> Params:
    """Return the numbers that the server step uses: as configured, otherwise the defaults of the step."""
    resolved = {"learning_rate": "rate", "confidence_factor": "factor"}  # properties that fill in defaults
    keys = list(server.spec.tuned)
    if server.decay == "cosine":
        keys.append("server.final_learning_rate")
    names = {key: key.partition(".")[2] for key in keys}
    return {key: getattr(server, resolved.get(name, name)) for key, name in names.items()}


def space_around(start: Params, tuning: TuningConfig, server: ServerConfig) -> Space:
    """Return a distribution for each parameter of the start, wide enough to contain the start.

    Starts on a logarithmic scale are above 0, which the checks for "tune" guarantee.

    Args:
        start: from `LambdaScale.effective`, or of a server step.
        tuning: ranges of the model's keys.
        server: whose default learning rate is the middle of the range.
    """
    rate = server.spec.learning_rate or 0.0
    choices = {
        FACTORS: searched_factors(tuning.num_factors),
        EXPONENT: tuning.regularization_exponent,
        "server.memory": _MEMORIES,
    }
    ranges = _RANGES | {
        "model.alpha": (*tuning.alpha, True),
        **dict.fromkeys((EFFECTIVE, LAMBDA), (*tuning.regularization, True)),
        "server.learning_rate": (rate / _RATE_FACTOR, rate * _RATE_FACTOR, True),
        "server.final_learning_rate": (0.0, rate / _RATE_FACTOR, False),
    }
    space: Space = {}
    for key, value in start.items():
        if key in choices:
            space[key] = CategoricalDistribution(sorted({*choices[key], value}))
        else:
            low, high, is_logarithmic = ranges[key]
            space[key] = FloatDistribution(min(low, value), max(high, value), log=is_logarithmic)
    return space


def searched_factors(num_factors: Sequence[int]) -> list[int]:
    """Return the values of K that a search varies with everything else: the small ones, at least one."""
    return [one for one in sorted(num_factors) if one <= max(_MOST_SEARCHED, min(num_factors))]


def notes_on_bounds(found: ExperimentConfig, given: ExperimentConfig, scale: LambdaScale) -> tuple[str, ...]:
    """Return a sentence for each value found at the end of its range, with the remedy.

    A range that holds a single value was fixed on purpose.

    Args:
        found: configuration with the best values.
        given: configuration of the search.
        scale: of its lambda.
    """
    start = scale.effective(model_start(given))
    best = scale.effective(model_start(found))
    space, tuning = space_around(start, given.tuning, given.server), given.tuning
    notes = []
    for key, name in (("model.alpha", "alpha"), (EFFECTIVE, "regularization"), (LAMBDA, "regularization")):
        if isinstance(range_ := space.get(key), FloatDistribution):
            ends = getattr(tuning, name)
            notes += _note(best[key], (range_.low, range_.high), ends[0] < ends[1], key, f"tuning.{name}")
    factors = sorted({*tuning.num_factors, given.model.num_factors})
    if best[FACTORS] == factors[-1] > factors[0]:
        notes.append(f"{FACTORS} is {factors[-1]}, the largest tried: add a larger one to tuning.num_factors")
    elif best[FACTORS] == factors[0] < factors[-1] and factors[0] > 1:
        notes.append(
            f"{FACTORS} is {factors[0]}, the smallest tried: add a smaller one to tuning.num_factors"
        )
    return tuple(notes)


def _note(value: float, ends: tuple[float, float], is_range: bool, what: str, key: str) -> list[str]:
    low, high = ends
    if not is_range or low >= high:
        return []
    place = math.log(value / low) / math.log(high / low)
    if _NEAR < place < 1 - _NEAR:
        return []
    end, verb = ("low", "lower") if place <= _NEAR else ("high", "raise")
    return [
        f"{what} is {value:.4g}, at the {end} end of [{low:.4g}, {high:.4g}]: {verb} {key}'s {end}, "
        "and tune again"
    ]


def rounded(value: float) -> float:
    """Round a float to a few significant digits; other values stay."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
