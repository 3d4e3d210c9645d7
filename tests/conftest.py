"""Every test runs with the annotations of arrays executed."""

import os
from pathlib import Path

import jaxtyping
import pytest

_OF_ARRAYS = ["fcf_jax.core", "fcf_jax.batching", "fcf_jax.evaluation"]
jaxtyping.install_import_hook(_OF_ARRAYS, "beartype.beartype")


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data sets; FCF_DATA is taken relative to the root of the repository."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("FCF_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set FCF_DATA to their folder")
    return folder
