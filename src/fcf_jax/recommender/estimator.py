"""An estimator class around the federation, with the interface of the package `implicit`.

It takes SciPy sparse matrices or pandas DataFrames, and returns NumPy arrays. All computation is in the
package's pure functions, such as `fcf_jax.federated_cf`, which offer more options.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from jax import numpy as jnp

from fcf_jax.core.federation import Federation, cohort_rows, federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Key, ServerState
from fcf_jax.core.server import draw_item_factors
from fcf_jax.data import Interactions
from fcf_jax.data.feedback import Strengths
from fcf_jax.data.rows import checked_labels
from fcf_jax.data.selection import matched_factors, of_users, with_histories
from fcf_jax.optimizers import guarded_gram, running_sums
from fcf_jax.recommender.arguments import Ids, check_hyperparameters, checked_ids, histories_of
from fcf_jax.recommender.progress import progress_bar
from fcf_jax.recommender.queries import Queries
from fcf_jax.recommender.storage import FORGOTTEN, File, KeptStep, read_model, write_model

# kept, so that a second fit does not recompile
_FOR_ALL_CLIENTS, _FOR_COHORTS = guarded_gram(), running_sums()


@dataclasses.dataclass(kw_only=True, eq=False)
class FederatedCollaborativeFilter(Queries):
    """Federated Collaborative Filtering for implicit feedback, as a matrix [users, items] or a DataFrame.

    Methods and arguments are those of `implicit.als.AlternatingLeastSquares`, but the matrix has another
    meaning. Here, its values are strengths r >= 0, with confidence c = 1 + alpha r; in `implicit`, the
    confidence is alpha times the value. `implicit` fits the same model with factors=25, regularization=1.0,
    alpha=1.0 and the matrix

        confidences = strengths.copy()
        confidences.data = 1 + 4.0 * strengths.data  # alpha = 4.0 here

    Negative values, dislikes in `implicit`, raise an error here. A stored zero is no interaction.

    Histories may also be `Interactions`, or a pandas DataFrame with one row per observation, read by
    `Interactions.from_frame`. Then `user_labels` and `item_labels` have the original ids, sorted. Wherever a
    method takes an id, a whole number is a position and a string is an original id. Histories given to
    another method than `fit` are matched to the model's items by label.

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
        strengths: transformation of all strengths: "keep" none, "binary" to 1 each, "log" to log(1 + r).
        initial_item_factors: what `fit` starts from: an array [items, factors], or a fitted model, whose
            items are matched by label; items that it lacks start as without it. None: drawn item factors.
        seed: seed of the first item factors and of the cohorts, at least 0.
        regularization_exponent: nu: a user or item with n interactions among N items or users has the lambda
            lambda (n + w0 N)^nu; 0: lambda is the same for all.

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
    strengths: Strengths = "keep"
    initial_item_factors: "np.ndarray | FederatedCollaborativeFilter | None" = dataclasses.field(
        default=None, repr=False
    )
    seed: int = 0
    regularization_exponent: float = 0.0
    _item_factors: jax.Array | None = dataclasses.field(default=None, init=False, repr=False)
    _item_labels: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)
    _histories: Interactions | None = dataclasses.field(default=None, init=False, repr=False)
    _user_factors: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def fit(
        self,
        user_items: Any,
        show_progress: bool = True,
        callback: Callable[[int, float, float], Any] | None = None,
    ) -> "FederatedCollaborativeFilter":
        """Run the federation from a fresh start, or from `initial_item_factors`.

        Args:
            user_items: strengths: a SciPy sparse matrix [users, items], a DataFrame or `Interactions`.
            show_progress: show a progress bar, only on a terminal.
            callback: called after each round with its index, its duration in seconds and the loss at its
                start. It may use the model in its current state. An exception that it raises ends the fit.

        Returns:
            The model itself.

        Raises:
            ValueError: if the values cannot be strengths, there are fewer users than `cohort_size`, or
                `initial_item_factors` do not fit.
            FloatingPointError: if training diverged; the model is then unfitted.
        """
        histories = histories_of(user_items, alpha=self.alpha, strengths=self.strengths)
        if not histories.num_interactions:
            raise ValueError("expected user_items with an interaction, got none; check its values")
        federation, key = self._federation(histories.num_items), jax.random.key(self.seed)
        state = self._first_state(federation, key, histories)
        clients = pack_clients(histories, num_factors=self.num_factors)
        capacity = cohort_rows(federation, key, state, clients, num_rounds=max(self.num_rounds, 1))
        self._histories, self._item_labels = histories, histories.item_labels
        self._user_factors, self._item_factors = None, jnp.copy(state.item_factors)
        with progress_bar(is_wanted=show_progress) as progress:
            task = progress.add_task("", total=self.num_rounds, status="compiling")
            for round_index in range(self.num_rounds):
                started = time.perf_counter()
                state, info = run_rounds(
                    federation, key, state, clients, num_rounds=1, row_capacity=capacity, donate=True
                )
                loss = float(info.loss[0])
                self._user_factors, self._item_factors = None, jnp.copy(state.item_factors)
                progress.update(task, advance=1, status=f"loss {loss:.6g}")
                if callback is not None:
                    callback(round_index, time.perf_counter() - started, loss)
        if not np.isfinite(self.item_factors).all():
            self._item_factors = None
            raise FloatingPointError("training diverged; raise regularization, or leave server_step unset")
        return self

    def partial_fit_users(self, userids: Ids, user_items: Any) -> None:
        """Replace the histories of some users, and thereby their factors; the items stay as they are.

        Args:
            userids: id of a user, or a list of ids, each once. Without user labels, ids beyond the last one
                are new users.
            user_items: histories, one row for each of them.

        Raises:
            ValueError: for an id that is not known, or given twice, or histories that do not fit.
        """
        rows = self._rows(user_items, userids)
        nobody = of_users(rows, np.arange(0))  # of whom a loaded model knows
        histories = nobody if self._histories is None else self._histories
        ids = np.atleast_1d(np.asarray(userids))
        may_grow = histories.user_labels is None and ids.dtype.kind in "iu"
        limit = max(histories.num_users, int(ids.max(initial=-1)) + 1) if may_grow else histories.num_users
        positions = checked_ids(userids, limit, "userids", histories.user_labels)
        self._histories, self._user_factors = with_histories(histories, positions, rows), None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the hyperparameters by name, as in scikit-learn; `deep` changes nothing."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    def set_params(self, **params: Any) -> "FederatedCollaborativeFilter":
        """Set hyperparameters by name, for the next `fit`.

        Raises:
            ValueError: for an unknown name, or a value that is out of range; nothing is set then.
        """
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ValueError(f"expected parameters among {', '.join(self.get_params())}, got {unknown[0]}")
        check_hyperparameters(dataclasses.replace(self, **params))
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"server_step": KeptStep(self.server_step)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"server_step": state["server_step"].step})

    def save(self, file: File) -> None:
        """Write item factors and hyperparameters to an `.npz` file without pickled objects.

        The file does not contain `server_step` and `initial_item_factors`, which only another `fit` needs.
        """
        names = [field.name for field in dataclasses.fields(self) if field.init]
        unsaved = ("server_step", "initial_item_factors")
        saved = {name: getattr(self, name) for name in names if name not in unsaved}
        write_model(file, saved, self.item_factors, self._item_labels)

    @classmethod
    def load(cls, file: File) -> "FederatedCollaborativeFilter":
        """Read a model that `save` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is damaged, or not a saved model.
        """
        hyperparameters, item_factors, item_labels = read_model(file)
        return cls(**hyperparameters).with_item_factors(item_factors, item_labels)

    def with_item_factors(
        self, item_factors: np.ndarray, item_labels: npt.ArrayLike | None = None
    ) -> "FederatedCollaborativeFilter":
        """Return a model with these hyperparameters and item factors, as if loaded: it knows no user.

        Args:
            item_factors: Y [items, factors], finite; another K replaces `num_factors`.
            item_labels: original id of each item; None: 0, 1, 2, ...

        Raises:
            ValueError: for item factors of another shape, or that are not finite.
        """
        factors = np.asarray(item_factors, np.float32)
        if factors.ndim != 2 or not np.isfinite(factors).all():
            raise ValueError(f"expected finite item factors [items, factors], got shape {factors.shape}")
        model = dataclasses.replace(self, num_factors=factors.shape[1])
        model._item_factors = jnp.asarray(factors)
        model._item_labels = checked_labels(item_labels, len(factors), kind="item")
        return model

    def _first_state(self, federation: Federation, key: Key, histories: Interactions) -> ServerState:
        given = self.initial_item_factors
        drawn = draw_item_factors(key, num_items=histories.num_items, num_factors=self.num_factors)
        # an item without interactions stays at 0, the optimum of its factor
        drawn = np.where(histories.item_counts[:, None] > 0, drawn, 0.0)
        if given is None:
            return federation.init(key, jnp.asarray(drawn))
        if isinstance(given, FederatedCollaborativeFilter):
            factors, labels = given.item_factors, given._item_labels
        else:
            factors, labels = np.asarray(given), None
        return federation.init(
            key, jnp.asarray(matched_factors(factors, labels, drawn, histories.item_labels))
        )

    def _federation(self, num_items: int) -> Federation:
        step = self.server_step
        if step is FORGOTTEN:
            raise ValueError(
                "expected a server_step, got a model that was pickled with one that cannot be; "
                "set it again: model.set_params(server_step=...)"
            )
        if step is None:
            step = _FOR_ALL_CLIENTS if self.cohort_size is None else _FOR_COHORTS
        return federated_cf(
            self._model,
            step,
            num_items=num_items,
            num_factors=self.num_factors,
            cohort_size=self.cohort_size,
        )
