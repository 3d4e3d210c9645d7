"""Configurations: their keys, how they are read, and what is refused."""
