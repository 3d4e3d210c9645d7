"""The sections of a configuration: every key with its default, bounds and meaning."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fcf_jax.core.sampling import Sampling
from fcf_jax.data.known_sets import KNOWN_SETS
from fcf_jax.data.layouts import LAYOUT_NAMES
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.config.server_steps import SERVER_STEPS

_SETTINGS = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

if TYPE_CHECKING:
    ServerStepName = PrivacyModeName = str
else:  # a new row of these tables is a new choice
    ServerStepName = Literal[tuple(SERVER_STEPS)]
    PrivacyModeName = Literal[tuple(PRIVACY_MODES)]
Column = str | int
Positive = Annotated[float, Field(gt=0)]


class DataConfig(BaseModel):
    """Where the interactions come from and how they are split."""

    model_config = _SETTINGS

    source: Literal["auto", "simulated", "file"] = Field(
        default="auto", description="auto: a file when data.path or data.name is set, otherwise simulated"
    )
    name: str | None = Field(
        default=None,
        description="of a data set that `fcf data fetch` has fetched, read when data.path is unset; "
        f"one of: {', '.join(KNOWN_SETS)}",
    )
    path: str | None = Field(default=None, description="data file, or the folder of a known data set")
    layout: str = Field(default="auto", description=f"of the file, one of: {', '.join(LAYOUT_NAMES)}")
    user_column: Column | None = Field(
        default=None, description="name or 0-based number of the users' column"
    )
    item_column: Column | None = Field(
        default=None, description="name or 0-based number of the items' column"
    )
    strength_column: Column | None = Field(
        default=None, description='name or number of the strengths\' column; "" = every strength is 1'
    )
    timestamp_column: Column | None = Field(default=None, description='name or number, in seconds; "" = none')
    separator: str | None = Field(
        default=None, description='one character, "::" or "whitespace"; unset = found out'
    )
    duplicates: Literal["sum", "max", "last", "error"] = Field(
        default="sum", description="what becomes of repeated pairs of user and item"
    )
    on_bad_line: Literal["error", "skip"] = Field(
        default="error", description="skip: leave unreadable lines out"
    )
    feedback: Literal["implicit", "explicit"] = Field(
        default="implicit",
        description="implicit: strengths are confidence; explicit: they are ratings to predict",
    )
    strengths: Literal["keep", "binary", "log"] = Field(
        default="keep", description="what is done to strengths: nothing, all 1, or log(1 + r)"
    )
    min_user_interactions: int = Field(default=1, ge=1, description="users with fewer are left out")
    min_item_interactions: int = Field(default=1, ge=1, description="items with fewer are left out")
    generator: Literal["taste", "uniform"] = Field(
        default="taste", description="of simulated data: planted tastes, or the paper's random views"
    )
    num_users: int = Field(default=2000, ge=1, description="simulated users")
    num_items: int = Field(default=500, ge=1, description="simulated items")
    mean_history: float = Field(default=40.0, ge=1, description="mean items per simulated user (taste)")
    sparsity: float = Field(default=0.8, ge=0, lt=1, description="share of pairs without a view (uniform)")
    split: Literal["ratio", "leave_one_out", "temporal", "published"] = Field(
        default="ratio",
        description="per-user share, each user's latest item, a point in time, or as published",
    )
    test_fraction: float = Field(default=0.2, ge=0, lt=1, description="share that is held out for testing")
    validation_fraction: float = Field(default=0.0, ge=0, lt=1, description="share held out for tuning")
    seed: int = Field(default=0, ge=0, description="of simulation and split")


class ModelConfig(BaseModel):
    """The factor model, the same for the federation and for ALS."""

    model_config = _SETTINGS

    num_factors: int = Field(default=25, ge=1, description="K, the length of a factor")
    alpha: float = Field(default=4.0, ge=0, description="confidence c = 1 + alpha * strength")
    regularization: float = Field(default=1.0, ge=0, description="lambda on the squared norms of all factors")
    unobserved_weight: float = Field(
        default=1.0, ge=0, description="confidence of items outside a history; 0 for explicit ratings"
    )
    init_scale: float = Field(default=0.1, gt=0, description="standard deviation of the first item factors")


class ServerConfig(BaseModel):
    """How the server steps on the sum of the clients' uploads."""

    model_config = _SETTINGS

    step: ServerStepName = Field(default="guarded_gram", description="the server's optimizer")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="unset = 0.1 (adam, paper_adam), 1e-4 (sgd), 1 (gram), 0.5 (running_sums)",
    )
    decay: Literal["constant", "cosine"] = Field(default="constant", description="of the learning rate")
    final_learning_rate: float = Field(default=0.0, ge=0, description="at the last round of a cosine decay")
    b1: float = Field(default=0.5, ge=0, lt=1, description="Adam's first decay")
    b2: float = Field(default=0.99, ge=0, lt=1, description="Adam's second decay")
    eps: float = Field(default=1e-8, gt=0, description="Adam's epsilon")
    confidence_factor: float | None = Field(
        default=None, ge=0, description="weight of confidence in gram steps; unset = 1 (guarded_gram), else 3"
    )
    averaging: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="running_sums: round t has the weight (t + 1)^-averaging in the moving averages",
    )
    initial_damping: float = Field(default=2.0, gt=0, description="of guarded_gram, in the first round")
    memory: int = Field(
        default=5, ge=0, le=20, description="past rounds that guarded_gram's acceleration combines; 0 = none"
    )


class FederationConfig(BaseModel):
    """Rounds and cohorts."""

    model_config = _SETTINGS

    num_rounds: int = Field(default=60, ge=0, description="rounds of federated training")
    cohort_size: int | None = Field(
        default=None, ge=1, description="clients drawn in each round; unset = everybody"
    )
    sampling: Sampling = Field(
        default="shuffled",
        description="shuffled: no client twice in a pass through all; independent: each round draws anew; "
        "poisson: each client by itself, cohort_size on average",
    )
    seed: int = Field(default=0, ge=0, description="of the first item factors and the cohorts")


class PrivacyConfig(BaseModel):
    """What the server gets to see of the clients (docs/privacy.md)."""

    model_config = _SETTINGS

    mode: PrivacyModeName = Field(
        default="plain",
        description="plain: each upload; secure_sum: their exact sum only, in fixed point; local_noise: "
        "uploads with noise; central_noise: the sum with noise; distributed_noise: that, and noise added by "
        "the clients",
    )
    epsilon: float = Field(default=10.0, gt=0, description="of the whole run, for the data of one user")
    delta: float | None = Field(default=None, gt=0, lt=1, description="unset = 1 / (10 users)")
    noise_multiplier: float | None = Field(
        default=None, ge=0, description="noise in clip norms; unset = as epsilon, delta and rounds allow"
    )
    accountant: Literal["pld", "rdp"] = Field(default="pld", description="that epsilon is computed by")
    clip_norm: float = Field(default=2.5, gt=0, description="of a client's upload [items, factors]")
    gram_clip_norm: float = Field(
        default=0.5, gt=0, description="of x x^T, where the step asks for it: a part of one joint norm"
    )
    confidence_clip_norm: float = Field(
        default=100.0, gt=0, description="of a client's confidences [items], likewise"
    )
    clipping: Literal["static", "adaptive"] = Field(
        default="static", description="adaptive: the norms follow a quantile of the clients' (charged)"
    )
    clip_quantile: float = Field(default=0.5, gt=0, lt=1, description="share of clients left unclipped")
    max_user_items: int | None = Field(
        default=None, ge=1, description="a client trains on so many of its items at most, drawn at random"
    )
    head_items: float = Field(
        default=1.0, gt=0, le=1, description="share of the items that are learned, by noisy counts (charged)"
    )
    item_weight_power: float = Field(
        default=0.0, ge=-1, le=1, description="above 0: less noise on rare items, by noisy counts (charged)"
    )
    count_share: float = Field(
        default=0.03, gt=0, le=0.5, description="of the budget (of 1 / sigma^2), for those counts"
    )
    count_clip_norm: float = Field(
        default=8.0, gt=0, description="in those counts, histories beyond its square weigh less"
    )
    min_cohort: int = Field(
        default=100,
        ge=2,
        description="of secure_sum: fewer clients in a sum, or in only one of two sums, are refused",
    )
    upload_bound: float = Field(
        default=256.0,
        gt=0,
        description="largest number of an upload in fixed point (secure_sum, parallel.deterministic); "
        "more is cut off and counted",
    )
    gram_bound: float = Field(default=32.0, gt=0, description="likewise, of x x^T")
    confidence_bound: float | None = Field(
        default=None, gt=0, description="likewise, of c - w0; unset = the largest of the training data"
    )
    loss_bound: float | None = Field(
        default=None, gt=0, description="likewise, of a client's loss; unset = what none can exceed"
    )
    fraction_bits: int | None = Field(
        default=None,
        ge=0,
        le=30,
        description="of all numbers in fixed point; unset = as many as the bounds and the clients allow",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        description="of noise and sampling, which makes the run NOT PRIVATE; unset = the system's entropy",
    )


class EvaluationConfig(BaseModel):
    """What is measured, and when."""

    model_config = _SETTINGS

    k: int = Field(default=10, ge=1, description="length of the recommendation lists")
    every: int = Field(default=10, ge=1, description="rounds between evaluations")
    max_users: int | None = Field(
        default=None, ge=1, description="evaluate on a sample of users; unset = all"
    )
    baseline: bool = Field(default=True, description="also train centralised ALS from the same start")


class ComparisonConfig(BaseModel):
    """What `fcf compare` repeats, and what it takes for equal."""

    model_config = _SETTINGS

    num_builds: int = Field(
        default=10,
        ge=1,
        description="of the federation and of ALS, each from another start, on another split",
    )
    margin_percent: float = Field(
        default=1.0, gt=0, description="of ALS's mean: a smaller difference is equivalence (TOST)"
    )
    tolerance_percent: float = Field(
        default=0.5, ge=0, description="of ALS's mean: a metric that is worse by more is named as worse"
    )


class ParallelConfig(BaseModel):
    """Devices and processes that share the work."""

    model_config = _SETTINGS

    devices: int | None = Field(
        default=None,
        ge=1,
        description="that share a round, of all processes; unset = all that help; a CPU is one for each core",
    )
    item_shards: int = Field(
        default=1, ge=1, description="parts of the item factors, each on devices of its own; 1 = not split"
    )
    stream: bool = Field(default=False, description="keep the clients in host memory, send them in blocks")
    block_megabytes: int = Field(default=64, ge=1, description="of clients in a block that is streamed")
    deterministic: bool = Field(
        default=False,
        description="bit-identical reruns on a GPU as well, slower; a CPU always is. Plain rounds are "
        "summed in fixed point, too: exactly, in whatever order, on however many devices",
    )
    coordinator: str | None = Field(
        default=None,
        description='"host:port" of process 0 when several run this, or "auto" under a cluster\'s launcher',
    )
    num_processes: int = Field(default=1, ge=1, description="that run this, one for each host")
    process_id: int = Field(default=0, ge=0, description="which of them this one is, from 0")


class CheckpointConfig(BaseModel):
    """What is kept of a training under way, for `--resume`."""

    model_config = _SETTINGS

    every: int | None = Field(
        default=None, ge=1, description="rounds between checkpoints, at least; unset = with every evaluation"
    )
    keep: int = Field(
        default=2, ge=1, description="how many of the latest stay; the one of the best MAP stays besides"
    )


class TuningConfig(BaseModel):
    """What `fcf tune` tries; elsewhere it means nothing."""

    model_config = _SETTINGS

    metric: str | None = Field(
        default=None,
        description="on the validation set; unset = map_at_K, of explicit ratings rmse (lower is better)",
    )
    num_model_trials: int = Field(
        default=30, ge=0, description="of K, alpha and lambda, by centralised ALS; 0 = as configured"
    )
    num_server_trials: int = Field(
        default=20, ge=0, description="of the server step, after these, by federations; 0 = as configured"
    )
    batch_size: int = Field(
        default=2,
        ge=1,
        description="trials of one shape side by side, as one program; the search learns after",
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share held out to score on, if data.validation_fraction is 0"
    )
    num_factors: list[Annotated[int, Field(ge=1)]] = Field(
        default=[10, 25, 50, 100], min_length=1, description="K to choose from, and model.num_factors"
    )
    alpha: list[Positive] = Field(
        default=[0.2, 50.0],
        min_length=2,
        max_length=2,
        description="low and high; explicit ratings have none",
    )
    regularization: list[Positive] = Field(
        default=[0.1, 100.0], min_length=2, max_length=2, description="low and high"
    )
    num_sweeps: int = Field(default=40, ge=1, description="of ALS in a trial, at most")
    seed: int = Field(default=0, ge=0, description="of the search; the models start from federation.seed")


class ExperimentConfig(BaseModel):
    """Everything that decides about a run."""

    model_config = _SETTINGS

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    server: ServerConfig = ServerConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    parallel: ParallelConfig = ParallelConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tuning: TuningConfig = TuningConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return the sections as plain values, without the keys that are unset."""
        return self.model_dump(exclude_none=True)
