"""`python -m fcf_jax`, the same as `fcf`."""

from fcf_jax.cli import run_program

run_program()
