"""Schemas of `summary.json` and of the privacy statement in it."""

from typing import Any, NotRequired, TypedDict


class PrivacyStatement(TypedDict):
    """Differential privacy guarantee of a run, as in `privacy_budget.json`.

    Attributes:
        is_private: False when the noise has a fixed seed.
        epsilon: of the rounds charged and the released item counts.
        unit: what of a user the guarantee covers.
        adjacency: how two data sets differ that epsilon compares.
        sampling: how cohorts are drawn.
        num_users: users of the training set.
        expected_cohort_size: clients per round, on average.
        noise_multiplier: standard deviation of the noise, in clip norms.
        num_rounds: rounds that `epsilon` is for.
        num_rounds_allowed: rounds that may be charged.
        accountant: library and method that computed epsilon.
        item_counts_noise_multiplier: of released item counts, in clip norms; None: no release.
        released: what leaves the server.
        caveats: limits of the guarantee.
        rounds_charged: rounds charged so far, those of killed processes included.
    """

    is_private: bool
    epsilon: float
    delta: float
    unit: str
    adjacency: str
    sampling: str
    num_users: int
    expected_cohort_size: int
    noise_multiplier: float
    num_rounds: int
    num_rounds_allowed: int
    accountant: str
    item_counts_noise_multiplier: float | None
    released: str
    caveats: list[str]
    rounds_charged: int


class Summary(TypedDict):
    """Outcome of `fcf run`: the content of `summary.json`, where numbers that are not finite are null.

    Keys that are not required are missing from runs of older versions, or apply to some runs only.

    Attributes:
        federated: metrics and loss of the federation after its last round, by name.
        centralized: the same of centralised ALS; None without `evaluation.baseline`.
        popularity: the same of the ranking by popularity, computed from the data as all metrics are; loss
            without lambda. Of explicit ratings, errors and loss are nan.
        warnings: sentences on what is wrong with the result, and what helps.
        difference_percent: 100 (federated - centralized) / |centralized|, by name.
        num_users: users to train on.
        num_interactions: of training, validation and test set together.
        num_train_interactions: of the training set.
        num_test_interactions: of the test set.
        num_users_without_test: users without an interaction in the test set.
        num_users_without_train: users without an interaction in the training set.
        seconds_per_round: median over blocks of rounds, without those that compile.
        clients_per_second: `cohort_size` / `seconds_per_round`; None when no round was run.
        payload_bytes_up: bytes that a client sends per round.
        payload_bytes_down: bytes that a client receives per round.
        num_factors: K.
        padding_factor: computed slots per interaction, at least 1.
        resumed_from_rounds: rounds at which a process took over from another.
        data_counts: what reading the data changed, by name.
        data_fingerprint: SHA-256 of the training set.
        explicit_baseline_rmse: RMSE of user and item offsets alone, for explicit feedback.
        fixed_point: formats, and how many numbers were clipped to them, for sums in fixed point.
        secure_sum: smallest cohort that is summed, for secure sums.
        privacy: guarantee under differential privacy.
    """

    federated: dict[str, float]
    centralized: dict[str, float] | None
    difference_percent: dict[str, float] | None
    num_users: int
    num_items: int
    num_interactions: int
    num_train_interactions: int
    num_test_interactions: int
    num_users_without_test: int
    num_users_without_train: int
    cohort_size: int
    num_rounds: int
    seconds_per_round: float
    clients_per_second: float | None
    payload_bytes_up: int
    payload_bytes_down: int
    popularity: NotRequired[dict[str, float]]
    warnings: NotRequired[list[str]]
    num_factors: NotRequired[int]
    padding_factor: NotRequired[float]
    resumed_from_rounds: NotRequired[list[int]]
    data_counts: NotRequired[dict[str, int]]
    data_fingerprint: NotRequired[str]
    explicit_baseline_rmse: NotRequired[float]
    fixed_point: NotRequired[dict[str, Any]]
    secure_sum: NotRequired[dict[str, int]]
    privacy: NotRequired[PrivacyStatement]


REQUIRED = tuple(key for key in Summary.__annotations__ if key in Summary.__required_keys__)
