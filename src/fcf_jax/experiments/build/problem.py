"""What both sides of a comparison share: the data, where it lies, the model and what is measured."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from fcf_jax.core.federation import Federation
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Key, Model, PackedClients, ServerState
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.devices import mesh_of, pack_on
from fcf_jax.experiments.build.item_release import trained_histories
from fcf_jax.experiments.build.measuring import Measures, measures_of
from fcf_jax.experiments.build.models import configured_federation, configured_model
from fcf_jax.experiments.build.secure_sum import fixed_point_link
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.parallel.mesh import fetch


class Setup(NamedTuple):
    """An experiment, ready to be run."""

    config: ExperimentConfig
    dataset: Dataset
    model: Model
    clients: PackedClients
    measures: Measures
    mesh: Mesh | None

    @property
    def key(self) -> Key:
        """The key of everything random; the same start for both sides comes from it."""
        return jax.random.key(self.config.federation.seed)

    @property
    def map_name(self) -> str:
        """What the evaluation calls MAP at the configured k."""
        return f"map_at_{self.config.evaluation.k}"

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return self.config.federation.cohort_size or self.dataset.split.train.num_users

    def federation(self, item_weights: Float[np.ndarray, "items"] | None = None) -> Federation:
        """Set up the federation of this experiment; item weights are those of released counts."""
        train = self.dataset.split.train
        return configured_federation(
            self.config,
            self.model,
            num_users=train.num_users,
            num_items=train.num_items,
            mesh=self.mesh,
            item_weights=item_weights,
            sums=fixed_point_link(self.config, self.dataset),
        )

    def item_factors(self, state: ServerState) -> np.ndarray:
        """Bring the item factors here, without the rows that fill up the last device."""
        return fetch(state.item_factors)[: self.dataset.split.train.num_items]

    def measure(self, item_factors: np.ndarray) -> dict[str, float]:
        """Compute the metrics and the loss over all clients, which a cohort only estimates."""
        return {**self.measures.metrics(item_factors), "loss": self.measures.loss(item_factors)}


def set_up(config: ExperimentConfig, dataset: Dataset) -> Setup:
    """Place the clients, and prepare what is measured."""
    model = configured_model(config, dataset.mean_rating)
    mesh, histories = mesh_of(config), trained_histories(config, dataset.split.train)
    clients = pack_on(mesh, partial(pack_clients, histories), is_streamed=config.parallel.stream)
    measures = measures_of(config, dataset, clients, model, mesh)
    return Setup(config, dataset, model, clients, measures, mesh)
