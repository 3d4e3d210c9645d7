"""Section of attacks: malicious clients, and the server's defence."""

from typing import Annotated, Literal

from pydantic import Field

from fcf_jax.experiments.config.section import Section

Attack = Literal[
    "none", "poisoned_history", "explicit_boosting", "rank_one", "fed_rec_attack", "untargeted_noise"
]
Defence = Literal["none", "clip", "consistency", "trimmed_mean", "median"]
SEES_UPLOADS: tuple[Defence, ...] = ("consistency", "trimmed_mean", "median")


class AttackConfig(Section):
    """Malicious clients, and defences against them (docs/channel.md)."""

    kind: Attack = Field(
        default="none",
        description="what malicious clients do for their target items. poisoned_history: follow the protocol "
        "on a made-up history; explicit_boosting: add a boosted gradient; rank_one: pose as the mean user; "
        "fed_rec_attack: FedRecAttack with public interactions; untargeted_noise: send random rows",
    )
    share: float = Field(
        default=0.01, ge=0, le=1, description="share of the users that are malicious, at least one if above 0"
    )
    num_targets: int = Field(
        default=5, ge=1, description="target items, drawn among the less popular half of the items"
    )
    targets: Annotated[list[int | str], Field(min_length=1)] | None = Field(
        default=None, description="target items by their ids in the data; unset = drawn"
    )
    strength: float = Field(
        default=10.0,
        gt=0,
        description="length of what a malicious client adds, in lengths of its own honest upload; of "
        "poisoned_history: strength of the interaction with the target, 1 = as others",
    )
    public_share: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="of fed_rec_attack: share of all interactions that are public",
    )
    defence: Defence = Field(
        default="none",
        description="clip: uploads to attack.clip_norm; consistency: uploads that no history explains are "
        "dropped; trimmed_mean, median: robust sums over the clients that hold an item",
    )
    clip_norm: float = Field(
        default=20.0, gt=0, description="of clip: most that an upload [items, factors] may be long"
    )
    trim_share: float = Field(
        default=0.1, ge=0, le=0.5, description="of trimmed_mean: share of the values left out at each end"
    )
    seed: int = Field(default=0, ge=0, description="seed of who is malicious, of targets and public shares")

    @property
    def has_attackers(self) -> bool:
        """Whether some clients are malicious."""
        return self.kind != "none" and self.share > 0

    @property
    def is_on(self) -> bool:
        """Whether anything is attacked or defended."""
        return self.has_attackers or self.defence != "none"

    @property
    def sees_uploads(self) -> bool:
        """Whether the defence needs single uploads in the clear."""
        return self.defence in SEES_UPLOADS

    @property
    def has_robust_sums(self) -> bool:
        """Whether uploads are kept, and summed by a robust rule."""
        return self.defence in ("trimmed_mean", "median")
