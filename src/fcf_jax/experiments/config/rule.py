"""A rule for configurations: a row of the tables of checks."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.config.schema import ExperimentConfig

Command = Literal["run", "compare", "tune", "sweep", "audit", "plan"]


class Check(NamedTuple):
    """A rule.

    Attributes:
        is_broken: returns a true value for a configuration and facts that break the rule.
        message: of the error; "{command}" in a plain text stands for the command.
        commands: commands that the rule holds for; None: every use of a configuration.
        when: "config" rules are checked before the data is read, "data" rules after it: either they need the
            facts, or a mistake in the data is to be reported first.
    """

    is_broken: Callable[[ExperimentConfig, Facts], object]
    message: str | Callable[[ExperimentConfig, Facts], str]
    commands: tuple[Command, ...] | None = None
    when: Literal["config", "data"] = "config"


def computed(
    key: str,
    describe: Callable[[ExperimentConfig, Facts], str],
    remedy: str = "",
    *,
    commands: tuple[Command, ...] | None = None,
    when: Literal["config", "data"] = "config",
) -> Check:
    """Build a check whose message is what `describe` returns; an empty text means no mistake."""
    return Check(describe, lambda c, f: f"{key}: {describe(c, f)}{remedy}", commands, when)
