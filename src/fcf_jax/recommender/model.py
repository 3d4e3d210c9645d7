"""The federation as one object, with the methods that users of `implicit` know.

SciPy sparse rows go in, NumPy arrays come out. Everything is done by the package's pure functions
(`fcf_jax.federated_cf` and its neighbours); who needs more than one object finds it there.
"""

import dataclasses
import time
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from jax import numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy import sparse

from fcf_jax.core.federation import cohort_rows
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.weighting import confidence, implicit_feedback
from fcf_jax.data.interactions import Interactions
from fcf_jax.evaluation import explain_score, solve_new_users
from fcf_jax.recommender.requests import (
    Ids,
    IdsAndScores,
    as_asked,
    best,
    check_sizes,
    checked_ids,
    histories_of,
)
from fcf_jax.recommender.rounds import Sizes, Weights, make_federation, run_round
from fcf_jax.recommender.saving import File, read_model, write_model


@dataclasses.dataclass(kw_only=True, eq=False)
class FederatedCollaborativeFilter:
    """Federated Collaborative Filtering for a matrix of implicit feedback [users, items].

    Methods and arguments are those of `implicit.als.AlternatingLeastSquares`; the matrix is not. Here its
    values are strengths r >= 0, and the confidence in an item is c = 1 + alpha r. There they are the
    confidences, times alpha. So the two fit the same model, with factors=25, regularization=1.0 and alpha=1.0
    there, when it is given

        confidences = strengths.copy()
        confidences.data = 1 + 4.0 * strengths.data  # 4.0 is our alpha

    Negative values, a dislike there, are refused here; a stored zero is no interaction.

    In a deployment the server holds `item_factors` alone, and each device its own history and factor. This is
    a simulation: it keeps the histories of the last `fit`, and solves `user_factors` from them when they are
    first asked for. `save` writes neither.

    Attributes:
        num_factors: K.
        alpha: how much one unit of strength adds to the confidence.
        regularization: lambda, on unscaled sums.
        unobserved_weight: w0, the confidence of items outside a history.
        num_rounds: how many rounds `fit` runs; with everybody, each is worth about one sweep of ALS.
        cohort_size: users drawn for each round; None: everybody in every round.
        server_step: any optax optimizer; None: `guarded_gram` for everybody, `running_sums` for cohorts.
        seed: of the first item factors and of the cohorts.

    Raises:
        ValueError: naming the number that is out of range.

    Example:
        >>> from scipy.sparse import csr_matrix
        >>> views = csr_matrix([[3.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 0.0, 2.0]])
        >>> model = FederatedCollaborativeFilter(num_factors=2).fit(views)
        >>> ids, scores = model.recommend(0, views[0], N=1)
        >>> ids.tolist()
        [2]
    """

    num_factors: int = 25
    alpha: float = 4.0
    regularization: float = 1.0
    unobserved_weight: float = 1.0
    num_rounds: int = 30
    cohort_size: int | None = None
    server_step: optax.GradientTransformation | None = None
    seed: int = 0
    _item_factors: jax.Array | None = dataclasses.field(default=None, init=False, repr=False)
    _histories: Interactions | None = dataclasses.field(default=None, init=False, repr=False)
    _user_factors: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        least = {"num_factors": 1, "num_rounds": 0, "cohort_size": 1, "seed": 0}
        least |= {"alpha": 0.0, "regularization": 0.0, "unobserved_weight": 0.0}
        for name, bound in least.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            kind, words = (Integral, "a whole number") if isinstance(bound, int) else (Real, "a number")
            is_sound = isinstance(value, kind) and bound <= value < np.inf  # type: ignore[operator]
            if value is not default and not is_sound:
                raise ValueError(
                    f"expected {name}: {words} >= {bound}, got {value}; the default is {default}"
                )

    def fit(
        self,
        user_items: Any,
        show_progress: bool = True,
        callback: Callable[[int, float, float], Any] | None = None,
    ) -> "FederatedCollaborativeFilter":
        """Run the federation from a fresh start.

        Args:
            user_items: strengths, SciPy sparse [users, items].
            show_progress: show a progress bar, on a terminal only.
            callback: is told (round, its seconds, the loss at its beginning) after each round, and may use
                the model as it is then. An exception that it raises ends the fit there.

        Returns:
            The model itself.

        Raises:
            ValueError: for a matrix that is no implicit feedback, or has fewer users than `cohort_size`.
            FloatingPointError: when training diverged; the model is then as if new.
        """
        histories = histories_of(user_items, alpha=self.alpha)
        if not histories.num_interactions:
            raise ValueError("expected user_items with an interaction, got none; look at its values")
        sizes = Sizes(histories.num_items, self.num_factors, self.cohort_size, self.server_step)
        weights = Weights(float(self.alpha), float(self.regularization), float(self.unobserved_weight))
        federation, key = make_federation(sizes, weights), jax.random.key(self.seed)
        state, clients, capacity = federation.init(key), batch_clients(histories), 1
        if not federation.takes_everybody:
            capacity = cohort_rows(federation, key, state, clients, num_rounds=max(self.num_rounds, 1))
        self._histories, self._user_factors, self._item_factors = histories, None, state.item_factors
        with _progress_bar(is_wanted=show_progress) as progress:
            task = progress.add_task("", total=self.num_rounds, status="compiling")
            for round_index in range(self.num_rounds):
                started = time.perf_counter()
                state, info = run_round(sizes, capacity, weights, key, state, clients)
                loss = float(info.loss)
                self._user_factors, self._item_factors = None, state.item_factors
                progress.update(task, advance=1, status=f"loss {loss:.6g}")
                if callback is not None:
                    callback(round_index, time.perf_counter() - started, loss)
        if not np.isfinite(self.item_factors).all():
            self._item_factors = None
            raise FloatingPointError("training diverged; raise regularization, or leave server_step to us")
        return self

    @property
    def item_factors(self) -> np.ndarray:
        """Y [items, factors], float32: what the server learns."""
        return np.asarray(self._fitted)

    @property
    def user_factors(self) -> np.ndarray:
        """X [users, factors], float32, solved from the histories of the last `fit`."""
        if self._user_factors is None:
            item_factors = self._fitted
            if self._histories is None:
                raise ValueError("expected a model fitted here, got a loaded one; pass the users' own rows")
            self._user_factors = self._solve(item_factors, self._histories)
        return self._user_factors

    def recommend(
        self,
        userid: Ids,
        user_items: Any,
        N: int = 10,  # noqa: N803
        filter_already_liked_items: bool = True,
        filter_items: npt.ArrayLike | None = None,
        recalculate_user: bool = False,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Find the N items of the highest score x.y, of equal scores the lower id first.

        Args:
            userid: one user, or a list of them.
            user_items: their histories, a row for each user in `userid`: `user_items[userid]`. May be None
                where nothing is to be filtered or recalculated.
            N: how many.
            filter_already_liked_items: leave out what is in the user's row.
            filter_items: leave these out for everybody.
            recalculate_user: solve the users' factors from these rows, instead of those of the last `fit`;
                a loaded model always does.
            items: choose among these only; N is then at most their number.

        Returns:
            Item ids (int32) and scores (float32): [N] for one user, [users, N] for a list. A place that
            nothing could fill has the id -1 and the lowest float32, where `implicit` puts a filtered id.
        """
        rows = None
        if user_items is not None or filter_already_liked_items or recalculate_user:
            rows = self._rows(user_items, num_users=np.size(userid))
        if rows is not None and (recalculate_user or self._histories is None):
            user_factors = self._solve(self._fitted, rows)
        else:
            user_factors = self.user_factors[checked_ids(userid, len(self.user_factors), "userid")]
        own = rows if filter_already_liked_items else None
        found = best(self._fitted, user_factors, N, own=own, among=items, left_out=filter_items)
        return as_asked(userid, found)

    def recommend_new(
        self,
        user_items: Any,
        N: int = 10,  # noqa: N803
        filter_already_liked_items: bool = True,
        filter_items: npt.ArrayLike | None = None,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Recommend to users that took no part in the fit; [rows of user_items, N], else as `recommend`."""
        userids = np.arange(self._rows(user_items).num_users)
        return self.recommend(userids, user_items, N, filter_already_liked_items, filter_items, True, items)

    def similar_items(
        self,
        itemid: Ids,
        N: int = 10,  # noqa: N803
        *,
        filter_items: npt.ArrayLike | None = None,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Find the items whose factors point the same way, the item itself first; shapes as of `recommend`.

        Returns:
            Item ids and the cosines of their factors with that of the item.
        """
        norms = np.linalg.norm(self.item_factors, axis=1, keepdims=True)
        directions = self.item_factors / np.where(norms > 0, norms, 1.0)
        queries = directions[checked_ids(itemid, len(directions), "itemid")]
        found = best(jnp.asarray(directions), queries, N, among=items, left_out=filter_items)
        return as_asked(itemid, found)

    def explain(
        self,
        userid: int,
        user_items: Any,
        itemid: int,
        user_weights: Any = None,
        N: int = 10,  # noqa: N803
    ) -> tuple[float, list[tuple[int, float]], Any]:
        """Say which of a user's own items the score of an item comes from.

        Args:
            userid: one user.
            user_items: the matrix of all users, as in `implicit`; or this user's row alone.
            itemid: the item, recommended or not.
            user_weights: what an earlier call for the same user returned: saves time.
            N: how many own items to return.

        Returns:
            The score, the N own items that contribute most as (item id, contribution), and `user_weights`.
            The contributions of all own items add up to the score; some may be negative.
        """
        if sparse.issparse(user_items) and user_items.ndim == 2 and user_items.shape[0] != 1:
            user_items = user_items.tocsr()[checked_ids(userid, user_items.shape[0], "userid")]
        row = self._rows(user_items, num_users=1)
        item = checked_ids(itemid, row.num_items, "itemid")[0]
        contributions, user_weights = explain_score(
            self.item_factors,
            int(item),
            row.item_ids,
            np.asarray(confidence(jnp.asarray(row.strengths), alpha=self.alpha)),
            regularization=self.regularization,
            unobserved_weight=self.unobserved_weight,
            factorization=user_weights,
        )
        largest = np.argsort(-contributions, kind="stable")[:N]
        top = [(int(row.item_ids[place]), float(contributions[place])) for place in largest]
        return float(contributions.sum()), top, user_weights

    def save(self, file: File) -> None:
        """Write item factors and hyperparameters as `.npz`, not pickled.

        A `server_step` of your own is not in the file; only another `fit` would need it.
        """
        fields = [one.name for one in dataclasses.fields(self) if one.init and one.name != "server_step"]
        write_model(file, {name: getattr(self, name) for name in fields}, self.item_factors)

    @classmethod
    def load(cls, file: File) -> "FederatedCollaborativeFilter":
        """Read what `save` wrote.

        Raises:
            OSError: when there is no such file.
            ValueError: when it is damaged, or something else.
        """
        hyperparameters, item_factors = read_model(file)
        model = cls(**hyperparameters)
        model._item_factors = jnp.asarray(item_factors)
        return model

    @property
    def _fitted(self) -> jax.Array:
        if self._item_factors is None:
            raise ValueError("expected a fitted model, got a new one; call fit, or load one")
        return self._item_factors

    def _rows(self, user_items: Any, *, num_users: int | None = None) -> Interactions:
        rows = histories_of(user_items, alpha=self.alpha)
        check_sizes(rows, num_items=len(self._fitted), num_users=num_users)
        return rows

    def _solve(self, item_factors: jax.Array, histories: Interactions) -> np.ndarray:
        return solve_new_users(
            item_factors,
            histories,
            implicit_feedback(alpha=self.alpha),
            regularization=self.regularization,
            unobserved_weight=self.unobserved_weight,
        )


def _progress_bar(*, is_wanted: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("round"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (is_wanted and console.is_terminal),
    )
