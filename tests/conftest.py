"""Every test runs with the annotations of arrays executed."""

import os
from importlib.metadata import version
from pathlib import Path

# Most of a test is compiling: a quick compiler, the same operations. Before JAX starts.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    + ["--xla_cpu_parallel_codegen_split_count=1"]  # both cores have tests to run
    # older code generators: two fifths less time for a whole run; JAX 0.12 refuses the flag
    + ["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10.")
)

import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

pytest_plugins = ["small_data", "compilations", "curves", "crafted_uploads"]
_LONG_FILES = {
    "test_mesh", "test_resume", "test_faults", "test_docs", "test_federation", "test_comparison",
    "test_secure_run", "test_two_devices",
}  # fmt: skip
_MANY_MAPS = 45_000  # of 65,530 by default
_OF_ARRAYS = [
    "fcf_jax.core",
    "fcf_jax.als",
    "fcf_jax.joint",
    "fcf_jax.optimizers",
    "fcf_jax.channel",
    "fcf_jax.parallel",
    "fcf_jax.evaluation",
    "fcf_jax.privacy",
]
jaxtyping.install_import_hook(_OF_ARRAYS, "annotations.executed")


def pytest_collection_modifyitems(items):
    """Long files first, or one process would be left with them when the other has nothing to do."""
    items.sort(key=lambda item: item.path.stem not in _LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Keep compiled programs between the tests of a run: compiling is what takes time."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # for the processes that tests start
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    jax.devices()  # one: a run in a test that came first would have started more


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Let go of compiled programs before there are as many memory maps as Linux allows: XLA would crash."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data sets; FCF_DATA is taken relative to the root of the repository."""
    root = Path(__file__).parents[1]
    folder = (root / os.environ.get("FCF_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set FCF_DATA to their folder")
    return folder
