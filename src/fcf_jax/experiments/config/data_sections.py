"""The sections about data: where they come from, how they are split, and what is measured on them."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from fcf_jax.data.feedback import Strengths
from fcf_jax.data.formats.layouts import LAYOUT_NAMES
from fcf_jax.data.known_sets import KNOWN_SETS
from fcf_jax.experiments.config.section import Section

_Column = str | int
_Length = Annotated[int, Field(ge=1)]
_Lengths = Annotated[  # with a discriminator, so that errors are about what was meant
    Annotated[_Length, Tag("one")] | Annotated[list[_Length], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]


class DataConfig(Section):
    """The interactions: where they come from and how they are split."""

    source: Literal["auto", "simulated", "file"] = Field(
        default="auto",
        description="auto: a file when data.path, data.name or data.train_path is set, otherwise simulated",
    )
    name: str | None = Field(
        default=None,
        description="data set downloaded by `fcf data fetch`, read when data.path is unset; "
        f"one of: {', '.join(KNOWN_SETS)}",
    )
    path: str | None = Field(default=None, min_length=1, description="data file, or folder of a data set")
    train_path: str | None = Field(
        default=None,
        min_length=1,
        description="training set of a published split, in place of data.path: pairs, or lists of a user and "
        "items (LightGCN)",
    )
    test_path: str | None = Field(default=None, min_length=1, description="its test set")
    validation_path: str | None = Field(
        default=None, min_length=1, description="its validation set, if there is one"
    )
    layout: str = Field(default="auto", description=f"layout of the file, one of: {', '.join(LAYOUT_NAMES)}")
    user_column: _Column | None = Field(default=None, description="name or 0-based number of the user column")
    item_column: _Column | None = Field(default=None, description="name or 0-based number of the item column")
    strength_column: _Column | None = Field(
        default=None, description='name or number of the strength column; "" = every strength is 1'
    )
    timestamp_column: _Column | None = Field(
        default=None, description='name or number of the column of times in seconds; "" = none'
    )
    separator: str | None = Field(
        default=None, description='between columns: one character, "::" or "whitespace"; unset = detected'
    )
    strength_values: dict[str, float | str] | None = Field(
        default=None,
        description="meaning of words and special numbers of the strength column: {view = 1, buy = 4} for "
        'events, {-1 = "seen"} for seen but not rated (implicit: strength 1, explicit: left out)',
    )
    duplicates: Literal["sum", "max", "last", "error"] = Field(
        default="sum", description="how repeated pairs of user and item are merged"
    )
    on_bad_line: Literal["error", "skip"] = Field(
        default="error",
        description="skip: leave out unreadable lines and, in implicit feedback, negative strengths",
    )
    feedback: Literal["implicit", "explicit"] = Field(
        default="implicit", description="implicit: strengths give confidence; explicit: they are ratings"
    )
    strengths: Strengths = Field(
        default="keep", description="transformation of strengths: none, all 1, or log(1 + r)"
    )
    min_strength: float | None = Field(
        default=None,
        description="interactions of a lower strength are left out, before all else: 4 keeps ratings of 4 "
        "and 5; unset = none",
    )
    min_user_interactions: int = Field(
        default=1, ge=1, description="users with fewer interactions are left out; not of a published split"
    )
    min_item_interactions: int = Field(
        default=1, ge=1, description="items with fewer interactions are left out; not of a published split"
    )
    generator: Literal["taste", "uniform"] = Field(
        default="taste", description="of simulated data: planted tastes, or the random views of the paper"
    )
    num_users: int = Field(default=2000, ge=1, description="simulated users")
    num_items: int = Field(default=500, ge=1, description="simulated items")
    mean_history: float = Field(default=40.0, ge=1, description="mean items per simulated user (taste)")
    sparsity: float = Field(default=0.8, ge=0, lt=1, description="share of pairs without a view (uniform)")
    user_features: str | None = Field(
        default=None,
        min_length=1,
        description="file of attributes of users (CSV, Parquet, u.user, users.dat), looked for in the data "
        "folder first: their factors are drawn to a linear map of them",
    )
    item_features: str | None = Field(
        default=None, min_length=1, description="likewise, of items (u.item, movies.dat)"
    )
    split: Literal["ratio", "leave_one_out", "temporal", "published", "strong", "cold_items"] = Field(
        default="ratio",
        description="test set: a share of each history, its latest item, all after a time, as published, "
        "(strong generalization) a share of the histories of users that are held out whole, or a share of "
        "each history, and the items that appear last held out whole",
    )
    cold_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="of cold_items: items that are held out whole; unset = a tenth"
    )
    warm_interactions: int | None = Field(
        default=None,
        ge=1,
        description="of cold_items: items with at most so many training interactions are measured apart, "
        "too; unset = 10",
    )
    test_users: int | None = Field(
        default=None, ge=1, description="of strong: users held out for testing; unset = a tenth of them"
    )
    validation_users: int | None = Field(
        default=None, ge=1, description="of strong: users held out for tuning, besides; unset = none"
    )
    negatives_path: str | None = Field(
        default=None,
        min_length=1,
        description="of leave_one_out and published: file with the test item and sampled negatives of each "
        "user (NCF); its test items are the test set",
    )
    negatives_ids: Literal["labels", "first_appearance"] = Field(
        default="labels",
        description="numbers of users and items in that file: those of the data, or from 0 in the order of "
        "their first appearance in the data",
    )
    test_fraction: float = Field(default=0.2, ge=0, lt=1, description="share held out for testing")
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="share held out for tuning, besides"
    )
    seed: int = Field(default=0, ge=0, description="seed of the simulation and the split")


class EvaluationConfig(Section):
    """Evaluation during and after training."""

    k: _Lengths = Field(
        default=10,
        description="length of the recommendation lists, or several: [20, 50, 100]; at least 1. Tables begin "
        "with the first",
    )
    every: int = Field(
        default=10,
        ge=1,
        description="rounds from one evaluation to the next; before that, at rounds 0, 1, 2, 5, 10, 20, ...",
    )
    max_users: int | None = Field(
        default=None, ge=1, description="size of the sample of users that is evaluated; unset = all"
    )
    masked: Literal["train", "train_and_validation"] = Field(
        default="train",
        description="items that are never recommended to a user in the evaluation: its training set, or "
        "its training and validation set",
    )
    federated: bool = Field(
        default=False,
        description="after training, clients also measure themselves, and the server gets sums of their "
        "metrics as it gets uploads: exact, in fixed point, or with noise (privacy.evaluation_share)",
    )
    baseline: bool = Field(default=True, description="also train centralised ALS from the same start")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the recommendation lists, as they were given."""
        return (self.k,) if isinstance(self.k, int) else tuple(self.k)

    @property
    def leading_k(self) -> int:
        """Length that tables and pictures begin with."""
        return self.lengths[0]
