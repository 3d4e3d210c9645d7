"""Section of the channel: the form of messages between clients and server, and their compression."""

from typing import Literal

from pydantic import Field

from fcf_jax.experiments.config.section import Section

MessageForm = Literal["dense", "rank_one", "own_rows"]
ItemChoice = Literal["uniform", "popularity", "bandit"]


class ChannelConfig(Section):
    """Messages between clients and server: their form and their compression (docs/channel.md)."""

    form: MessageForm = Field(
        default="dense",
        description="what counts as sent, the sums being the same: dense: Y, and a gradient of all items; "
        "rank_one: Y, and the user factor with a number for each own item; own_rows: the rows of own items "
        "and Y^T Y, and their gradients (which rows a client asks for tells its history)",
    )
    upload_bits: int | None = Field(
        default=None,
        ge=2,
        le=16,
        description="quantizes uploads: bits of each number, in steps of one scale for each row; unset = "
        "float32",
    )
    rounding: Literal["nearest", "random", "feedback"] = Field(
        default="nearest",
        description="of upload_bits: nearest step; random: without bias; feedback: nearest, and what is left "
        "out is added to the client's next upload",
    )
    top_rows: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of its rows that a client sends, the longest; 1 = all. The sums are biased",
    )
    projection: int | None = Field(
        default=None,
        ge=1,
        description="sends rows in so many random directions, that all derive from the round's key; unset = "
        "all model.num_factors",
    )
    item_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the items that are sent and learned in a round; 1 = all",
    )
    item_choice: ItemChoice = Field(
        default="uniform",
        description="of item_share: at random; popularity: by the confidence sums of earlier rounds; bandit: "
        "that of FCF-BTS, by the gradients of earlier rounds",
    )
    item_bits: int | None = Field(
        default=None,
        ge=2,
        le=16,
        description="quantizes Y on its way to the clients, row by row; unset = float32",
    )

    @property
    def changes_rows(self) -> bool:
        """Whether a client's rows are sent in fewer bits, in fewer directions, or not all."""
        return self.upload_bits is not None or self.top_rows < 1 or self.projection is not None

    @property
    def is_compressed(self) -> bool:
        """Whether messages lose anything."""
        return self.changes_rows or self.item_share < 1 or self.item_bits is not None
