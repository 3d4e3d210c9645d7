"""Run directories: what is written, read, resumed and charged."""
