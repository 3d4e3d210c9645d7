"""Problem of an experiment, built from its configuration: data set, model, devices."""
