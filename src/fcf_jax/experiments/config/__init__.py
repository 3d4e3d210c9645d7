"""Configurations: their keys, how they are read, and the checks that they must pass."""
