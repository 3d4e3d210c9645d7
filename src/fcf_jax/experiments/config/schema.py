"""The sections and keys of a configuration, with defaults, bounds and meaning (`fcf config --explain`)."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fcf_jax.core.biases import NUM_COORDINATES
from fcf_jax.core.sampling import Sampling, poisson_capacity
from fcf_jax.experiments.config.attack_section import AttackConfig
from fcf_jax.experiments.config.channel_section import ChannelConfig
from fcf_jax.experiments.config.command_sections import ComparisonConfig, TuningConfig
from fcf_jax.experiments.config.data_sections import DataConfig, EvaluationConfig
from fcf_jax.experiments.config.devices_section import DevicesConfig
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES, PrivacyMode
from fcf_jax.experiments.config.section import Section
from fcf_jax.experiments.config.server_section import Confidences, ServerConfig

if TYPE_CHECKING:
    _PrivacyModeName = str
else:  # a new row of the table is a new choice
    _PrivacyModeName = Literal[tuple(PRIVACY_MODES)]


class ModelConfig(Section):
    """The factor model, shared by the federation and ALS."""

    num_factors: int = Field(default=25, ge=1, description="K, the number of latent factors")
    objective: Literal["squared", "logistic", "bpr"] = Field(
        default="squared",
        description="what a client minimizes: squared errors over all items, or the logistic loss of its "
        "items and sampled negatives, or of pairs of both",
    )
    num_negatives: int = Field(
        default=4, ge=1, description="of logistic and bpr: sampled negatives for each interaction"
    )
    biases: bool = Field(default=False, description="whether users and items have biases")
    alpha: float = Field(default=4.0, ge=0, description="confidence c = 1 + alpha * strength")
    regularization: float = Field(
        default=1.0, ge=0, description="lambda, weight of the squared norms of all factors"
    )
    unobserved_weight: float = Field(
        default=1.0, ge=0, description="w0, confidence of unobserved items; 0 for explicit ratings"
    )
    regularization_exponent: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="nu: a user with n interactions among M items has lambda (n + w0 M)^nu, items likewise",
    )
    feature_regularization: float = Field(
        default=1.0,
        gt=0,
        description="of data.user_features and data.item_features: weight of the squared norms of their maps "
        "to factors",
    )
    init_scale: float = Field(default=0.1, gt=0, description="standard deviation of the initial item factors")

    @property
    def num_columns(self) -> int:
        """Numbers of an item's factor: K, and two where there are biases."""
        return self.num_factors + (NUM_COORDINATES if self.biases else 0)

    @property
    def has_sampled_negatives(self) -> bool:
        """Whether the objective compares with sampled negatives."""
        return self.objective != "squared"


class FederationConfig(Section):
    """Rounds and cohorts."""

    num_rounds: int = Field(default=60, ge=0, description="rounds of federated training")
    cohort_size: int | None = Field(default=None, ge=1, description="clients in a round; unset = everybody")
    sampling: Sampling = Field(
        default="shuffled",
        description="shuffled: no client twice in a pass over all clients; independent: each round draws "
        "anew; poisson: each client independently, cohort_size on average",
    )
    solve_tolerance: float = Field(
        default=0.003,
        ge=0,
        lt=1,
        description="relative error at which a client's solve may end; 0 = rounding",
    )
    seed: int = Field(default=0, ge=0, description="seed of the initial item factors and the cohorts")

    def cohort_among(self, num_users: int) -> int | None:
        """Return the clients of a round; None for everybody."""
        is_sampled = self.cohort_size is not None and self.cohort_size < num_users
        return self.cohort_size if is_sampled else None

    def largest_cohort(self, num_users: int) -> int:
        """Return the most clients that a round can have."""
        cohort_size = self.cohort_among(num_users)
        if cohort_size is not None and self.sampling == "poisson":
            return poisson_capacity(num_users=num_users, cohort_size=cohort_size)
        return cohort_size or num_users


class PrivacyConfig(Section):
    """Protection of the clients from the server (docs/privacy.md)."""

    mode: _PrivacyModeName = Field(
        default="plain",
        description="what the server sees: "
        + "; ".join(f"{mode.name}: {mode.server_sees}" for mode in PRIVACY_MODES.values()),
    )
    epsilon: float = Field(
        default=10.0, gt=0, description="target for the whole run, protecting all data of one user"
    )
    delta: float | None = Field(default=None, gt=0, lt=1, description="unset = 1 / (10 * number of users)")
    noise_multiplier: float | None = Field(
        default=None, gt=0, description="noise in clip norms; unset = calibrated to epsilon, delta and rounds"
    )
    accountant: Literal["pld", "rdp"] = Field(default="pld", description="accountant that computes epsilon")
    clip_norm: float = Field(default=2.5, gt=0, description="clip norm of an upload [items, factors]")
    gram_clip_norm: float = Field(
        default=0.5, gt=0, description="of x x^T where the step asks for it; one joint norm clips all pieces"
    )
    confidence_clip_norm: float = Field(
        default=100.0, gt=0, description="likewise, of the confidences [items]"
    )
    clipping: Literal["static", "adaptive"] = Field(
        default="static", description="adaptive: clip norms follow a quantile of the clients (costs budget)"
    )
    clip_quantile: float = Field(
        default=0.5, gt=0, lt=1, description="of adaptive clipping: share of clients left unclipped"
    )
    max_user_items: int | None = Field(
        default=None, ge=1, description="under noise: most items that a client trains on, drawn at random"
    )
    head_items: float = Field(
        default=1.0, gt=0, le=1, description="share of items that are learned, by noisy counts (costs budget)"
    )
    item_weight_power: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="above 0: less noise on rare items, by noisy counts (costs budget)",
    )
    count_share: float = Field(
        default=0.03, gt=0, le=0.5, description="share of the budget (of 1 / sigma^2) spent on noisy counts"
    )
    count_clip_norm: float = Field(
        default=8.0, gt=0, description="of noisy counts: histories longer than its square weigh less"
    )
    evaluation_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="of evaluation.federated: share of the budget (of 1 / sigma^2) spent on its noisy means",
    )
    start: Literal["drawn", "second_moments"] = Field(
        default="drawn",
        description="first item factors; second_moments: computed from item counts and two sums that are "
        "released with noise, in place of rounds",
    )
    moment_items: int = Field(
        default=200, ge=2, description="of second_moments: most frequent items, whose moments are released"
    )
    moment_share: float = Field(
        default=0.4,
        gt=0,
        le=0.5,
        description="of second_moments: share of the budget spent on the moments; what counts and moments "
        "leave is spent on the projections of privacy.head_items",
    )
    moment_clip_norm: float = Field(
        default=0.15, gt=0, le=1, description="of second_moments: clip norm of a client's projections"
    )
    min_cohort: int = Field(
        default=100, ge=2, description="of secure_sum: fewest clients in a sum, or the difference of two"
    )
    min_combination: float = Field(
        default=10.0,
        ge=1,
        description="of secure_sum with cohorts: fewest clients that hide each other in all combinations of "
        "the rounds' sums, as if uploads stood still; 1 = no limit",
    )
    upload_bound: float = Field(
        default=256.0,
        gt=0,
        description="largest number of an upload in fixed point (secure_sum, parallel.deterministic); "
        "larger numbers are clipped and counted",
    )
    gram_bound: float = Field(default=32.0, gt=0, description="likewise, of x x^T")
    confidence_bound: float | None = Field(
        default=None, gt=0, description="likewise, of c - w0; unset = the largest in the training data"
    )
    loss_bound: float | None = Field(
        default=None, gt=0, description="likewise, of a client's loss; unset = the largest possible"
    )
    fraction_bits: int | None = Field(
        default=None, ge=0, le=30, description="in fixed point; unset = as many as bounds and cohort allow"
    )
    ledger: str | None = Field(
        default=None,
        description="file that runs with noise on the same users share, to add up what they cost",
    )
    ledger_epsilon: float | None = Field(
        default=None, gt=0, description="largest epsilon of all runs of the ledger; unset = no limit"
    )
    seed: int | None = Field(
        default=None, ge=0, description="fixes noise and sampling: NOT PRIVATE; unset = system entropy"
    )

    @property
    def spec(self) -> PrivacyMode:
        """Properties of the mode."""
        return PRIVACY_MODES[self.mode]

    @property
    def has_noise(self) -> bool:
        """Whether the mode is differentially private."""
        return self.spec.has_noise

    @property
    def needs_item_counts(self) -> bool:
        """Whether noisy item counts are released before the first round."""
        return self.has_noise and (
            self.head_items < 1 or self.item_weight_power != 0 or self.starts_from_moments
        )

    @property
    def starts_from_moments(self) -> bool:
        """Whether the first item factors are computed from second moments."""
        return self.has_noise and self.start == "second_moments"

    def num_learned_items(self, num_items: int) -> int:
        """Count the items that are learned: all, or under noise the configured share."""
        return max(1, round((self.head_items if self.has_noise else 1.0) * num_items))


class ParallelConfig(Section):
    """Devices and processes that share the work."""

    devices: int | None = Field(
        default=None,
        ge=1,
        description="of all processes, for a round; unset = all that speed it up (a CPU: one per core)",
    )
    item_shards: int = Field(
        default=1, ge=1, description="parts of the item factors, each on its own devices; 1 = not split"
    )
    stream: bool = Field(
        default=False, description="keep the clients in host memory and send them to the device in blocks"
    )
    block_megabytes: int = Field(default=64, ge=1, description="size of a streamed block of clients")
    deterministic: bool = Field(
        default=False,
        description="bit-identical reruns on a GPU, slower (a CPU always has them); rounds without noise are "
        "summed in fixed point: exact in any order, on any number of devices",
    )
    coordinator: str | None = Field(
        default=None, description='"host:port" of process 0 of several, or "auto" under a cluster launcher'
    )
    num_processes: int = Field(default=1, ge=1, description="processes of the run, one on each host")
    process_id: int = Field(default=0, ge=0, description="number of this process, from 0")


class CheckpointConfig(Section):
    """Checkpoints of a training in progress, for `--resume`."""

    every: int | None = Field(
        default=None, ge=1, description="fewest rounds between checkpoints; unset = with every evaluation"
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="latest checkpoints that are kept, besides that with the best MAP, if there is no noise",
    )


class ExperimentConfig(Section):
    """The whole configuration of an experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    server: ServerConfig = ServerConfig()
    federation: FederationConfig = FederationConfig()
    channel: ChannelConfig = ChannelConfig()
    devices: DevicesConfig = DevicesConfig()
    attack: AttackConfig = AttackConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    parallel: ParallelConfig = ParallelConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tuning: TuningConfig = TuningConfig()

    @property
    def sent_confidences(self) -> Confidences | Literal["never"]:
        """When clients send confidences: never where the server step does not use them."""
        if not (self.server.factor > 0 and "confidence_sum" in self.server.spec.pieces):
            return "never"
        default: Confidences = "once" if self.privacy.spec.sums_securely else "each_round"
        return self.server.confidences or default

    @property
    def sent_pieces(self) -> tuple[str, ...]:
        """What a client sends in a round: what the server step uses, and under noise never its loss."""
        left_out = set() if self.sent_confidences == "each_round" else {"confidence_sum"}
        left_out |= {"loss"} if self.privacy.has_noise else set()
        return tuple(piece for piece in self.server.spec.pieces if piece not in left_out)

    @property
    def solve_tolerance(self) -> float:
        """Relative error at which a client's solve may end: none where the server checks it."""
        return 0.0 if self.attack.defence == "consistency" else self.federation.solve_tolerance

    @property
    def is_in_fixed_point(self) -> bool:
        """Whether rounds are summed in integers. Never under noise, which is added in floating point."""
        privacy = self.privacy
        return privacy.spec.sums_securely or (self.parallel.deterministic and not privacy.has_noise)

    @property
    def tuning_metric(self) -> str:
        """Metric by which `fcf tune` decides: as configured, otherwise MAP, or RMSE for explicit ratings."""
        default = "rmse" if self.data.feedback == "explicit" else f"map_at_{self.evaluation.leading_k}"
        return self.tuning.metric or default

    @property
    def has_validation(self) -> bool:
        """Whether the split has a validation set."""
        return self.data.validation_fraction > 0 or self.data.validation_path is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the sections as plain values, without keys that are unset."""
        return self.model_dump(exclude_none=True)

    def by_key(self) -> dict[str, Any]:
        """Return all values by key, such as "model.alpha"; None for keys that are unset."""
        sections = self.model_dump().items()
        return {f"{name}.{key}": value for name, section in sections for key, value in section.items()}
