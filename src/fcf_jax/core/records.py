"""The records that everyone passes, and the callables that plug in. No helpers here.

Dimension names, used in every signature: `users`, `items`, `factors`, `slots` (places for
interactions in one row), `rows`, `clients` (of one chunk or cohort), `chunks`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Key = PRNGKeyArray
Scalar = float | Float[Array, ""]  # hyperparameters may be Python numbers or traced


class ClientData(NamedTuple):
    """What one device holds: its own history, padded to `slots`; a batch has leading axes."""

    item_ids: Int[Array, "*batch slots"]
    strengths: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]


class Observations(NamedTuple):
    """A history after weighting: confidence c and preference p of each of the client's items."""

    item_ids: Int[Array, "*batch slots"]
    confidence: Float[Array, "*batch slots"]
    preference: Float[Array, "*batch slots"]
    mask: Bool[Array, "*batch slots"]


class PackedClients(NamedTuple):
    """Many histories, cut into rows of equal width and gathered into chunks of whole clients.

    A client owns consecutive rows of one chunk. A chunk is what is computed at a time.
    """

    rows: ClientData  # each [chunks, rows, slots]
    owners: Int[Array, "chunks rows"]  # which of the chunk's clients owns a row; `clients` for a padding row
    client_ids: Int[Array, "chunks clients"]  # the user behind each client; `users` where there is nobody
    first_row: Int[Array, "users"]  # where a user's rows begin, counted through all chunks
    row_counts: Int[Array, "users"]


class ClientUpdate(NamedTuple):
    """The outcome of one client's work, in the compact form that a simulation needs.

    The user factor never leaves a real device as such; see `dense_upload` for what is sent.
    """

    user_factor: Float[Array, "*batch factors"]
    residuals: Float[Array, "*batch slots"]  # e_i = c_i (p_i - x.y_i) on the client's own items


class ClientInfo(NamedTuple):
    """What one would like to know of a client's work."""

    loss: Float[Array, "*batch"]  # this client's share of J
    solve_error: Float[Array, "*batch"]  # of the user factor, relative, an upper bound


class SentNorms(NamedTuple):
    """Frobenius norms of what one client sends, piece by piece: what clipping looks at."""

    upload: Any  # Float[Array, "*clients"], each; of clip norms a number, None for what is not sent
    user_gram: Any
    confidence_sum: Any
    loss: Any


class Solved(NamedTuple):
    """What the clients of one chunk send, sparse: F_u = scatter(seen x^T) - w0 Y x x^T, times a_u."""

    client_ids: Int[Array, "clients"]
    is_client: Bool[Array, "clients"]  # not nobody
    owners: Int[Array, "rows"]
    item_ids: Int[Array, "rows slots"]
    seen: Float[Array, "rows slots"]  # e_i + w0 s_i, 0 in empty slots
    extra: Float[Array, "rows slots"]  # a_u (c_i - w0), 0 in empty slots
    user_factors: Float[Array, "clients factors"]  # x_u
    clipped_factors: Float[Array, "clients factors"]  # a_u x_u
    loss: Float[Array, "clients"]  # a_u times their share of J
    is_clipped: Bool[Array, "clients"]  # a_u < 1
    solve_error: Float[Array, "clients"]


class CohortSum(NamedTuple):
    """Everything that the server receives: sums over the clients of a round.

    Each client counts with its clip factor a_u, which is 1 where nothing is clipped.
    """

    upload: Float[Array, "items factors"]  # F = sum_u a_u f(u, .)
    user_gram: Float[Array, "factors factors"]  # S = sum_u a_u x_u x_u^T
    confidence_sum: Float[Array, "items"]  # sum_u a_u (c_ui - w0)
    loss: Float[Array, ""]  # the clients' shares of J
    num_clients: Int[Array, ""] | Float[Array, ""]  # behind a mechanism, those expected
    num_clipped: Int[Array, ""] | Float[Array, ""]  # of them, with a_u < 1
    num_clipped_entries: Any = 0  # Int[Array, ""]: single numbers cut off, of sums in fixed point


class RoundInfo(NamedTuple):
    """What one would like to see of a round; under `run_rounds` with a leading axis of rounds."""

    loss: Float[Array, "*rounds"]  # estimate of min_X J(X, Y) at the Y that the round began with
    gradient_norm: Float[Array, "*rounds"]
    solve_error: Float[Array, "*rounds"]  # the worst client's
    num_clients: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped: Int[Array, "*rounds"] | Float[Array, "*rounds"]
    num_clipped_entries: Int[Array, "*rounds"]
    client_ids: Int[Array, "*rounds clients"]  # the cohort


Weighting = Callable[[ClientData], Observations]  # r -> (c, p), for one user or for any batch
Clip = Callable[[SentNorms], Float[Array, "*clients"]]  # -> a_u in [0, 1], on everything that u sends


class Accumulation(NamedTuple):
    """How the clients of a round are summed: chunk by chunk, device by device, then read once."""

    start: Callable[[Float[Array, "items factors"]], Any]  # Y -> the total of nobody
    add: Callable[[Any, Solved], Any]  # -> the total with a chunk; totals may be added as they are
    read: Callable[[Float[Array, "items factors"], Any, Scalar], CohortSum]  # (Y, total, w0)


class Mechanism(NamedTuple):
    """The two ends of privacy in a round: clipping at the client, noise after the sum.

    Its state is what it carries from round to round, such as a clip norm that adapts.
    """

    init: Callable[[], Any]
    clip: Callable[[Any, SentNorms], Float[Array, "*clients"]]  # (state, norms) -> a_u
    release: Callable[[Key, Any, CohortSum], tuple[CohortSum, Any]]  # the sums released, next state
    item_weights: Float[Array, "items"] | None = None  # in the norms; 0: an item that nobody sends; None: 1
