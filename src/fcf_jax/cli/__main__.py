"""`python -m fcf_jax.cli`."""

from fcf_jax.cli import run_program

run_program()
