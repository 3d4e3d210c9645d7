"""Schemas of the files of a run directory: what is written there, and checked when it is read back."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
Figures = dict[str, Number]
EPSILON_IN_NAME_ONLY = 100.0  # a likelihood ratio of e^100 tells any two histories apart


def _known_mode(mode: str) -> str:
    if mode not in PRIVACY_MODES:
        raise ValueError(f"expected one of {', '.join(PRIVACY_MODES)}")
    return mode


class Environment(TypedDict):
    """Where a run takes place: the content of `environment.json`.

    Attributes:
        started: time in UTC.
        devices: of JAX.
        versions: of packages, by name.
        arguments: of the command line.
        resumed_from_rounds: rounds at which a process took over from another.
        earlier: the environment of each earlier process, in order, with the number of rounds before it.
    """

    started: NotRequired[str]
    python: NotRequired[str]
    platform: NotRequired[str]
    cores: NotRequired[int | None]
    devices: NotRequired[list[str]]
    device_kind: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    arguments: NotRequired[list[str]]
    resumed_from_rounds: NotRequired[list[Count]]
    earlier: NotRequired[list["Environment"]]


class MetricsRecord(BaseModel):
    """A line of `metrics.jsonl`.

    Attributes:
        kind: what the numbers are of.
        round: index of the round, rounds before the evaluation, or sweep.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]
    kind: Literal["round", "evaluation", "als_sweep"]
    round: Count


class LedgerShare(TypedDict):
    """A run's entry in the ledger of its users.

    Attributes:
        path: of the ledger.
        run: name of the entry.
        epsilon: of all runs of the ledger when this one began; None: infinite, or not yet charged.
    """

    path: str
    run: str
    epsilon: Annotated[float, Field(ge=0)] | None


class PrivacyStatement(TypedDict):
    """Differential privacy guarantee of a run, as in `privacy_budget.json`.

    Attributes:
        is_private: False when the noise has a fixed seed, or when there is next to none.
        epsilon: of the rounds charged and the released item counts; None: infinite.
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
        evaluation_noise_multiplier: likewise, of the federated evaluation.
        released: what leaves the server.
        caveats: limits of the guarantee.
        rounds_charged: rounds charged so far, those of killed processes included.
        ledger: the run's entry in the ledger of its users; missing without one.
    """

    is_private: bool
    epsilon: Annotated[float, Field(ge=0)] | None
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: str
    adjacency: str
    sampling: str
    num_users: Annotated[int, Field(ge=1)]
    expected_cohort_size: Annotated[int, Field(ge=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    num_rounds: Count
    num_rounds_allowed: Count
    accountant: str
    item_counts_noise_multiplier: Annotated[float, Field(gt=0)] | None
    evaluation_noise_multiplier: NotRequired[Annotated[float, Field(gt=0)] | None]
    released: str
    caveats: list[str]
    rounds_charged: Count
    ledger: NotRequired[LedgerShare]


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
        num_interactions: of training, validation and test set together, and of the histories of users that
            were held out whole.
        num_train_interactions: of the training set.
        num_test_interactions: of the test set.
        num_users_without_test: users without an interaction in the test set.
        num_users_without_train: users without an interaction in the training set.
        seconds_per_round: median over blocks of rounds, without those that compile.
        clients_per_second: `cohort_size` / `seconds_per_round`; None when no round was run.
        payload_bytes_up: bytes that a client sends per round, on average.
        payload_bytes_down: bytes that a client receives per round, on average.
        payload: form of the messages, their bytes over the clients, those of other forms, and `until`: rounds
            and bytes of all clients until a goal was reached.
        attack: of malicious clients: their kind, number and targets, exposure `er_at_5` and `er_at_10` of the
            targets among honest users, and under `honest` the metrics of honest users.
        federated_evaluation: means of metrics that clients computed and the server summed, `federated_` and
            the name, the count of these clients and the standard deviation of the noise on each sum.
        virtual_seconds: virtual time of all rounds, where there is a clock.
        num_uploads: uploads that the server received, where clients may drop out or be late.
        num_void_rounds: rounds without an upload, which changed nothing, likewise.
        num_factors: K.
        padding_factor: computed slots per interaction, at least 1.
        resumed_from_rounds: rounds at which a process took over from another.
        data_counts: what reading the data changed, by name.
        data_fingerprint: SHA-256 of the training set.
        explicit_baseline_rmse: RMSE of user and item offsets alone, for explicit feedback.
        num_user_features: length of a user's features, with the constant; missing without.
        num_item_features: likewise, of items.
        num_cold_items: items that were held out whole; missing without.
        num_cold_interactions: interactions with them.
        feature_popularity: metrics of cold items ranked by the popularity that their features predict.
        fixed_point: formats, and how many numbers were clipped to them, for sums in fixed point.
        secure_sum: smallest cohort that is summed, for secure sums.
        privacy: guarantee under differential privacy.
    """

    federated: Figures
    centralized: Figures | None
    difference_percent: Figures | None
    num_users: int
    num_items: int
    num_interactions: int
    num_train_interactions: int
    num_test_interactions: int
    num_users_without_test: int
    num_users_without_train: int
    cohort_size: int
    num_rounds: int
    seconds_per_round: Number
    clients_per_second: float | None
    payload_bytes_up: int
    payload_bytes_down: int
    popularity: NotRequired[Figures]
    warnings: NotRequired[list[str]]
    payload: NotRequired[dict[str, Any]]
    attack: NotRequired[dict[str, Any]]
    federated_evaluation: NotRequired[Figures]
    virtual_seconds: NotRequired[float]
    num_uploads: NotRequired[int]
    num_void_rounds: NotRequired[int]
    num_factors: NotRequired[int]
    padding_factor: NotRequired[float]
    resumed_from_rounds: NotRequired[list[Count]]
    data_counts: NotRequired[dict[str, int]]
    data_fingerprint: NotRequired[str]
    num_user_features: NotRequired[int]
    num_item_features: NotRequired[int]
    num_cold_items: NotRequired[int]
    num_cold_interactions: NotRequired[int]
    feature_popularity: NotRequired[Figures]
    explicit_baseline_rmse: NotRequired[Number]
    fixed_point: NotRequired[dict[str, Any]]
    secure_sum: NotRequired[dict[str, int]]
    privacy: NotRequired[PrivacyStatement]


class AuditFigure(TypedDict):
    """A figure of an attack, with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class AuditFacts(TypedDict):
    """Setting of an audit, as far as a report needs it."""

    cohort_size: Count
    attacked_cohort_size: Count
    num_rounds: Count
    noise_multiplier: Number


class AuditDocument(TypedDict):
    """Outcome of `fcf audit`: the content of `audit.json`, as far as a report needs it.

    Attributes:
        mode: privacy mode.
        attacks: figures of each attack, by name.
        facts: setting of the attacks.
        verdict: sentence on the attack that succeeds most.
        knows: what the attacker knows, by attack.
        leakage: points of the leakage curve.
        notes: sentences beside the verdict.
    """

    mode: Annotated[str, AfterValidator(_known_mode)]
    attacks: dict[str, dict[str, AuditFigure]]
    facts: AuditFacts
    verdict: str
    knows: NotRequired[dict[str, str]]
    leakage: NotRequired[list[dict[str, Any]]]
    notes: NotRequired[list[str]]


class ComparedMetric(TypedDict, total=False):
    """A metric of both sides of a comparison, as far as a report needs it."""

    federated_mean: Number
    centralized_mean: Number
    difference_percent: Number
    tost_p: Number


class ComparisonDocument(TypedDict):
    """Outcome of `fcf compare`: the content of `comparison.json`, as far as a report needs it."""

    metrics: dict[str, ComparedMetric]
    verdict: str
    k: Count
    num_builds: Count
    margin_percent: Number
    num_rounds: Count
    num_users: Count
    cohort_size: Count
    payload_bytes_up: Count
    payload_bytes_down: Count


class TuningDocument(TypedDict):
    """Outcome of `fcf tune`: the content of `tuning.json`, values of the metric on the validation set.

    Attributes:
        metric: that decides.
        start_value: as configured; null if that diverged, or if the server step was not tuned.
        best_value: tuned.
        popularity: of the ranking by popularity; null for an error, which it does not predict.
        at_bounds: sentences on values found at the end of their range, with the remedy.
    """

    metric: str
    start_value: Number
    best_value: Number
    popularity: NotRequired[Number]
    at_bounds: NotRequired[list[str]]


class VariedDocument(TypedDict):
    """What a sweep varies: the content of `varied.json`.

    Attributes:
        vary: texts of `--vary`.
        seeds: repetitions of each combination.
    """

    vary: list[str]
    seeds: int


class SweepRecord(BaseModel):
    """A line of `runs.jsonl`.

    Attributes:
        run: its position in the sweep.
        status: how it ended.
        reason: why it failed; "" if it did not.
        metrics: means over users, and the loss, by name; empty if it failed.
    """

    model_config = ConfigDict(extra="allow")
    run: Count
    status: Literal["finished", "diverged", "refused"]
    reason: str
    metrics: Figures


class SweptConfiguration(TypedDict):
    """A combination of values, over its seeds, as far as a report needs it.

    Attributes:
        values: by key.
        num_runs: with other seeds.
        num_failed: of them.
        metrics: mean and sd over the runs, by name.
        is_non_dominated: whether no other is as good in everything and better in something.
        failures: distinct reasons.
    """

    values: dict[str, Any]
    num_runs: Count
    num_failed: Count
    metrics: dict[str, dict[str, Number]]
    is_non_dominated: bool
    failures: list[str]


class SweepDocument(TypedDict):
    """Outcome of `fcf sweep`: the content of `sweep.json`, as far as a report needs it.

    Attributes:
        metric: that configurations are compared by.
        costs: keys of the configurations that are costs, and differ.
        configurations: in the order of the table.
        cautions: sentences on what is wrong with the result.
    """

    metric: str
    costs: list[str]
    configurations: list[SweptConfiguration]
    cautions: list[str]
    num_runs: Count
    num_programs: Count
    seconds: Number
