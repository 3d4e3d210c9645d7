"""Section of the clients' devices: who comes back, and when."""

from typing import Literal

from pydantic import Field

from fcf_jax.experiments.config.section import Section


class DevicesConfig(Section):
    """Devices of the clients: dropouts, virtual time, deadlines and asynchrony (docs/channel.md)."""

    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="mean chance that a client of a round does not come back"
    )
    dropout_pattern: Literal["independent", "activity"] = Field(
        default="independent",
        description="independent: the same chance for all; activity: the odds of coming back are "
        "proportional to the length of the history",
    )
    dropout_trace: str | None = Field(
        default=None,
        description="CSV that decides instead: user and round (a row says that the user comes back in that "
        "round, from 0), or user and availability (the chance of coming back)",
    )
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        description="turns the virtual clock on: median bytes per second, down and up; unset = no clock",
    )
    spread: float = Field(
        default=1.0,
        ge=0,
        le=5,
        description="of the clock: standard deviation of the logarithms of speeds and bandwidths, drawn for "
        "each user; 0 = all are equal",
    )
    trace: str | None = Field(
        default=None,
        description="of the clock: CSV with user, speed (1 = the reference device) and bandwidth, instead of "
        "drawn devices",
    )
    base_seconds: float = Field(
        default=1.0, gt=0, description="of the clock: time of a client's round on the reference device"
    )
    seconds_per_interaction: float = Field(
        default=0.01, ge=0, description="of the clock: further time for each interaction of the client"
    )
    over_selection: float = Field(
        default=1.0,
        ge=1,
        le=100,
        description="clients drawn for each place of a cohort; the first to arrive fill it",
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, description="uploads that take longer are late and left out; unset = none is"
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="asynchronous rounds (FedBuff): clients in flight; a step takes the first "
        "federation.cohort_size uploads; unset = synchronous rounds",
    )
    staleness_power: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="of asynchronous rounds: an upload that is tau steps old weighs (1 + tau)^-power",
    )

    @property
    def has_clock(self) -> bool:
        """Whether virtual time is counted."""
        return self.bandwidth is not None or self.trace is not None

    @property
    def has_dropouts(self) -> bool:
        """Whether clients drop out."""
        return self.dropout > 0 or self.dropout_trace is not None

    @property
    def waits_for_some(self) -> bool:
        """Whether rounds end before the last of the clients that were drawn has arrived."""
        return self.over_selection > 1 or self.deadline_seconds is not None

    @property
    def is_asynchronous(self) -> bool:
        """Whether rounds are asynchronous."""
        return self.concurrency is not None
