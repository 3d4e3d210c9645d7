"""The vocabulary of the package: records that cross function boundaries, and the callables that plug in.

Dimension names in every signature: `users`, `items`, `factors`; `slots` (places for interactions in a
row), `rows`, `clients` (of one chunk or cohort), `chunks`, `rounds`.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Key = PRNGKeyArray
Scalar = float | Float[Array, ""] | Int[Array, ""]  # hyperparameters may be Python numbers or traced
Weighting = Callable[["ClientData"], "Observations"]  # r -> (c, p), for one user or any batch
T = TypeVar("T")


class ClientData(NamedTuple):
    """The history that one device holds, padded to `slots`; a batch of clients has leading axes.

    Attributes:
        item_ids: item of each interaction; 0 in empty slots.
        strengths: r of each interaction.
        mask: False in empty slots.
    """

    item_ids: Int[Array, "*batch slots"]
    strengths: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]


class Observations(NamedTuple):
    """A history after weighting.

    Attributes:
        item_ids: item of each interaction.
        confidence: c of each observed item.
        preference: p of each observed item.
        mask: False in empty slots.
    """

    item_ids: Int[Array, "*batch slots"]
    confidence: Float[Array, "*batch slots"]
    preference: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]


class Model(NamedTuple):
    """The factor model: what every client and the server agree on before the first round.

    All three may be traced: another alpha, lambda or w0 compiles nothing.

    Attributes:
        weighting: from strengths to confidence and preference, such as `implicit_feedback(alpha=4.0)`.
        regularization: lambda on the squared norms of all factors, at least 0; sums are not averaged.
        unobserved_weight: w0, the confidence of items outside a history, at least 0; 0 for explicit ratings.
    """

    weighting: Weighting
    regularization: Scalar
    unobserved_weight: Scalar = 1.0


@runtime_checkable
class Histories(Protocol):
    """Interactions in CSR form, one row per user: all that packing needs. `fcf_jax.Interactions` has it."""

    @property
    def num_users(self) -> int: ...  # noqa: D102
    @property
    def num_items(self) -> int: ...  # noqa: D102
    @property
    def indptr(self) -> np.ndarray: ...  # noqa: D102
    @property
    def item_ids(self) -> np.ndarray: ...  # noqa: D102
    @property
    def strengths(self) -> np.ndarray: ...  # noqa: D102
    def transpose(self) -> "Histories": ...  # noqa: D102


class PackedClients(NamedTuple):
    """Many histories, cut into rows of equal width and gathered into chunks of whole clients.

    A client owns consecutive rows of one chunk; a chunk is computed at a time. Only `core.packing` builds or
    rearranges these.

    Attributes:
        rows: the histories, each leaf [chunks, rows, slots].
        owners: which of the chunk's clients owns a row; `clients` for a padding row.
        client_ids: the user behind each client; `users` for a padding client.
        first_row: where a user's rows begin, counted through all chunks.
        row_counts: rows of each user.
    """

    rows: ClientData
    owners: Int[Array, "chunks rows"]
    client_ids: Int[Array, "chunks clients"]
    first_row: Int[Array, "users"]
    row_counts: Int[Array, "users"]


class Pieces(NamedTuple, Generic[T]):
    """One value for each piece of what a client sends: a norm, a bound, a format.

    Attributes:
        upload: of F_u [items, factors], the item gradients.
        user_gram: of x x^T [factors, factors].
        confidence_sum: of c - w0 [items].
        loss: of the client's share of J.
    """

    upload: T
    user_gram: T
    confidence_sum: T
    loss: T


class Broadcast(NamedTuple):
    """What the server sends to every client of a round, and what follows from it for all of them.

    Attributes:
        model: the model.
        item_factors: Y.
        item_gram: G = Y^T Y.
        item_weights: w_i, by which items count in a client's norms; None for 1 each.
        norm_gram: Y^T W^2 Y.
    """

    model: Model
    item_factors: Float[Array, "items factors"]
    item_gram: Float[Array, "factors factors"]
    item_weights: Float[Array, "items"] | None
    norm_gram: Float[Array, "factors factors"]


class Uploads(NamedTuple):
    """What the clients of one chunk send, in factored form: F_u = a_u (scatter(seen x^T) - w0 Y x x^T).

    Attributes:
        broadcast: what they received.
        client_ids: the user behind each client.
        is_client: False for padding clients.
        owners: which client owns a row; `clients` for a padding row.
        observations: the weighted histories, [rows, slots].
        scores: s_i = x.y_i of the observed items.
        seen: e_i + w0 s_i, 0 in empty slots.
        user_factors: x_u.
        weights: a_u in [0, 1], on everything that a client sends; 0 for padding clients.
        loss: each client's share of J, before a_u.
        solve_error: relative error of x_u in the energy norm, an upper bound.
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
    loss: Float[Array, "clients"]
    solve_error: Float[Array, "clients"]


class CohortSum(NamedTuple):
    """Everything that the server receives: sums over the clients of a round, each times its a_u.

    Attributes:
        upload: F = sum of f(u, .).
        user_gram: S = sum of x_u x_u^T.
        confidence_sum: sum of c_ui - w0.
        loss: sum of the clients' shares of J.
        num_clients: how many took part; under noise, the expected number.
        num_clipped: of them, those with a_u < 1.
        num_clipped_entries: single numbers cut off, in fixed-point sums.
    """

    upload: Float[Array, "items factors"]
    user_gram: Float[Array, "factors factors"]
    confidence_sum: Float[Array, "items"]
    loss: Float[Array, ""]
    num_clients: Int[Array, ""] | Float[Array, ""]
    num_clipped: Int[Array, ""] | Float[Array, ""]
    num_clipped_entries: Int[Array, ""] | int = 0


class Accumulation(NamedTuple):
    """How the uploads of a round are added up: chunk by chunk, device by device, then read once.

    Attributes:
        start: Y -> the total of no client.
        add: (total, uploads) -> the total with a chunk; totals of different clients may be added leaf by
            leaf.
        read: (model, Y, total) -> the sums.
    """

    start: Callable[[Float[Array, "items factors"]], Any]
    add: Callable[[Any, Uploads], Any]
    read: Callable[[Model, Float[Array, "items factors"], Any], CohortSum]


class Payload(NamedTuple):
    """Bytes that one client receives and sends in a round.

    Attributes:
        up: of each piece that it sends; 0 for a piece that it does not.
        down: of what it receives.
    """

    up: Pieces[int]
    down: int


class Link(NamedTuple):
    """One link of the channel between clients and server; a chain of links is a link (`fcf_jax.channel`).

    Attributes:
        init: () -> the link's state before the first round.
        client: (key, state, uploads) -> what leaves the clients of a chunk. Draw with
            `fold_in(key, user id)`, so that chunks and devices do not matter.
        server: (key, state, sums) -> (sums, next state), after the sum: noise, decoding, repair.
        payload: what becomes of a client's bytes.
        item_weights: w_i, by which items count in a client's norms. An item of weight 0 is never sent, and
            its factor stays 0. None for 1 each.
        accumulation: how uploads are added up, for links that need sums other than floats.
    """

    init: Callable[[], Any]
    client: Callable[[Key | None, Any, Uploads], Uploads]
    server: Callable[[Key, Any, CohortSum], tuple[CohortSum, Any]]
    payload: Callable[[Payload], Payload]
    item_weights: Float[Array, "items"] | None = None
    accumulation: Accumulation | None = None


class ServerState(NamedTuple):
    """What the next round needs.

    Attributes:
        item_factors: Y, the shared model.
        optimizer_state: of the server's optax step.
        round_index: rounds done.
        channel_state: of the channel, such as a clip norm that adapts.
    """

    item_factors: Float[Array, "items factors"]
    optimizer_state: Any
    round_index: Int[Array, ""]
    channel_state: Any = ()


class RoundInfo(NamedTuple):
    """Report of a round; under `run_rounds` every leaf has a leading axis of rounds.

    Attributes:
        loss: estimate of min_X J(X, Y) at the Y that the round began with.
        gradient_norm: Frobenius norm of dJ/dY.
        solve_error: the worst client's relative solve error, an upper bound.
        num_clients: how many took part; under noise, the expected number.
        num_clipped: of them, those that were clipped.
        num_clipped_entries: single numbers cut off, in fixed-point sums.
        client_ids: the cohort.
    """

    loss: Float[Array, "*rounds"]
    gradient_norm: Float[Array, "*rounds"]
    solve_error: Float[Array, "*rounds"]
    num_clients: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped_entries: Int[Array, "*rounds"]
    client_ids: Int[Array, "*rounds clients"]


def as_pytree(tree: Any) -> Any:
    """Wrap the plain functions in a record in `Partial`, so that it crosses `jit` with its numbers traced."""
    return jax.tree.map(lambda leaf: Partial(leaf) if callable(leaf) else leaf, tree)
