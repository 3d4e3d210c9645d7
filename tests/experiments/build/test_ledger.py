"""Bytes of a client in a round, by server step, privacy mode, form and history."""

import numpy as np
import pytest

from fcf_jax.channel import Part, link
from fcf_jax.experiments.build.dataset import load_datasets
from fcf_jax.experiments.build.ledger import Shape, client_bytes, ledger_of
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config

PLAIN = ["server.step=adam", "model.num_factors=4"]


@pytest.mark.parametrize("step", ["adam", "paper_adam", "guarded_gram", "gram", "running_sums", "sgd"])
def test_payload_of_every_step(step):
    up, down = client_bytes(load_config(None, [f"server.step={step}"]), Shape(100))
    assert down == 4 * 100 * 25
    assert up - down == (4 * (25 * 25 + 100 + 1) if step in ("gram", "guarded_gram", "running_sums") else 0)


@pytest.mark.parametrize(
    ("step", "more", "extra"),
    [
        ("adam", (), 0),
        ("gram", (), 25 * 25 + 100),
        ("gram", ("server.confidence_factor=0.0",), 25 * 25),
    ],
)
def test_payload_counts_what_noise_lets_clients_send(step, more, extra):
    """Their loss never, and confidences only where the step weighs them."""
    config = load_config(None, [f"server.step={step}", "privacy.mode=central_noise", *more])
    up, down = client_bytes(config, Shape(100))
    assert up - down == 4 * extra


def test_map_of_user_features_is_as_wide_as_factors_with_biases():
    config = load_config(None, ["model.biases=true", "model.num_factors=3"])
    down = [client_bytes(config, Shape(7, num_user_features=count))[1] for count in (0, 4)]
    assert down == [4 * 7 * 5, 4 * (7 + 4) * 5]


def test_spread_over_clients_follows_their_histories():
    shape, config = Shape(100, np.arange(1, 21)), load_config(None, [*PLAIN, "channel.form=own_rows"])
    ledger, up = ledger_of(config, shape), 4 * 16 + 20 * np.arange(1, 21)
    expected = {"mean": up.mean(), "p50": np.median(up), "p95": np.percentile(up, 95), "max": up.max()}
    assert ledger["bytes_up"] == expected and ledger["tells_history"]
    assert ledger["forms"]["own_rows"] == (up.mean(), 64 + 16 * 10.5)
    dense = ledger_of(load_config(None, PLAIN), shape)
    assert set(dense["bytes_up"].values()) == {1600} and not dense["tells_history"]
    assert dense["forms"] == ledger["forms"] and set(dense["forms"]) == {"dense", "rank_one", "own_rows"}


def test_links_count_in_the_ledger():
    halved = link(payload=lambda payload: payload._replace(down=payload.down._replace(number_bits=16)))
    down = [client_bytes(load_config(None, PLAIN), Shape(100), one)[1] for one in (None, halved.payload)]
    assert down == [1600, 800]
    assert Part(0).num_bytes == 0


def test_secure_sums_send_dense_words_and_exchange_keys():
    """20 neighbours: a key of 32 bytes, and of each neighbour two shares of 66 bytes and a revealed one."""
    config = load_config(None, ["privacy.mode=secure_sum", "server.step=running_sums", "model.num_factors=4"])
    up, down = client_bytes(config, Shape(100, np.arange(3)))
    assert up == 4 * (400 + 16 + 1) + 32 + 20 * 3 * 66  # confidences were sent once
    assert down == 4 * 400 + 20 * (32 + 2 * 66)
    assert set(ledger_of(config, Shape(100, np.arange(3)))["forms"]) == {"dense"}


def test_sampled_negatives_are_own_items_too():
    overrides = ["data.num_users=60", "data.num_items=30", "data.mean_history=8", "channel.form=own_rows"]
    squared = load_config(None, overrides)
    logistic = load_config(
        None, [*overrides, "model.objective=logistic", "model.unobserved_weight=0", "model.num_negatives=2"]
    )
    downs = [
        resolve(config, *load_datasets(config, split_seeds=[0])).ledger["bytes_down"]["mean"] - 4 * 25**2
        for config in (squared, logistic)
    ]
    assert downs[1] == pytest.approx(3 * downs[0])
