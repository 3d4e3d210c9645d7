"""Trained runs as estimators."""

from os import PathLike
from pathlib import Path

from fcf_jax.recommender import FederatedCollaborativeFilter


def load_run(folder: str | PathLike[str]) -> FederatedCollaborativeFilter:
    """Load the model of a finished run of implicit feedback.

    It has the item factors, the item labels and the hyperparameters of the run, and knows no user: a user's
    factor is solved from the user's history, as on a device. Fold users in with
    `model.recommend_new(histories)`, where `histories` is a DataFrame, `Interactions` or a sparse matrix
    [users, items]. Strengths are those of the data, and are transformed as in training; for columns with
    unusual names, see `Interactions.from_frame`. The result has positions: `model.item_labels[ids]` are the
    original ids.

    For a warm start, pass the model as `initial_item_factors` to a new one, or set
    `server.initial_item_factors` to the folder. `fit` uses the default server step, whatever that of the run.

    Args:
        folder: run directory.

    Raises:
        OSError: if it cannot be read, or is no finished run.
        ValueError: if it is damaged, of explicit ratings, of another objective, with biases, or with features
            of users.

    Example:
        >>> model = load_run("runs/plays")
        >>> ids, scores = model.recommend_new(pd.read_csv("new_users.csv"), N=10)
        >>> songs = model.item_labels[ids]
    """
    from fcf_jax.experiments.store.run_directory import read_run

    trained = read_run(Path(folder))
    config = trained.config
    if config.data.feedback != "implicit":
        raise ValueError(
            f"{folder}: expected a run of implicit feedback, got explicit ratings; use `fcf recommend`"
        )
    if config.model.has_sampled_negatives or config.model.biases:
        raise ValueError(
            f"{folder}: expected a run of squared errors without biases, got another; use `fcf recommend`"
        )
    if trained.features is not None and trained.features.user_map is not None:
        raise ValueError(
            f"{folder}: expected a run without features of users, got data.user_features = "
            f"{config.data.user_features!r}; use `fcf recommend`"
        )
    model = FederatedCollaborativeFilter(
        alpha=config.model.alpha,
        regularization=config.model.regularization,
        unobserved_weight=config.model.unobserved_weight,
        regularization_exponent=config.model.regularization_exponent,
        num_rounds=config.federation.num_rounds,
        cohort_size=config.federation.cohort_size,
        strengths=config.data.strengths,
        seed=config.federation.seed,
    )
    return model.with_item_factors(trained.item_factors, trained.item_ids)
