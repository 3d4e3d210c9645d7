"""An estimator class around the federation, with the interface of the package `implicit`.

It takes SciPy sparse matrices and returns NumPy arrays. All computation is in the package's pure functions,
such as `fcf_jax.federated_cf`, which offer more options.
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

from fcf_jax.core.federation import Federation, cohort_rows, federated_cf, run_rounds
from fcf_jax.core.objective import confidence, implicit_feedback
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.evaluation.recommend import explain_score, recommend_many, solve_new_users
from fcf_jax.optimizers import guarded_gram, running_sums
from fcf_jax.recommender.arguments import (
    Ids,
    IdsAndScores,
    check_sizes,
    checked_ids,
    histories_of,
    shaped_like,
)
from fcf_jax.recommender.storage import File, read_model, write_model

_NO_SCORE = np.finfo(np.float32).min  # score of a place without an item, as in `implicit`
# kept, so that a second fit does not recompile
_FOR_ALL_CLIENTS, _FOR_COHORTS = guarded_gram(), running_sums()


@dataclasses.dataclass(kw_only=True, eq=False)
class FederatedCollaborativeFilter:
    """Federated Collaborative Filtering for a matrix of implicit feedback [users, items].

    Methods and arguments are those of `implicit.als.AlternatingLeastSquares`, but the matrix has another
    meaning. Here, its values are strengths r >= 0, with confidence c = 1 + alpha r; in `implicit`, the
    confidence is alpha times the value. `implicit` fits the same model with factors=25, regularization=1.0,
    alpha=1.0 and the matrix

        confidences = strengths.copy()
        confidences.data = 1 + 4.0 * strengths.data  # alpha = 4.0 here

    Negative values, dislikes in `implicit`, raise an error here. A stored zero is no interaction.

    In a deployment, the server has only `item_factors`, and each device its own history and factor. This
    simulation keeps the histories of the last `fit`, and solves `user_factors` from them when they are first
    read. `save` writes neither.

    Attributes:
        num_factors: K, at least 1.
        alpha: confidence added by one unit of strength, at least 0.
        regularization: lambda >= 0, the weight of |x|^2 and |y|^2 in J, which is a sum and not a mean.
        unobserved_weight: w0 >= 0, the confidence of items outside a history.
        num_rounds: number of rounds of `fit`; a round of all users is worth about one sweep of ALS.
        cohort_size: number of users in a round; None: all users.
        server_step: any optax optimizer; None: `guarded_gram` for rounds of all users, `running_sums` for
            cohorts.
        seed: seed of the first item factors and of the cohorts, at least 0.

    Raises:
        ValueError: for a value that is out of range.

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
            user_items: strengths, a SciPy sparse matrix [users, items].
            show_progress: show a progress bar, only on a terminal.
            callback: called after each round with its index, its duration in seconds and the loss at its
                start. It may use the model in its current state. An exception that it raises ends the fit.

        Returns:
            The model itself.

        Raises:
            ValueError: if the values cannot be strengths, or there are fewer users than `cohort_size`.
            FloatingPointError: if training diverged; the model is then unfitted.
        """
        histories = histories_of(user_items, alpha=self.alpha)
        if not histories.num_interactions:
            raise ValueError("expected user_items with an interaction, got none; check its values")
        federation, key = self._federation(histories.num_items), jax.random.key(self.seed)
        state, clients = federation.init(key), pack_clients(histories)
        capacity = cohort_rows(federation, key, state, clients, num_rounds=max(self.num_rounds, 1))
        self._histories, self._user_factors, self._item_factors = histories, None, state.item_factors
        with _progress_bar(is_wanted=show_progress) as progress:
            task = progress.add_task("", total=self.num_rounds, status="compiling")
            for round_index in range(self.num_rounds):
                started = time.perf_counter()
                state, info = run_rounds(federation, key, state, clients, num_rounds=1, row_capacity=capacity)
                loss = float(info.loss[0])
                self._user_factors, self._item_factors = None, state.item_factors
                progress.update(task, advance=1, status=f"loss {loss:.6g}")
                if callback is not None:
                    callback(round_index, time.perf_counter() - started, loss)
        if not np.isfinite(self.item_factors).all():
            self._item_factors = None
            raise FloatingPointError("training diverged; raise regularization, or leave server_step unset")
        return self

    @property
    def item_factors(self) -> np.ndarray:
        """Y [items, factors], float32, the state of the server."""
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
        """Find the N items with the highest scores x.y; of equal scores, the lower id comes first.

        Args:
            userid: id of a user, or a list of ids.
            user_items: histories, one row for each user in `userid`: `user_items[userid]`. May be None if
                nothing is filtered or recalculated.
            N: number of items, at least 1.
            filter_already_liked_items: leave out the items in the user's row.
            filter_items: items to leave out for all users.
            recalculate_user: solve the users' factors from `user_items` instead of the histories of the last
                `fit`; always done by a loaded model.
            items: the only items to choose from; N is then at most their number.

        Returns:
            Item ids (int32) and scores (float32): [N] for one user, [users, N] for a list. If a user has
            fewer candidates, the rest has id -1 and the lowest float32 as score (`implicit` returns a
            filtered id).
        """
        rows = None
        if user_items is not None or filter_already_liked_items or recalculate_user:
            rows = self._rows(user_items, num_users=np.size(userid))
        if rows is not None and (recalculate_user or self._histories is None):
            user_factors = self._solve(self._fitted, rows)
        else:
            user_factors = self.user_factors[checked_ids(userid, len(self.user_factors), "userid")]
        observed = rows if filter_already_liked_items else None
        found = _best(self._fitted, user_factors, N, observed=observed, among=items, left_out=filter_items)
        return shaped_like(userid, found)

    def recommend_new(
        self,
        user_items: Any,
        N: int = 10,  # noqa: N803
        filter_already_liked_items: bool = True,
        filter_items: npt.ArrayLike | None = None,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Recommend to users that took no part in the fit: [rows, N], one row for each row of `user_items`.

        Arguments are those of `recommend`.
        """
        rows = self._rows(user_items)
        user_factors = self._solve(self._fitted, rows)
        observed = rows if filter_already_liked_items else None
        return _best(self._fitted, user_factors, N, observed=observed, among=items, left_out=filter_items)

    def similar_items(
        self,
        itemid: Ids,
        N: int = 10,  # noqa: N803
        *,
        filter_items: npt.ArrayLike | None = None,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Find the N items with the most similar factors, the item itself first; shapes as for `recommend`.

        Args:
            itemid: id of an item, or a list of ids.
            N: number of items, at least 1.
            filter_items: items to leave out.
            items: the only items to choose from; N is then at most their number.

        Returns:
            Item ids, and the cosines of their factors with that of the item.
        """
        norms = np.linalg.norm(self.item_factors, axis=1, keepdims=True)
        directions = self.item_factors / np.where(norms > 0, norms, 1.0)
        queries = directions[checked_ids(itemid, len(directions), "itemid")]
        found = _best(jnp.asarray(directions), queries, N, among=items, left_out=filter_items)
        return shaped_like(itemid, found)

    def explain(
        self,
        userid: int,
        user_items: Any,
        itemid: int,
        user_weights: Any = None,
        N: int = 10,  # noqa: N803
    ) -> tuple[float, list[tuple[int, float]], Any]:
        """Explain the score of an item by the user's observed items.

        Args:
            userid: id of the user.
            user_items: the matrix of all users, as in `implicit`, or only the row of this user.
            itemid: id of the item, recommended or not.
            user_weights: those returned by an earlier call for the same user, to save time.
            N: number of observed items to return.

        Returns:
            The score, the N observed items that contribute most as (item id, contribution), and
            `user_weights`. The contributions of all observed items add up to the score; some may be negative.
        """
        from scipy import sparse

        if sparse.issparse(user_items) and user_items.ndim == 2 and user_items.shape[0] != 1:
            user_items = user_items.tocsr()[checked_ids(userid, user_items.shape[0], "userid")]
        row = self._rows(user_items, num_users=1)
        item = checked_ids(itemid, row.num_items, "itemid")[0]
        contributions, user_weights = explain_score(
            self.item_factors,
            int(item),
            row.item_ids,
            np.asarray(confidence(jnp.asarray(row.strengths), alpha=self.alpha)),
            model=self._model,
            factorization=user_weights,
        )
        largest = np.argsort(-contributions, kind="stable")[:N]
        top = [(int(row.item_ids[place]), float(contributions[place])) for place in largest]
        return float(contributions.sum()), top, user_weights

    def save(self, file: File) -> None:
        """Write item factors and hyperparameters to an `.npz` file without pickled objects.

        The file does not contain `server_step`, which only another `fit` needs.
        """
        names = [field.name for field in dataclasses.fields(self) if field.init]
        saved = {name: getattr(self, name) for name in names if name != "server_step"}
        write_model(file, saved, self.item_factors)

    @classmethod
    def load(cls, file: File) -> "FederatedCollaborativeFilter":
        """Read a model that `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is damaged, or not a saved model.
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

    @property
    def _model(self) -> Model:
        weighting = implicit_feedback(alpha=float(self.alpha))
        return Model(weighting, float(self.regularization), float(self.unobserved_weight))

    def _federation(self, num_items: int) -> Federation:
        step = self.server_step
        if step is None:
            step = _FOR_ALL_CLIENTS if self.cohort_size is None else _FOR_COHORTS
        return federated_cf(
            self._model,
            step,
            num_items=num_items,
            num_factors=self.num_factors,
            cohort_size=self.cohort_size,
        )

    def _solve(self, item_factors: jax.Array, histories: Interactions) -> np.ndarray:
        return solve_new_users(self._model, item_factors, histories)


def _progress_bar(*, is_wanted: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


def _best(
    factors: jax.Array,
    queries: np.ndarray,
    count: int,
    *,
    observed: Interactions | None = None,
    among: npt.ArrayLike | None = None,
    left_out: npt.ArrayLike | None = None,
) -> IdsAndScores:
    """Find for each query the `count` best rows of `factors`, only `among` some or with some `left_out`."""
    if left_out is not None and among is not None:
        raise ValueError("expected items or filter_items, got both; remove the filtered ones from items")
    is_candidate = np.full(len(factors), among is None)
    if among is not None:
        is_candidate[checked_ids(among, len(factors), "items")] = True
        count = min(count, int(is_candidate.sum()))
    if left_out is not None:
        is_candidate[checked_ids(left_out, len(factors), "filter_items")] = False
    if count < 1:
        raise ValueError(f"expected N >= 1 and an item to choose among, got {count}; ask for at least one")
    ids, scores = recommend_many(factors, queries, observed, is_candidate=is_candidate, k=count)
    return ids, np.maximum(scores, _NO_SCORE)
