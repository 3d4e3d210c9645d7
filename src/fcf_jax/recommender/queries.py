"""Questions to a fitted model: recommendations, neighbours and explanations."""

from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp

from fcf_jax.core.objective import confidence, implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.data.feedback import Strengths
from fcf_jax.data.selection import of_users
from fcf_jax.evaluation.recommend import explain_score, solve_new_users
from fcf_jax.recommender.arguments import (
    Ids,
    IdsAndScores,
    check_sizes,
    checked_ids,
    histories_of,
    labels_of,
    shaped_like,
)
from fcf_jax.recommender.choice import best, neighbors


class Queries:
    """Methods of the estimator that read its fitted state and do not change it."""

    alpha: float
    regularization: float
    unobserved_weight: float
    regularization_exponent: float
    strengths: Strengths
    _item_factors: jax.Array | None
    _item_labels: np.ndarray | None
    _histories: Interactions | None
    _user_factors: np.ndarray | None

    @property
    def item_factors(self) -> np.ndarray:
        """Y [items, factors], float32, the state of the server."""
        return np.asarray(self._fitted)

    @property
    def user_factors(self) -> np.ndarray:
        """X [users, factors], float32, solved from the histories of the last `fit`."""
        if self._user_factors is None:
            self._user_factors = self._solve(self._fitted, self._own_histories)
        return self._user_factors

    @property
    def item_labels(self) -> np.ndarray:
        """Original id of each item: `model.item_labels[ids]`; 0, 1, 2, ... after a matrix without labels."""
        return np.arange(len(self._fitted)) if self._item_labels is None else self._item_labels

    @property
    def user_labels(self) -> np.ndarray:
        """Original id of each user of the last `fit`; 0, 1, 2, ... after a matrix without labels."""
        histories = self._own_histories
        return np.arange(histories.num_users) if histories.user_labels is None else histories.user_labels

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
            user_items: histories, one row for each user in `userid`: `user_items[userid]`. With labels, as in
                a DataFrame, those of other users may be among them. None: those of the last `fit`.
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
        if user_items is not None:
            rows = self._rows(user_items, userid)
        elif filter_already_liked_items:
            rows = of_users(self._own_histories, self._users(userid))
        if rows is not None and (recalculate_user or self._histories is None):
            user_factors = self._solve(self._fitted, rows)
        else:
            user_factors = self.user_factors[self._users(userid)]
        found = self._best_items(
            user_factors, N, rows if filter_already_liked_items else None, items, filter_items
        )
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

        Arguments are those of `recommend`. For a DataFrame, the rows are its users, sorted: the
        `user_labels` of `Interactions.from_frame`.
        """
        rows = self._rows(user_items)
        user_factors = self._solve(self._fitted, rows)
        observed = rows if filter_already_liked_items else None
        return self._best_items(user_factors, N, observed, items, filter_items)

    def recalculate_user(self, userid: Ids, user_items: Any) -> np.ndarray:
        """Solve the factor of each row of `user_items`, [factors] for one id, else [users, factors].

        Nothing is kept; `partial_fit_users` does the same and keeps it.

        Args:
            userid: id of a user, or a list of ids, as many as rows; `implicit` has them too.
            user_items: histories, one row for each user.
        """
        user_factors = self._solve(self._fitted, self._rows(user_items, userid))
        return user_factors[0] if np.ndim(userid) == 0 else user_factors

    def similar_items(
        self,
        itemid: Ids,
        N: int = 10,  # noqa: N803
        *,
        filter_items: npt.ArrayLike | None = None,
        items: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Find the N items with the most similar factors, the item itself first; shapes as for `recommend`.

        An item without interactions in `fit` has the factor 0. It is no neighbour of any item, and has none.

        Args:
            itemid: id of an item, or a list of ids.
            N: number of items, at least 1.
            filter_items: items to leave out.
            items: the only items to choose from; N is then at most their number.

        Returns:
            Item ids, and the cosines of their factors with that of the item. Places that no item can fill
            have id -1 and the lowest float32 as score.
        """
        among, left_out = self._choice(items, filter_items)
        found = neighbors(self.item_factors, self._items(itemid, "itemid"), N, among=among, left_out=left_out)
        return shaped_like(itemid, found)

    def similar_users(
        self,
        userid: Ids,
        N: int = 10,  # noqa: N803
        *,
        filter_users: npt.ArrayLike | None = None,
        users: npt.ArrayLike | None = None,
    ) -> IdsAndScores:
        """Find the N users of the last `fit` with the most similar factors; as `similar_items`.

        A simulation alone can do this: in a deployment, nobody has the factors of several users.

        Args:
            userid: id of a user, or a list of ids.
            N: number of users, at least 1.
            filter_users: users to leave out.
            users: the only users to choose from; N is then at most their number.
        """
        among, left_out = (None if ids is None else self._users(ids) for ids in (users, filter_users))
        found = neighbors(self.user_factors, self._users(userid), N, among=among, left_out=left_out)
        return shaped_like(userid, found)

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
            user_items: the matrix of all users, as in `implicit`, or only the history of this user; None:
                that of the last `fit`.
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
        if user_items is None:
            row = of_users(self._own_histories, self._users(userid))
        else:
            row = self._rows(user_items, userid)
        item = self._items(itemid, "itemid")[0]
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

    @property
    def _fitted(self) -> jax.Array:
        if self._item_factors is None:
            raise ValueError("expected a fitted model, got a new one; call fit, or load one")
        return self._item_factors

    @property
    def _own_histories(self) -> Interactions:
        _ = self._fitted
        if self._histories is None:
            raise ValueError(
                "expected a model fitted here, got a loaded one; pass the users' own rows to recommend_new"
            )
        return self._histories

    def _users(self, ids: Ids) -> npt.NDArray[np.int64]:
        histories = self._own_histories
        return checked_ids(ids, histories.num_users, "userid", histories.user_labels)

    def _items(self, ids: Ids, name: str) -> npt.NDArray[np.int64]:
        return checked_ids(ids, len(self._fitted), name, self._item_labels)

    def _choice(
        self, items: Ids | None, filter_items: Ids | None
    ) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None]:
        among = None if items is None else self._items(items, "items")
        return among, None if filter_items is None else self._items(filter_items, "filter_items")

    def _best_items(
        self,
        user_factors: np.ndarray,
        count: int,
        observed: Interactions | None,
        items: Ids | None,
        filter_items: Ids | None,
    ) -> IdsAndScores:
        among, left_out = self._choice(items, filter_items)
        return best(self._fitted, user_factors, count, observed=observed, among=among, left_out=left_out)

    def _rows(self, user_items: Any, userid: Ids | None = None) -> Interactions:
        """Return the histories that are given: of these users, found by label where both have labels."""
        rows = histories_of(
            user_items, alpha=self.alpha, strengths=self.strengths, item_labels=self._item_labels
        )
        if userid is not None and rows.user_labels is not None:
            labels = labels_of(userid, None if self._histories is None else self._histories.user_labels)
            if labels is not None:
                rows = of_users(rows, checked_ids(labels, rows.num_users, "userid", rows.user_labels))
        num_users = None if userid is None else np.size(userid)
        check_sizes(rows, num_items=len(self._fitted), num_users=num_users)
        return rows

    @property
    def _model(self) -> Model:
        weighting = implicit_feedback(alpha=float(self.alpha))
        return Model(
            weighting,
            float(self.regularization),
            float(self.unobserved_weight),
            regularization_exponent=float(self.regularization_exponent) or None,
        )

    def _solve(self, item_factors: jax.Array, histories: Interactions) -> np.ndarray:
        return solve_new_users(self._model, item_factors, histories)
