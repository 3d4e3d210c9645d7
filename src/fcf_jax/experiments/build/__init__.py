"""From a configuration to everything that a run needs."""
