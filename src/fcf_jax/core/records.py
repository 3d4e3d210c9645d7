"""Records that cross function boundaries, and the types of the functions that users plug in.

Dimension names in all signatures: `users`, `items`, `factors`; `slots` (places for interactions in a row),
`rows`, `clients` (of one chunk or cohort), `chunks`, `rounds`.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fcf_jax.core.biases import Biases
from fcf_jax.core.feature_records import FeatureState, FeatureSums, FeatureUploads
from fcf_jax.core.histories import ItemMajor
from fcf_jax.core.objectives.record import Objective

Key = PRNGKeyArray
Scalar = float | Float[Array, ""] | Int[Array, ""]  # hyperparameters may be Python numbers or traced
Weighting = Callable[["ClientData"], "Observations"]  # r -> (c, p), for one user or any batch
# (key of the round, round index, *, num_users, cohort_size) -> the cohort, of the same size in all rounds
Sampler = Callable[..., "Cohort | Array"]
T = TypeVar("T")


class ClientData(NamedTuple):
    """The history of one client, padded to `slots`; a batch of clients has leading axes.

    Attributes:
        item_ids: item of each interaction, 0 in empty slots.
        strengths: strength r of each interaction.
        mask: False in empty slots.
        negative_ids: unobserved item that each interaction is compared with, for pairwise objectives; None:
            interactions stand alone.
    """

    item_ids: Int[Array, "*batch slots"]
    strengths: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]
    negative_ids: Int[Array, "*batch slots"] | None = None


class Observations(NamedTuple):
    """A weighted history.

    Attributes:
        item_ids: the observed items, 0 in empty slots.
        confidence: c of each observed item.
        preference: p of each observed item.
        mask: False in empty slots.
        negative_ids: as those of `ClientData`.
    """

    item_ids: Int[Array, "*batch slots"]
    confidence: Float[Array, "*batch slots"]
    preference: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]
    negative_ids: Int[Array, "*batch slots"] | None = None


class Model(NamedTuple):
    """The factor model, known to the server and all clients before the first round.

    All its numbers may be traced: another alpha, lambda or w0 does not recompile.

    Attributes:
        weighting: maps strengths to confidence and preference, such as `implicit_feedback(alpha=4.0)`.
        regularization: lambda >= 0, the weight of |x|^2 and |y|^2 in J, which is a sum and not a mean.
        unobserved_weight: w0 >= 0, the confidence of items outside a history; 0 for explicit ratings.
        solve_tolerance: relative error, in the energy norm, at which a client may stop, below 1; 0: at the
            level of rounding. Heavy confidence is solved directly, which is exact.
        regularization_exponent: nu in lambda_u = lambda (|I_u| + w0 M)^nu, for a user with |I_u| interactions
            and a catalogue of M items, and likewise for items; None: lambda is the same for all, as with 0.
        feature_regularization: lambda_F >= 0, the weight of |A|^2 and |B|^2, where users or items have
            features (`fcf_jax.features`); unused without.
        objective: loss of an observed item, such as `fcf_jax.objectives.logistic()`; None: c (p - x.y)^2.
        biases: `fcf_jax.objectives.biases()` for biases of users and items, with lambda as all coordinates;
            None: none.

    References:
        Rendle et al., RecSys 2022, "Revisiting the Performance of iALS", equation 7: the exponent.
    """

    weighting: Weighting
    regularization: Scalar
    unobserved_weight: Scalar = 1.0
    solve_tolerance: Scalar = 0.0
    regularization_exponent: Scalar | None = None
    feature_regularization: Scalar = 1.0
    objective: Objective | None = None
    biases: Biases | None = None


class PackedClients(NamedTuple):
    """Histories cut into rows of equal width, and grouped into chunks of whole clients.

    A client owns consecutive rows of one chunk, and chunks are computed one after another. Only
    `core.packing` builds this record and writes the marks of padding.

    Attributes:
        rows: the histories; each leaf is [chunks, rows, slots].
        owners: position in its chunk of the client that owns a row; `clients` for a padding row.
        client_ids: user id of each client; `users` for a padding client.
        first_row: index of each user's first row, counted over all chunks.
        row_counts: number of rows of each user.
        item_counts: number of packed users with each item of the catalogue; of pairs, number of pairs with
            it. Its length tells apart packings of other catalogues, under `jit` too.
        items: the same histories item by item, for the kernels of a GPU; None: not needed.
        features: f of each user, by user id; None: no features.
    """

    rows: ClientData
    owners: Int[Array, "chunks rows"]
    client_ids: Int[Array, "chunks clients"]
    first_row: Int[Array, "users"]
    row_counts: Int[Array, "users"]
    item_counts: Int[Array, "items"]
    items: ItemMajor | None = None
    features: Float[Array, "users features"] | None = None


class Cohort(NamedTuple):
    """The users of a round.

    Attributes:
        client_ids: ids of the users, none twice; `users` for an empty place.
        weights: factor on everything that each client sends, as `Uploads.weights`; None: all 1. If a user
            has the chance pi_u of being in a cohort of Theta, Theta / (N pi_u) makes the sums unbiased.
    """

    client_ids: Int[Array, "*rounds clients"]
    weights: Float[Array, "*rounds clients"] | None = None


class Pieces(NamedTuple, Generic[T]):
    """One value, such as a norm, a bound or a format, for each of the four pieces that a client sends.

    Attributes:
        upload: value for F_u [items, factors], the item gradients.
        user_gram: value for x x^T [factors, factors].
        confidence_sum: value for c - w0 [items].
        loss: value for the client's share of J.
    """

    upload: T
    user_gram: T
    confidence_sum: T
    loss: T


class Broadcast(NamedTuple):
    """The server's message to all clients of a round, with the matrices that they all derive from it.

    Attributes:
        model: weighting, lambda and w0.
        item_factors: Y.
        item_gram: G = Y^T Y.
        item_weights: w_i, the weight of each item in a client's norms; None: all 1.
        norm_gram: Y^T W^2 Y with W = diag(w).
        user_map: A; None: users have no features.
    """

    model: Model
    item_factors: Float[Array, "items factors"]
    item_gram: Float[Array, "factors factors"]
    item_weights: Float[Array, "items"] | None
    norm_gram: Float[Array, "factors factors"]
    user_map: Float[Array, "features factors"] | None = None


class Uploads(NamedTuple):
    """Uploads of one chunk of clients in factored form: F_u = a_u (scatter(seen x^T) - w0 Y x x^T).

    Attributes:
        broadcast: the message that the clients received.
        client_ids: user id of each client.
        is_client: False for padding clients.
        owners: position of the client that owns a row; `clients` for a padding row.
        observations: the weighted histories.
        scores: s_i = x.y_i of the observed items.
        seen: e_i + w0 s_i of the observed items, 0 in empty slots.
        user_factors: x_u.
        weights: a_u >= 0, the factor on everything that a client sends; 0 for padding clients. Above 1 only
            where a cohort has weights.
        is_clipped: whether a link of the channel has clipped the client.
        loss: share of J of each client, without a_u.
        solve_error: upper bound on the relative error of x_u in the energy norm.
        features: what the clients send for A; None: users have no features.
    """

    broadcast: Broadcast
    client_ids: Int[Array, "clients"]
    is_client: Bool[Array, "clients"]
    owners: Int[Array, "rows"]
    observations: Observations
    scores: Float[Array, "rows slots"]
    seen: Float[Array, "rows slots"]
    user_factors: Float[Array, "clients factors"]
    weights: Float[Array, "clients"]
    is_clipped: Bool[Array, "clients"]
    loss: Float[Array, "clients"]
    solve_error: Float[Array, "clients"]
    features: FeatureUploads | None = None


class CohortSum(NamedTuple):
    r"""Sums over the clients of a round, each client times its a_u: all that the server receives.

    Attributes:
        upload: F = \sum_u a_u f(u, .).
        user_gram: S = \sum_u a_u x_u x_u^T.
        confidence_sum: \sum_u a_u (c_ui - w0).
        loss: sum of a_u times the client's share of J.
        num_clients: number of clients in the sums; under noise, the expected number.
        num_clipped: number of clients that the channel clipped; nan where the channel does not reveal it.
        num_clipped_entries: number of entries clipped to the bounds of fixed-point formats.
        features: sums for A; None: users have no features.
    """

    upload: Float[Array, "items factors"]
    user_gram: Float[Array, "factors factors"]
    confidence_sum: Float[Array, "items"]
    loss: Float[Array, ""]
    num_clients: Int[Array, ""] | Float[Array, ""]
    num_clipped: Int[Array, ""] | Float[Array, ""]
    num_clipped_entries: Int[Array, ""] | int = 0
    features: FeatureSums | None = None


class Accumulation(NamedTuple):
    """Rule for adding up the uploads of a round: over chunks, then over devices, then read once.

    Attributes:
        start: Y -> the empty total.
        add: (total, uploads of a chunk) -> next total. Totals of disjoint sets of clients add leaf by leaf.
        read: (model, Y, total) -> the sums.
    """

    start: Callable[[Float[Array, "items factors"]], Any]
    add: Callable[[Any, Uploads], Any]
    read: Callable[[Model, Float[Array, "items factors"], Any], CohortSum]


class Part(NamedTuple):
    """One part of a message: rows of numbers, each row perhaps with an item id or a scale.

    Attributes:
        num_rows: rows; an array has one number for each client.
        row_width: numbers of a row.
        number_bits: bits of a number.
        row_bits: bits that a row needs beside its numbers.
    """

    num_rows: Any
    row_width: int = 1
    number_bits: int = 32
    row_bits: int = 0

    @property
    def num_bytes(self) -> Any:
        """Bytes of the part."""
        return self.num_rows * (self.row_width * self.number_bits + self.row_bits) / 8


class Payload(NamedTuple):
    """What one client receives and sends in a round.

    Attributes:
        up: part of each piece; one without rows for a piece that is not sent.
        down: the rows of Y that are received.
        down_gram: Y^T Y, where it cannot be computed from these.
    """

    up: Pieces[Part]
    down: Part
    down_gram: Part = Part(0)

    @property
    def bytes_up(self) -> Any:
        """Bytes sent."""
        return sum(part.num_bytes for part in self.up)

    @property
    def bytes_down(self) -> Any:
        """Bytes received."""
        return self.down.num_bytes + self.down_gram.num_bytes


class Link(NamedTuple):
    """One link of the channel between clients and server; a chain of links is a link (`fcf_jax.channel`).

    Attributes:
        init: () -> the link's state before the first round.
        client: (key, state, uploads of a chunk) -> uploads. A random link draws with `fold_in(key, user id)`,
            so that the result does not depend on chunks or devices.
        server: (key, state, sums) -> (sums, next state), such as noise or decoding after the sum.
        payload: payload of a client before the link -> after it.
        item_weights: w_i, the weight of each item in a client's norms. An item of weight 0 is never sent, and
            its factor stays 0. None: all 1.
        accumulation: rule for adding up uploads; None: in floating point.
        broadcast: (key, state, Y) -> what clients receive in its place, with the key of the client ends; rows
            of 0 are items that are not sent to them. None: Y.
    """

    init: Callable[[], Any]
    client: Callable[[Key | None, Any, Uploads], Uploads]
    server: Callable[[Key, Any, CohortSum], tuple[CohortSum, Any]]
    payload: Callable[[Payload], Payload]
    item_weights: Float[Array, "items"] | None = None
    accumulation: Accumulation | None = None
    broadcast: Callable[[Key | None, Any, Array], Array] | None = None


class ServerState(NamedTuple):
    """State that a round takes and returns.

    Attributes:
        item_factors: Y, the shared model.
        optimizer_state: state of the server's optax step.
        round_index: number of rounds done.
        channel_state: state of the channel, such as adaptive clip norms.
        features: A and what it is computed from; None: users have no features.
    """

    item_factors: Float[Array, "items factors"]
    optimizer_state: Any
    round_index: Int[Array, ""]
    channel_state: Any = ()
    features: FeatureState | None = None


class RoundInfo(NamedTuple):
    """Report of a round; `run_rounds` stacks it along a leading axis of rounds.

    Attributes:
        loss: estimate of min_X J(X, Y) at the start of the round.
        gradient_norm: Frobenius norm of dJ/dY.
        solve_error: upper bound on the largest relative error of a user factor; never noised.
        num_clients: number of clients that took part; under noise, the expected number.
        num_clipped: number of clients that the channel clipped; nan where the channel does not reveal it.
        num_clipped_entries: number of entries clipped to the bounds of fixed-point formats.
        client_ids: user ids of the cohort.
        num_left_out: number of clients in the cohort that were left out, because `row_capacity` was too
            small for them; loss is then nan and solve_error inf. Always 0 without a `row_capacity`.
    """

    loss: Float[Array, "*rounds"]
    gradient_norm: Float[Array, "*rounds"]
    solve_error: Float[Array, "*rounds"]
    num_clients: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped_entries: Int[Array, "*rounds"]
    client_ids: Int[Array, "*rounds clients"]
    num_left_out: Int[Array, "*rounds"] | int = 0


def as_pytree(tree: Any) -> Any:
    """Return the same tree with leaves that `jit` takes, and traces without compiling for each kind.

    Functions become `Partial`, NumPy arrays JAX arrays, and whole numbers of a model floats: alpha = 4 and
    alpha = 4.0 are one program.
    """

    def leaf_for_jit(leaf: Any) -> Any:
        if isinstance(leaf, Model):
            return jax.tree.map(number_for_jit, leaf)
        if callable(leaf):
            return Partial(leaf)
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

    def number_for_jit(leaf: Any) -> Any:
        return float(leaf) if isinstance(leaf, int | np.number) else leaf_for_jit(leaf)

    return jax.tree.map(leaf_for_jit, tree, is_leaf=lambda leaf: isinstance(leaf, Model))
