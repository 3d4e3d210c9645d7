"""The exceptions of an experiment. The command line prints each as one line on stderr."""

from fcf_jax.messages import one_line


class ConfigError(ValueError):
    """A mistake in the configuration; the message, on one line, names the key and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RefusedError(ConfigError):
    """A configuration whose values are valid one by one, but that a rule refuses."""


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this run, or lacks what it needs to go on."""


class DamagedFileError(ValueError):
    """A file of a run directory whose content is not what the package writes."""


class DivergedError(RuntimeError):
    """Training was stopped because its loss rose too far or was not finite."""


class StoppedError(RuntimeError):
    """Training was stopped on request; a checkpoint to resume from is written."""
