"""The setup of a federation: its arguments, checked, in the form that `jit` takes."""

from dataclasses import dataclass
from functools import partial

import optax
from jax.sharding import Mesh
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float

from fcf_jax.core.biases import num_columns
from fcf_jax.core.packing import padded_size
from fcf_jax.core.records import Link, Model, Scalar
from fcf_jax.core.sampling import Drawing


@partial(
    register_dataclass,
    data_fields=["model", "channel", "init_scale", "sampling", "item_features"],
    meta_fields=["optimizer", "num_items", "num_factors", "cohort_size", "mesh", "num_user_features"],
)
@dataclass(frozen=True)
class Setup:
    """The arguments of `federated_cf`: those of `data_fields` may be traced, all else is static."""

    model: Model
    channel: Link | None
    init_scale: Scalar
    sampling: Drawing
    optimizer: optax.GradientTransformation
    num_items: int
    num_factors: int
    cohort_size: int | None
    mesh: Mesh | None
    item_features: Float[Array, "items features"] | None = None
    num_user_features: int = 0

    @property
    def num_shares(self) -> int:
        """Number of devices that share the clients of a round."""
        return 1 if self.mesh is None else self.mesh.shape["clients"]

    @property
    def num_columns(self) -> int:
        """Columns of the item factors: K, and those of biases."""
        return num_columns(self.num_factors, self.model.biases)

    @property
    def num_rows(self) -> int:
        """Rows of the item factors: the items, padded to a multiple of the devices that split them."""
        return padded_size(self.num_items, self.mesh)
