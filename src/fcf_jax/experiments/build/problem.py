"""Problem of an experiment: everything that a configuration and its data decide, resolved once."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.channel.fixed_point import Formats
from fcf_jax.core.biases import biases
from fcf_jax.core.federation import Federation, draw_item_factors, federated_cf
from fcf_jax.core.objective import explicit_ratings, implicit_feedback
from fcf_jax.core.objectives.bpr import bpr
from fcf_jax.core.objectives.logistic import logistic, sampled_feedback
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Key, Model, PackedClients, Payload
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.arrivals import ClientDevices, client_devices_of, cohorts_of
from fcf_jax.experiments.build.channel import channel_of, summed_confidences
from fcf_jax.experiments.build.compression import with_items
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.devices import chunks_of_a_block, mesh_of, pack_on
from fcf_jax.experiments.build.facts import largest_bounds
from fcf_jax.experiments.build.histories import compared_histories, trained_histories
from fcf_jax.experiments.build.ledger import Ledger, Shape, client_bytes, ledger_of
from fcf_jax.experiments.build.measuring import Measures, measures_of
from fcf_jax.experiments.build.new_items import new_items_of
from fcf_jax.experiments.build.start import start_from
from fcf_jax.experiments.config.mistakes import formats_of
from fcf_jax.experiments.config.protection import Protection, protection_of
from fcf_jax.experiments.config.schema import ExperimentConfig, ModelConfig, PrivacyConfig
from fcf_jax.experiments.loop import Learned, Schedule
from fcf_jax.parallel.buffered import buffered_rounds
from fcf_jax.parallel.mesh import fetch
from fcf_jax.parallel.timetable import Timetable

_OBJECTIVES = {"squared": None, "logistic": logistic(), "bpr": bpr()}
_PREDICTIONS = ("rmse", "normalized_rmse", "loss")


class Problem(NamedTuple):
    """Problem of an experiment.

    Attributes:
        config: as resolved.
        dataset: of the first replicate, if there are several.
        model: weighting, lambda and w0.
        protection: differential privacy; None without noise.
        formats: of fixed-point sums; None where rounds are summed in floating point.
        client_devices: dropouts and speeds of the clients' devices.
        start: first item factors [items, factors] from an earlier model; None: drawn.
    """

    config: ExperimentConfig
    dataset: Dataset
    model: Model
    protection: Protection | None
    formats: Formats | None
    client_devices: ClientDevices
    start: np.ndarray | None = None

    @property
    def train(self) -> Interactions:
        """The training set."""
        return self.dataset.split.train

    @property
    def key(self) -> Key:
        """Key of the first item factors, the same for the federation and for ALS."""
        return jax.random.key(self.config.federation.seed)

    @property
    def schedule(self) -> Schedule:
        """Blocks of rounds, evaluations and checkpoints."""
        config = self.config
        return Schedule(config.federation.num_rounds, config.evaluation.every, config.checkpoint.every)

    @property
    def map_name(self) -> str:
        """Name of MAP at the first configured k."""
        return f"map_at_{self.config.evaluation.leading_k}"

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return self.config.federation.cohort_among(self.train.num_users) or self.train.num_users

    @property
    def num_user_features(self) -> int:
        """Length of a user's features; 0 without."""
        users = self.dataset.features.users
        return 0 if users is None else users.num_features

    @property
    def clears_unseen(self) -> bool:
        """Whether items without interactions get 0, as in ALS, instead of what is left of their random start.

        Under noise they do not: which items have interactions is private. Features give them a factor, too,
        and biases a bias, which is learned.
        """
        is_kept = self.config.privacy.has_noise or self.start is not None or self.model.biases is not None
        return not is_kept and self.dataset.features.items is None

    @property
    def ledger(self) -> Ledger:
        """Bytes of a client in a round; see `client_bytes`."""
        return ledger_of(self.config, *self._shape_and_links)

    @property
    def client_bytes(self) -> tuple[Any, Any]:
        """Bytes (up, down) of each client in a round, or of all alike."""
        return client_bytes(self.config, *self._shape_and_links)

    @property
    def _shape_and_links(self) -> tuple[Shape, Callable[[Payload], Payload] | None]:
        channel = channel_of(self)
        shape = Shape(self.train.num_items, self.history_lengths, self.num_user_features)
        return shape, None if channel is None else channel.payload

    @property
    def history_lengths(self) -> np.ndarray:
        """Items of each client's history, with sampled negatives where the objective has them."""
        lengths = trained_histories(
            self.config.privacy, self.train, seed=self.config.data.seed
        ).history_lengths
        return lengths * (1 + self.config.model.num_negatives * self.config.model.has_sampled_negatives)

    def federation(
        self,
        *,
        model: Model | None = None,
        optimizer: optax.GradientTransformation | None = None,
        item_weights: Float[np.ndarray, "items"] | None = None,
        confidences: Float[Array, "items"] | None = None,
        mesh: Mesh | None = None,
        timetable: Timetable | None = None,
    ) -> Federation:
        """Set up the federation.

        Args:
            model: replaces that of the problem, such as by one with traced numbers.
            optimizer: replaces the configured server step.
            item_weights: from released item counts, for clipping and noise.
            confidences: sum of all users, where it is sent once; None: that of the training set.
            mesh: devices that share a round; None: one device.
            timetable: of asynchronous rounds; None: they are synchronous.
        """
        config, (cohort_size, sampling) = self.config, cohorts_of(self)
        model = self.model if model is None else model
        if confidences is None and config.sent_confidences == "once":
            confidences = summed_confidences(model, self.train)
        configured = config.server.optimizer(config.federation.num_rounds)
        federation = federated_cf(
            model._replace(solve_tolerance=config.solve_tolerance),
            with_items(self, configured if optimizer is None else optimizer),
            num_items=self.train.num_items,
            num_factors=config.model.num_factors,
            cohort_size=cohort_size,
            sampling=sampling,
            init_scale=config.model.init_scale,
            channel=channel_of(self, item_weights, confidences),
            mesh=mesh,
            item_features=self.dataset.features.of_items(self.train),
            num_user_features=self.num_user_features,
        )
        return federation if timetable is None else buffered_rounds(federation, timetable)

    def first_item_factors(self) -> Float[Array, "items factors"]:
        """Return the item factors that the federation and centralised ALS start from."""
        if self.start is not None:
            return jnp.asarray(self.start)
        return draw_item_factors(
            self.key,
            num_items=self.train.num_items,
            num_factors=self.config.model.num_factors,
            init_scale=self.config.model.init_scale,
            biases=self.model.biases,
        )


def resolve(config: ExperimentConfig, *datasets: Dataset) -> Problem:
    """Resolve the problem of a configuration and its data.

    Args:
        config: from `load_config`, checked for the command with these data.
        *datasets: splits of the same data; several for replicates, which share the formats of sums.
    """
    train, formats = datasets[0].split.train, None
    if config.is_in_fixed_point:
        max_clients = config.federation.largest_cohort(train.num_users)
        formats = formats_of(
            largest_bounds(config, datasets), config.privacy.fraction_bits, max_clients=max_clients
        )
    problem = Problem(
        config=config,
        dataset=datasets[0],
        model=model_of(config.model, config.data.feedback, datasets[0].mean_rating),
        protection=protection_of(config, num_users=train.num_users),
        formats=formats,
        client_devices=client_devices_of(config, train),
    )
    if (path := config.server.initial_item_factors) is None:
        return problem
    drawn = np.asarray(problem.first_item_factors())
    start = start_from(path, drawn, train.item_labels, biases=problem.model.biases)
    return problem._replace(start=start)


def model_of(model: ModelConfig, feedback: str, mean_rating: float) -> Model:
    """Build the model of a configuration, whose numbers may be traced.

    Args:
        model: section of the configuration.
        feedback: "implicit" or "explicit".
        mean_rating: subtracted from explicit ratings.
    """
    exponent = model.regularization_exponent
    if feedback == "explicit":
        weighting = explicit_ratings(mean=mean_rating)
    elif model.objective == "logistic":
        weighting = sampled_feedback(alpha=model.alpha)
    else:
        weighting = implicit_feedback(alpha=model.alpha)
    is_zero = not isinstance(exponent, jax.Array) and exponent == 0
    return Model(
        weighting,
        model.regularization,
        model.unobserved_weight,
        regularization_exponent=None if is_zero else exponent,
        feature_regularization=model.feature_regularization,
        objective=_OBJECTIVES[model.objective],
        biases=biases() if model.biases else None,
    )


def of_popularity(config: ExperimentConfig, measured: dict[str, Any]) -> dict[str, Any]:
    """Keep the metrics that popularity is comparable in: of ranking alone, unless both predict p.

    The share of users that rated an item is no estimate of a rating or of a logistic score, so that errors
    and loss become nan.
    """
    if config.data.feedback == "implicit" and not config.model.has_sampled_negatives:
        return measured
    return {name: value * np.nan if name in _PREDICTIONS else value for name, value in measured.items()}


def rounds_key(privacy: PrivacyConfig, key: Key) -> Key:
    """Return the key for cohorts and noise; under noise it comes from the system's entropy, never stored.

    With `privacy.seed` the key is fixed, and the run is not private.

    Args:
        privacy: section of the configuration.
        key: that of the first item factors, used without noise.
    """
    if not privacy.has_noise:
        return key
    if privacy.seed is not None:
        return jax.random.key(privacy.seed)
    bits = np.frombuffer(os.urandom(8), np.uint32)
    if jax.process_count() > 1:
        bits = multihost_utils.broadcast_one_to_all(bits)
    return jax.random.wrap_key_data(jnp.asarray(bits))


class PlacedProblem(NamedTuple):
    """A problem on its devices, ready to run.

    Attributes:
        problem: as resolved.
        clients: histories that clients train on, packed in host memory or on the devices.
        measures: loss and metrics of item factors.
        mesh: devices that share a round; None for one device.
        block_chunks: chunks on the devices at a time, if clients are in host memory; None: all chunks.
    """

    problem: Problem
    clients: PackedClients
    measures: Measures
    mesh: Mesh | None
    block_chunks: int | None

    def item_factors(self, item_factors: jax.Array) -> np.ndarray:
        """Fetch the item factors to the host, without the padding of the last device.

        Those of items without interactions become 0 as `Problem.clears_unseen` tells.
        """
        problem, on_host = self.problem, fetch(item_factors)[: self.problem.train.num_items]
        if not problem.clears_unseen:
            return on_host
        return np.where(fetch(self.clients.item_counts)[:, None] > 0, on_host, 0.0)

    def fetched(self, learned: Learned) -> tuple[np.ndarray, np.ndarray | None]:
        """Fetch item factors and user map to the host, as `item_factors` does."""
        user_map = None if learned.user_map is None else fetch(learned.user_map)
        return self.item_factors(learned.item_factors), user_map

    def measure(self, item_factors: np.ndarray, user_map: np.ndarray | None = None) -> dict[str, float]:
        """Compute the metrics and the loss over all clients, which a cohort only estimates.

        Args:
            item_factors: Y.
            user_map: A; None: users have no features.
        """
        measures = self.measures
        return {**measures.metrics(item_factors, user_map), "loss": measures.loss(item_factors, user_map)}

    def measure_popularity(self) -> dict[str, float]:
        """Compute the metrics and the loss of the ranking by popularity."""
        return of_popularity(self.problem.config, self.measures.popularity())


def place(problem: Problem) -> PlacedProblem:
    """Place the clients on their devices, and prepare loss and metrics."""
    config = problem.config
    mesh = mesh_of(config.parallel, cohort_size=config.federation.cohort_size, histories=problem.train)
    histories = trained_histories(config.privacy, problem.train, seed=config.data.seed)
    histories = compared_histories(config.model, histories, seed=config.data.seed)
    clients = pack_on(
        mesh,
        partial(
            pack_clients,
            histories,
            num_factors=config.model.num_factors,
            features=problem.dataset.features.of_users(problem.train),
        ),
        is_streamed=config.parallel.stream,
    )
    block_chunks = (
        chunks_of_a_block(clients, config.parallel.block_megabytes) if config.parallel.stream else None
    )
    measures = measures_of(
        problem.model,
        problem.dataset,
        clients,
        mesh,
        evaluation=config.evaluation,
        compare=partial(compared_histories, config.model, seed=config.data.seed),
        seed=config.data.seed,
        block_chunks=block_chunks,
        new_items=new_items_of(problem.dataset, config.data, config.evaluation, seed=config.data.seed),
    )
    return PlacedProblem(problem, clients, measures, mesh, block_chunks)
