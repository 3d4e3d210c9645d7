"""Checks of where data come from and how they are split."""

from fcf_jax.experiments.config.rule import Check


def _expected_with_train_path(key: str) -> Check:
    return Check(
        lambda c, f: c.by_key()[key] is not None and c.data.train_path is None,
        f"data.train_path: expected the training set beside {key}; set it",
    )


DATA_CHECKS = (
    _expected_with_train_path("data.test_path"),
    _expected_with_train_path("data.validation_path"),
    Check(
        lambda c, f: c.data.train_path is not None and c.data.test_path is None,
        "data.test_path: expected the test set beside data.train_path; set it",
    ),
    Check(
        lambda c, f: c.data.train_path is not None and (c.data.path or c.data.name) is not None,
        "data.train_path: set, but data.path or data.name is set, too; leave out one of them",
    ),
    Check(
        lambda c, f: c.data.train_path is not None and c.data.source == "simulated",
        'data.train_path: set, but data.source is "simulated"; leave out one of them',
    ),
    Check(
        lambda c, f: c.data.train_path is not None and c.data.split != "published",
        lambda c, f: (
            f'data.split: expected "published" for data.train_path and data.test_path, got "{c.data.split}"; '
            "set it, or take the config published-split"
        ),
    ),
    Check(
        lambda c, f: c.data.negatives_path is not None and c.data.split not in ("leave_one_out", "published"),
        lambda c, f: (
            'data.split: expected "leave_one_out" or "published" for data.negatives_path, got '
            f'"{c.data.split}"; set it, or take the config movielens-1m-ncf'
        ),
    ),
    Check(
        lambda c, f: c.data.split == "published" and c.data.negatives_ids != "labels",
        lambda c, f: (
            'data.negatives_ids: expected "labels" for a published split, whose files have the same numbers, '
            f'got "{c.data.negatives_ids}"; leave it out'
        ),
    ),
    Check(
        lambda c, f: c.data.negatives_path is not None and c.data.source == "simulated",
        "data.negatives_path: expected the data that the file belongs to; set data.path",
    ),
    Check(
        lambda c, f: c.data.split != "strong" and (c.data.test_users or c.data.validation_users),
        lambda c, f: (
            'data.split: expected "strong" for data.test_users and data.validation_users, got '
            f'"{c.data.split}"; set it, or leave them out'
        ),
    ),
    Check(
        lambda c, f: c.data.split == "strong" and c.data.validation_fraction > 0,
        "data.validation_fraction: users are held out whole; set data.validation_users instead",
    ),
    Check(
        lambda c, f: c.data.split == "strong" and c.data.feedback == "explicit",
        'data.split: "strong" ranks for users without a rating offset; set data.feedback = "implicit"',
    ),
    Check(
        lambda c, f: c.data.split == "published" and c.data.min_strength is not None,
        "data.min_strength: a published split is taken as it is; leave it out",
    ),
    Check(
        lambda c, f: c.evaluation.masked == "train_and_validation" and not c.has_validation,
        'evaluation.masked: expected a validation set to mask, got none; set evaluation.masked = "train", or '
        "data.validation_fraction or data.validation_path",
    ),
)
