"""The paper as pure functions: no files, no clock, no printing, no global state."""
