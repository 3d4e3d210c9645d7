"""Experiments: configured, logged, compared with centralised ALS. The only floor with a clock."""
