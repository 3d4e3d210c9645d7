"""Section of the channel: the form of messages between clients and server, and their compression."""

from typing import Literal

from pydantic import Field

from fcf_jax.experiments.config.section import Section

MessageForm = Literal["dense", "rank_one", "own_rows"]


class ChannelConfig(Section):
    """Messages between clients and server: their form and their compression (docs/channel.md)."""

    form: MessageForm = Field(
        default="dense",
        description="what counts as sent, the sums being the same: dense: Y, and a gradient of all items; "
        "rank_one: Y, and the user factor with a number for each own item; own_rows: the rows of own items "
        "and Y^T Y, and their gradients (which rows a client asks for tells its history)",
    )
