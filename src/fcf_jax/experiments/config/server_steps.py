"""The server's step as configured."""

import optax

from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.optimizers import gram_preconditioned, guarded_gram, paper_adam, running_sums

_LEARNING_RATES = {"adam": 0.1, "paper_adam": 0.1, "sgd": 1e-4, "gram": 1.0, "running_sums": 0.5}
GRAM_STEPS = ("gram", "guarded_gram", "running_sums")  # these want more sums than the gradient


def build_optimizer(config: ExperimentConfig) -> optax.GradientTransformation:
    """Build the optax transformation that `server.step` names; its numbers may be traced, but `memory`."""
    server = config.server
    if server.step == "guarded_gram":
        return guarded_gram(
            initial_damping=server.initial_damping,
            memory=server.memory,
            confidence_factor=confidence_factor(config),
        )
    rate = learning_rate(config)
    if server.step == "gram":
        return gram_preconditioned(rate, confidence_factor=confidence_factor(config))
    schedule = _schedule(config, rate)
    if server.step == "running_sums":
        power = server.averaging
        return running_sums(
            schedule,
            averaging=lambda round_index: (round_index + 1.0) ** -power,
            confidence_factor=confidence_factor(config),
        )
    if server.step == "sgd":
        return optax.sgd(schedule)
    adam = paper_adam if server.step == "paper_adam" else optax.adam
    return adam(schedule, b1=server.b1, b2=server.b2, eps=server.eps)


def learning_rate(config: ExperimentConfig) -> float:
    """Return the configured learning rate, or the one that goes with the step."""
    rate = config.server.learning_rate
    return _LEARNING_RATES[config.server.step] if rate is None else rate


def confidence_factor(config: ExperimentConfig) -> float:
    """Return the configured weight of confidence, or the one that goes with the step."""
    factor = config.server.confidence_factor
    default = 1.0 if config.server.step == "guarded_gram" else 3.0  # as the optimizers' own
    return default if factor is None else factor


def _schedule(config: ExperimentConfig, rate: float) -> optax.ScalarOrSchedule:
    if config.server.decay == "constant":
        return rate
    final = config.server.final_learning_rate / rate
    return optax.cosine_decay_schedule(rate, max(config.federation.num_rounds, 1), alpha=final)
