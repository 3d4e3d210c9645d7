"""The checks of a configuration: one table with a row for each rule.

Messages name the key, what was expected, what was found and the remedy. In the rows, `c` is the
configuration and `f` the facts of the training data.
"""

from fcf_jax.experiments.config.attack_checks import ATTACK_CHECKS
from fcf_jax.experiments.config.channel_checks import CHANNEL_CHECKS
from fcf_jax.experiments.config.data_checks import DATA_CHECKS
from fcf_jax.experiments.config.devices_checks import DEVICES_CHECKS
from fcf_jax.experiments.config.evaluation_checks import EVALUATION_CHECKS
from fcf_jax.experiments.config.feature_checks import FEATURE_CHECKS
from fcf_jax.experiments.config.mistakes import (
    Facts,
    overflowing_sum,
    revealing_cohorts,
    solvable_confidences,
    solvable_uploads,
    unknown_metric,
    unknown_set,
)
from fcf_jax.experiments.config.objective_checks import OBJECTIVE_CHECKS
from fcf_jax.experiments.config.privacy_checks import PRIVACY_CHECKS, PRIVACY_DATA_CHECKS
from fcf_jax.experiments.config.rule import Check as _Check
from fcf_jax.experiments.config.rule import Command
from fcf_jax.experiments.config.rule import computed as _computed
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.section import LARGEST_SEED
from fcf_jax.experiments.config.server_checks import SERVER_CHECKS
from fcf_jax.experiments.errors import RefusedError
from fcf_jax.messages import count_of

_LARGEST_ARRAY = 2**31  # elements that 32-bit indices can count
_MEASURING: tuple[Command, ...] = ("compare", "tune")  # these train many times and release nothing
_SIDE_BY_SIDE: tuple[Command, ...] = (*_MEASURING, "sweep")


def check(config: ExperimentConfig, command: Command | None = None, facts: Facts | None = None) -> None:
    """Check a configuration: without `facts` by the rules that need no data, with `facts` by the others.

    Args:
        config: as resolved.
        command: whose rules are checked, too; None: only rules that hold for every use.
        facts: of the training data.

    Raises:
        RefusedError: for the first rule that is broken.
    """
    when, known = ("config", Facts(0, 0, 0)) if facts is None else ("data", facts)
    for row in _CHECKS:
        holds = row.when == when and (row.commands is None or command in row.commands)
        if holds and row.is_broken(config, known):
            if isinstance(row.message, str):
                raise RefusedError(row.message.replace("{command}", f"fcf {command}"))
            raise RefusedError(row.message(config, known))


def _cohort_size(config: ExperimentConfig, facts: Facts) -> int:
    return config.federation.cohort_size or facts.num_users


_CHECKS = (
    _Check(
        lambda c, f: c.parallel.coordinator is None and c.parallel.num_processes > 1,
        "parallel.coordinator: expected host:port of process 0 for several processes; set it in each",
    ),
    _Check(
        lambda c, f: c.parallel.process_id >= c.parallel.num_processes and c.parallel.coordinator != "auto",
        lambda c, f: (
            f"parallel.process_id: expected 0 to {c.parallel.num_processes - 1}, "
            f"got {c.parallel.process_id}; raise parallel.num_processes"
        ),
    ),
    _Check(
        lambda c, f: c.parallel.devices is not None and c.parallel.devices % c.parallel.item_shards,
        lambda c, f: (
            f"parallel.item_shards: expected a divisor of {count_of(c.parallel.devices, 'device')}, "
            f"got {c.parallel.item_shards}; change one of them"
        ),
    ),
    _Check(
        lambda c, f: c.data.source == "simulated" and c.data.path is not None,
        'data.path: set, but data.source is "simulated"; leave out one of them',
    ),
    *DATA_CHECKS,
    *FEATURE_CHECKS,
    *OBJECTIVE_CHECKS,
    *CHANNEL_CHECKS,
    *DEVICES_CHECKS,
    *ATTACK_CHECKS,
    *EVALUATION_CHECKS,
    *SERVER_CHECKS,
    *PRIVACY_CHECKS,
    _computed("data.name", lambda c, f: unknown_set(c.data.name)),
    _Check(
        lambda c, f: c.data.source == "simulated" and c.data.name is not None,
        'data.name: set, but data.source is "simulated"; leave out one of them',
    ),
    _Check(
        lambda c, f: c.data.test_fraction + c.data.validation_fraction >= 1,
        "data.test_fraction: with data.validation_fraction it leaves nothing to train on; lower it",
    ),
    _Check(
        lambda c, f: c.data.source == "simulated" and c.data.split == "published",
        'data.split: simulated data has no published split; set data.split = "ratio"',
    ),
    _Check(
        lambda c, f: c.data.feedback == "explicit" and c.model.unobserved_weight != 0,
        lambda c, f: (
            f"model.unobserved_weight: expected 0 for explicit ratings, "
            f"got {c.model.unobserved_weight}; set model.unobserved_weight = 0"
        ),
    ),
    _Check(
        lambda c, f: c.data.feedback == "explicit" and c.data.strengths != "keep",
        'data.strengths: explicit ratings are not transformed; set data.strengths = "keep"',
    ),
    _Check(
        lambda c, f: c.parallel.coordinator is not None or c.parallel.item_shards > 1,
        "parallel: {command} runs in one process with unsplit item factors; "
        "leave out parallel.coordinator and parallel.item_shards",
        commands=(*_SIDE_BY_SIDE, "audit"),
    ),
    _Check(
        lambda c, f: c.federation.seed + c.comparison.num_builds - 1 > LARGEST_SEED,
        lambda c, f: (
            f"federation.seed: expected at most {LARGEST_SEED} for the last of {c.comparison.num_builds} "
            f"replicates, which count up from it, got {c.federation.seed}; lower it"
        ),
        commands=("compare",),
    ),
    _Check(
        lambda c, f: c.parallel.stream,
        "parallel.stream: {command} keeps all clients on the device; leave it out",
        commands=("compare", "sweep"),
    ),
    _Check(
        lambda c, f: c.privacy.needs_item_counts,
        "privacy.head_items: {command} releases no item counts, as `fcf run` does before its rounds; "
        "set privacy.head_items = 1 and privacy.item_weight_power = 0 for {command}",
        commands=_SIDE_BY_SIDE,
    ),
    _Check(
        lambda c, f: c.privacy.has_noise and c.privacy.seed is None,
        "privacy.seed: {command} trains many times and charges no budget; set privacy.seed to "
        "measure what is NOT PRIVATE, and train what is released with `fcf run`",
        commands=_MEASURING,
    ),
    _Check(
        lambda c, f: c.privacy.spec.sums_securely,
        lambda c, f: (
            f"privacy.mode: fcf tune searches with plain sums, which equal secure sums up to "
            f'rounding; set privacy.mode = "plain", and run the result with "{c.privacy.mode}"'
        ),
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.alpha[0] > c.tuning.alpha[1],
        lambda c, f: f"tuning.alpha: expected [low, high], got {c.tuning.alpha}; swap them",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.regularization[0] > c.tuning.regularization[1],
        lambda c, f: f"tuning.regularization: expected [low, high], got {c.tuning.regularization}; swap them",
        commands=("tune",),
    ),
    _computed(
        "tuning.metric",
        lambda c, f: unknown_metric(
            c.tuning.metric, k=c.evaluation.lengths, has_negatives=c.data.negatives_path is not None
        ),
        commands=("tune",),
    ),
    _Check(
        lambda c, f: (
            c.data.split != "published"
            and c.data.test_fraction + (c.data.validation_fraction or c.tuning.validation_fraction) >= 1
        ),
        "tuning.validation_fraction: with data.test_fraction it leaves nothing to train on; lower it",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.num_model_trials + c.tuning.num_server_trials == 0,
        "tuning.num_model_trials: expected trials of the model or the server step, got 0 of both; raise it",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.num_server_trials and not c.federation.num_rounds,
        "federation.num_rounds: expected at least 1 to tune the server step, got 0; raise it",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.num_model_trials and c.model.alpha == 0 and c.data.feedback == "implicit",
        "model.alpha: expected above 0 to start a search on a logarithmic scale, got 0; raise it",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.tuning.num_model_trials and c.model.regularization == 0,
        "model.regularization: expected above 0 to start a search on a logarithmic scale, got 0; raise it",
        commands=("tune",),
    ),
    _Check(
        lambda c, f: c.privacy.has_noise and c.privacy.item_weight_power != 0,
        "privacy.item_weight_power: the attacks expect noise of one size on all items; set it to 0",
        commands=("audit",),
    ),
    _Check(
        lambda c, f: c.model.regularization_exponent > 0,
        "model.regularization_exponent: the attacks expect one lambda for all users; set it to 0",
        commands=("audit",),
    ),
    _Check(
        lambda c, f: c.federation.num_rounds == 0,
        "federation.num_rounds: expected at least 1 round to plan, got 0; raise it",
        commands=("plan",),
    ),
    _Check(
        lambda c, f: c.privacy.spec.noise_on == "upload",
        lambda c, f: (
            f"privacy.mode: expected noise on the sum to plan for, got {c.privacy.mode}, which releases "
            'every upload by itself; set privacy.mode = "central_noise" or "distributed_noise"'
        ),
        commands=("plan",),
    ),
    _Check(
        lambda c, f: f.num_interactions == 0,
        "expected interactions to train on, got none; lower data.test_fraction",
        when="data",
    ),
    _Check(
        lambda c, f: _cohort_size(c, f) > f.num_users,
        lambda c, f: (
            f"federation.cohort_size: expected at most the {count_of(f.num_users, 'user')}, "
            f"got {_cohort_size(c, f)}; lower it"
        ),
        when="data",
    ),
    _Check(
        lambda c, f: c.server.spec.needs_everybody and _cohort_size(c, f) < f.num_users,
        lambda c, f: (
            f"server.step: {c.server.step} needs everybody in every round, got {_cohort_size(c, f)} "
            'clients; set server.step = "running_sums" or leave out federation.cohort_size'
        ),
        when="data",
    ),
    *PRIVACY_DATA_CHECKS,
    _Check(
        lambda c, f: c.model.regularization == 0 and c.model.num_factors > f.largest_rank,
        lambda c, f: (
            f"model.regularization: expected above 0 for "
            f"{count_of(c.model.num_factors, 'factor')} of a matrix of "
            f"rank {f.largest_rank} at most, got 0; raise it or lower model.num_factors"
        ),
        when="data",
    ),
    _Check(
        lambda c, f: f.num_items * c.model.num_factors >= _LARGEST_ARRAY,
        lambda c, f: (
            f"model.num_factors: {count_of(f.num_items, 'item')} of "
            f"{count_of(c.model.num_factors, 'factor')} take "
            f"{4 * f.num_items * c.model.num_factors} bytes, too many to index; lower it"
        ),
        when="data",
    ),
    _computed(
        "privacy.fraction_bits",
        lambda c, f: overflowing_sum(
            c.privacy.fraction_bits, f.bounds, max_clients=c.federation.largest_cohort(f.num_users)
        ),
        commands=("run", "compare", "sweep"),
        when="data",
    ),
    _computed(
        "privacy.min_cohort",
        lambda c, f: revealing_cohorts(c.privacy, c.federation, f),
        "; change federation.cohort_size (unset = all clients), run fewer rounds, "
        "or lower it, which protects less",
        commands=("run", "compare", "sweep"),
        when="data",
    ),
    _computed(
        "server.confidences",
        solvable_confidences,
        '; set server.confidences = "once" or server.confidence_factor = 0, run fewer rounds, or leave out '
        "federation.cohort_size",
        commands=("run", "compare", "sweep"),
        when="data",
    ),
    _computed(
        "privacy.min_combination",
        solvable_uploads,
        ", and late uploads hardly move; run fewer rounds, leave out federation.cohort_size, choose a "
        "privacy.mode with noise, or lower it, which protects less",
        commands=("run", "compare", "sweep"),
        when="data",
    ),
)
