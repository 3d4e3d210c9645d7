"""Files of a run directory: results, checkpoints and the privacy budget."""
