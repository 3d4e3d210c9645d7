"""Checkpoints by themselves: any state there and back, or an honest refusal."""

import hashlib
import io
import json
import tracemalloc
import zipfile

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from fcf_jax.experiments.errors import CheckpointError
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.parallel.batch import run_mesh

STATE = {
    "optimizer": optax.adam(0.1).init(jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)),
    "keys": jax.random.split(jax.random.key(3), 4),
    "half": jnp.asarray([1.5, -0.0], jnp.bfloat16),
    "accepted": np.array([True, False]),
}
LIKE = jax.eval_shape(lambda: STATE)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def checkpoints(tmp_path, lines):
    return open_in(tmp_path, on_damaged=lines.append)


def open_in(folder, *, config="a" * 64, keep=2, **options):
    return Checkpoints(folder / "checkpoints", keep=keep, fingerprints={"config": config}, **options)


def names_in(folder):
    return [int(path.stem[-8:]) for path in sorted((folder / "checkpoints").iterdir())]


def bits(state):
    return jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
        ).tobytes(),
        state,
    )


def test_any_state_comes_back_bit_for_bit(checkpoints):
    assert checkpoints.latest(LIKE) is None
    checkpoints.save(7, STATE)
    done, state = checkpoints.latest(LIKE)
    assert done == 7
    assert jax.tree.structure(state) == jax.tree.structure(STATE)
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(LIKE)]
    assert bits(state) == bits(STATE)


def test_a_large_state_is_not_held_again(checkpoints):
    state = [np.full(2**17, number, np.float64) for number in range(16)]
    size = sum(leaf.nbytes for leaf in state)
    tracemalloc.start()
    checkpoints.save(1, state)
    _, of_saving = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    restored = checkpoints.latest(state)
    _, of_reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert of_saving < 0.3 * size and of_reading < 1.3 * size  # buffers of 2 MB
    assert bits(restored.state) == bits(state)


def test_states_of_several_trainings_side_by_side_come_back(checkpoints):
    stacked = jax.device_put(jnp.arange(6.0).reshape(1, 6), jax.NamedSharding(run_mesh(), jax.P("runs")))
    checkpoints.save(1, stacked)
    np.testing.assert_array_equal(checkpoints.latest(stacked).state, stacked)


def test_the_last_ones_and_the_best_stay(tmp_path, checkpoints):
    for done, score in [(1, 0.1), (2, 0.9), (3, None), (4, float("nan")), (5, 0.3)]:
        checkpoints.save(done, STATE, score=score)
    assert names_in(tmp_path) == [2, 4, 5]
    open_in(tmp_path, keep=1).save(6, STATE, score=0.95)  # another process knows the scores too
    assert names_in(tmp_path) == [6]


@pytest.mark.parametrize("where", [0, 30, 0.3, 0.6, 0.9, -100, -1])
def test_a_flipped_byte_is_told_and_the_one_before_is_read(where, tmp_path, checkpoints, lines):
    checkpoints.save(1, STATE)
    checkpoints.save(2, STATE)
    path = tmp_path / "checkpoints" / "round-00000002.npz"
    content = bytearray(path.read_bytes())
    content[int(where * len(content)) if isinstance(where, float) else where] ^= 1
    path.write_bytes(content)
    assert checkpoints.latest(LIKE).done == 1
    assert len(lines) == 1 and str(path) in lines[0]


@pytest.mark.parametrize("length", [0, 50, 500])
def test_a_truncated_file_is_passed_over(length, tmp_path, checkpoints, lines):
    checkpoints.save(1, STATE)
    path = tmp_path / "checkpoints" / "round-00000001.npz"
    path.write_bytes(path.read_bytes()[:length])
    assert checkpoints.latest(LIKE) is None
    assert len(lines) == 1
    checkpoints.save(2, STATE, score=0.5)  # nor does it hinder the next
    assert checkpoints.latest(LIKE).done == 2


def test_other_fingerprints_are_refused_with_both(tmp_path, checkpoints):
    checkpoints.save(1, STATE)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of config b{12}, got one of a{12};"):
        open_in(tmp_path, config="b" * 64).latest(LIKE)


def test_another_tree_is_refused(checkpoints):
    checkpoints.save(1, STATE)
    with pytest.raises(CheckpointError, match=r"expected state/half float32 \[3\], got state/half bfloat16"):
        checkpoints.latest({**LIKE, "half": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(CheckpointError, match="expected None, got state/optimizer"):
        checkpoints.latest({name: leaf for name, leaf in LIKE.items() if name != "optimizer"})


def rewritten(path, change):
    """Write a checkpoint with another header and arrays, and a digest that fits."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"sha256:" + bytes(64)
    content = bytearray(buffer.getvalue())
    content[-64:] = hashlib.sha256(content[:-64]).hexdigest().encode()
    path.write_bytes(content)


WRONG = {
    "negative round": lambda header, arrays: header.update(done=-5),
    "another round": lambda header, arrays: header.update(done=10**9),
    "text round": lambda header, arrays: header.update(done="2"),
    "no leaves": lambda header, arrays: header.pop("leaves"),
    "missing array": lambda header, arrays: arrays.pop("state/accepted"),
    "object array": lambda header, arrays: arrays.update({"state/accepted": np.array([None, {}])}),
    "other shape": lambda header, arrays: arrays.update({"state/accepted": np.array([True])}),
    "other type": lambda header, arrays: arrays.update({"state/half": np.zeros(3)}),
    "no key": lambda header, arrays: arrays.update({"state/keys": np.zeros(3, np.uint32)}),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_another_program_wrote_wrong_is_passed_over(change, tmp_path, checkpoints, lines):
    checkpoints.save(1, STATE)
    checkpoints.save(2, STATE)
    path = tmp_path / "checkpoints" / "round-00000002.npz"
    rewritten(path, lambda header, arrays: None)
    assert checkpoints.latest(LIKE).done == 2 and not lines
    rewritten(path, change)
    assert checkpoints.latest(LIKE).done == 1
    assert len(lines) == 1 and lines[0].startswith(f"{path}: damaged (") and "\n" not in lines[0]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, checkpoints, monkeypatch):
    checkpoints.save(1, STATE)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(2, STATE)
    assert names_in(tmp_path) == [1]
    assert checkpoints.latest(LIKE).done == 1
