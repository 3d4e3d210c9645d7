"""Runs whose messages are compressed: bytes that are counted, and runs that go on."""

import shutil

import pytest

from fcf_jax import cli
from fcf_jax.experiments.store.run_directory import SUMMARY, read_run

pytestmark = pytest.mark.usefixtures("all_undrawn")

SETTINGS = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "evaluation.baseline=false", "federation.num_rounds=4", "evaluation.every=2", "server.step=running_sums",
    "parallel.devices=1", "data.test_fraction=0.0", "channel.form=own_rows", "channel.upload_bits=4",
    "channel.rounding=feedback", "channel.item_share=0.5", "channel.item_choice=bandit",
    "channel.item_bits=6",
]  # fmt: skip


def test_compressed_run_counts_its_bytes_and_goes_on_as_an_unbroken_one(tmp_path, capsys):
    """The memory of clients and what the bandit has learned are in the checkpoint."""
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    settings = [part for one in SETTINGS for part in ("--set", one)]
    assert cli.main(["run", "--quiet", "--out", str(whole), *settings]) == 0
    shutil.copytree(whole, copy)
    sorted(copy.glob("checkpoints/round-*.npz"))[-1].unlink()
    (copy / SUMMARY.name).unlink()
    assert cli.main(["run", "--resume", "--out", str(copy)]) == 0
    assert "resuming after 2 of 4 rounds" in capsys.readouterr().out
    assert read_run(copy).item_factors.tobytes() == read_run(whole).item_factors.tobytes()
    summary = SUMMARY.read(whole)
    # half of the own rows: 4 numbers of 4 bits, id, scale and confidence; x x^T in 4 bits; the loss
    length = summary["num_train_interactions"] / 60
    num_bits = 0.5 * length * (4 * 4 + 32 + 32 + 32) + 4 * (4 * 4 + 32) + 32
    assert summary["payload"]["bytes_up"]["mean"] == pytest.approx(num_bits / 8)
