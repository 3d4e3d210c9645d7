"""Interactions on the host: reading, simulation and splits. NumPy only; pandas and SciPy load when used."""

from fcf_jax.data.cold_split import split_cold_items
from fcf_jax.data.features import Features, read_features
from fcf_jax.data.feedback import check_explicit, check_implicit
from fcf_jax.data.formats.columns import Columns
from fcf_jax.data.formats.layouts import LAYOUT_NAMES
from fcf_jax.data.formats.table import BadLinePolicy
from fcf_jax.data.interactions import Interactions
from fcf_jax.data.published import read_published_split
from fcf_jax.data.read import ReadReport, read_interactions
from fcf_jax.data.rows import DuplicatePolicy
from fcf_jax.data.sampled import Pairs, with_negatives, with_pairs
from fcf_jax.data.simulate import simulate_taste, simulate_uniform
from fcf_jax.data.split import Split, split_leave_one_out, split_per_user, split_temporal, split_users

__all__ = [
    "LAYOUT_NAMES",
    "BadLinePolicy",
    "Columns",
    "DuplicatePolicy",
    "Features",
    "Interactions",
    "Pairs",
    "ReadReport",
    "Split",
    "check_explicit",
    "check_implicit",
    "read_features",
    "read_interactions",
    "read_published_split",
    "simulate_taste",
    "simulate_uniform",
    "split_cold_items",
    "split_leave_one_out",
    "split_per_user",
    "split_temporal",
    "split_users",
    "with_negatives",
    "with_pairs",
]
