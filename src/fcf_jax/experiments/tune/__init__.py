"""`fcf tune`: Bayesian search over model and server step."""
