"""The exceptions of an experiment. The command line prints each as one line on stderr."""


class ConfigError(ValueError):
    """A mistake in the configuration; the one-line message names the key and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this run, or lacks what it needs to go on."""


class DivergedError(RuntimeError):
    """Training was stopped because its loss rose too far or was not finite."""


class StoppedError(RuntimeError):
    """Training was stopped on request; a checkpoint to resume from is written."""
