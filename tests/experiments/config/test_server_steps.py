"""The table of server steps: what each row promises, and that a new step is one new row."""

import subprocess
import sys
import textwrap

import optax
import pytest
from jax import numpy as jnp

from fcf_jax.core.records import Pieces
from fcf_jax.experiments.config.load import load_config, value_of
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.config.server_steps import SERVER_STEPS
from fcf_jax.experiments.errors import ConfigError

# The schema takes its choices from the table when it is imported: a process of its own, which begins with
# the new row, sees what a row in the file would do.
ONE_NEW_ROW = """
    import sys
    import optax
    from fcf_jax.experiments.config import server_steps

    server_steps.SERVER_STEPS["momentum"] = server_steps.ServerStep(
        "momentum",
        build=lambda server, num_rounds: optax.sgd(server.rate, momentum=server.b1),
        pieces=("upload", "user_gram", "confidence_sum", "loss"),
        tuned=("server.learning_rate", "server.b1"),
        learning_rate=1e-4,
        needs_everybody=True,
        has_schedule=False,
    )

    from fcf_jax import cli
    from fcf_jax.experiments.audit.auditing import with_fitting_step
    from fcf_jax.experiments.build.ledger import Shape, client_bytes
    from fcf_jax.experiments.config.load import explain, load_config
    from fcf_jax.experiments.errors import ConfigError
    from fcf_jax.experiments.tune.space import server_start, space_around

    config = load_config(None, ["server.step=momentum"])
    assert "momentum" in explain()  # a choice, with its default
    assert config.server.rate == 1e-4
    space = space_around(server_start(config.server), config.tuning, config.server)
    assert set(space) == {"server.learning_rate", "server.b1"} and space["server.learning_rate"].high == 1e-3
    up, down = client_bytes(config, Shape(100))
    assert up - down == 4 * (25 * 25 + 1)  # no confidence factor: confidences are not sent
    cohorts = load_config(None, ["server.step=momentum", "federation.cohort_size=30"])
    assert with_fitting_step(cohorts)[0].server.step == "running_sums"
    try:
        load_config(None, ["server.step=momentum", "server.decay=cosine"])
        raise AssertionError("a schedule was accepted")
    except ConfigError as error:
        assert "momentum" in str(error)

    short = ["data.num_users=30", "data.num_items=12", "data.mean_history=5", "model.num_factors=2"]
    short += ["federation.num_rounds=2", "evaluation.baseline=false", "data.test_fraction=0"]
    sets = [part for one in (*short, "server.step=momentum") for part in ("--set", one)]
    assert cli.main(["run", *sets, "--set", "federation.cohort_size=20", "--out", sys.argv[1]]) == 2
    assert cli.main(["run", *sets, "--quiet", "--out", sys.argv[1]]) == 0
"""


@pytest.mark.parametrize("name", SERVER_STEPS)
def test_a_step_is_a_choice_and_is_built(name):
    config, step = load_config(None, [f"server.step={name}"]), SERVER_STEPS[name]
    assert config.server.spec is step
    assert isinstance(config.server.optimizer(num_rounds=10), optax.GradientTransformation)
    assert set(step.pieces) <= set(Pieces._fields)
    assert "loss" in step.pieces or not step.is_guarded
    for key in step.tuned:
        assert key.startswith("server.") and hasattr(config.server, key.partition(".")[2])
        value_of(config, key)


def test_a_new_step_is_one_new_row(tmp_path):
    code = [sys.executable, "-c", textwrap.dedent(ONE_NEW_ROW), str(tmp_path / "run")]
    found = subprocess.run(code, timeout=200, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "momentum needs everybody in every round, got 20" in found.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("key", ["server.step", "privacy.mode"])
def test_an_unknown_name_is_told_the_known_ones(key):
    table = SERVER_STEPS if key == "server.step" else PRIVACY_MODES
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"{key}=other"])
    assert all(f"'{name}'" in str(raised.value) for name in table)


def test_configured_learning_rate_comes_before_that_of_the_step():
    assert load_config(None, ["server.step=adam"]).server.rate == SERVER_STEPS["adam"].learning_rate
    assert load_config(None, ["server.step=adam", "server.learning_rate=0.3"]).server.rate == 0.3
    with pytest.raises(ValueError, match="learning rate, got guarded_gram"):
        _ = load_config().server.rate


def test_cosine_decay_ends_at_the_final_rate():
    config = load_config(None, ["server.step=sgd", "server.learning_rate=1.0", "server.decay=cosine"])
    num_rounds, ones = config.federation.num_rounds, jnp.ones(1)
    optimizer = config.server.optimizer(num_rounds)
    state = optax.tree_utils.tree_set(optimizer.init(ones), count=jnp.int32(num_rounds))
    update, _ = optimizer.update(ones, state, ones)
    assert float(update[0]) == pytest.approx(0.0, abs=1e-6)
