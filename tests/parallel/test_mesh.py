"""Rounds over several devices, streamed or not: all equal to one device."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from small_data import MODEL

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.parallel import mesh as mesh_module
from fcf_jax.parallel.mesh import client_mesh, place_clients, place_state, use_cpu_devices

ON_EIGHT_DEVICES = """
    import json, sys
    from functools import partial
    import jax, numpy as np, optax
    import fcf_jax as fcf
    from fcf_jax import parallel
    from fcf_jax.channel import Pieces, choose_formats, clip_and_noise, fixed_point
    from fcf_jax.core import accumulation, cohort_sum
    from fcf_jax.core import placement as server_placement
    from fcf_jax.core.packing import chunk_specs
    from fcf_jax.data import simulate_taste
    from jax.sharding import PartitionSpec

    parallel.use_cpu_devices(8)
    server_placement._WORTH_SPLITTING = 0  # any state of the optimizer is split
    interactions = simulate_taste(num_users=150, num_items=39, mean_history=9, seed=0)
    host = fcf.pack_clients(interactions, row_width=4, chunk_slots=64, chunk_clients=13)
    model, sizes = fcf.Model(fcf.implicit_feedback(alpha=1.0), 1.0), {"num_items": 39, "num_factors": 5}
    key, errors = jax.random.key(0), {}

    def last(num_devices, item_shards, cohort_size, make_step, streamed=False):
        mesh = parallel.client_mesh(num_devices, item_shards=item_shards) if num_devices else None
        federation = fcf.federated_cf(model, make_step(), cohort_size=cohort_size, mesh=mesh, **sizes)
        state = federation.init(key)
        if mesh is not None:  # made where it belongs: nothing is copied
            of_parts = zip(*map(jax.tree.leaves, (state, parallel.place_state(state, mesh))))
            assert all(part is placed for part, placed in of_parts)
        if streamed:
            state, info = parallel.run_rounds_streamed(
                federation, key, state, host, num_rounds=2, block_chunks=2)
        else:
            clients = host if mesh is None else parallel.place_clients(host, mesh)
            state, info = fcf.run_rounds(federation, key, state, clients, num_rounds=2)
        if mesh is not None:  # as it was placed, so that further rounds compile nothing
            placed = server_placement.state_shardings(state, mesh)
            assert jax.tree.all(jax.tree.map(
                lambda leaf, like: leaf.sharding.is_equivalent_to(like, leaf.ndim), state, placed))
        if item_shards == 1 and num_devices == 3:
            assert not state.optimizer_state.memory.point_changes.is_fully_replicated
        return parallel.fetch(state.item_factors)[:39], np.asarray(info.loss), np.asarray(info.client_ids)

    # clients and items split; clients and the optimizer's state; items alone; clients and items, streamed
    everybody = (None, fcf.optimizers.guarded_gram, ((8, 2, False), (3, 1, False)))
    sampled = (40, lambda: optax.adam(0.05), ((2, 2, False), (8, 4, True)))
    for cohort_size, make_step, placements in (everybody, sampled):
        one = last(None, 1, cohort_size, make_step)
        for placement in placements:
            other = last(*placement[:2], cohort_size, make_step, placement[2])
            assert np.array_equal(one[2], other[2])  # the same cohorts
            errors[str(placement)] = max(
                float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(one[:2], other[:2]))

    # the row that fills up the last device is no item, under noise either
    mesh, noisy = parallel.client_mesh(2, item_shards=2), clip_and_noise(
        clip_norms=Pieces(2.0, None, None, None), noise_multiplier=1.0, expected_cohort_size=150)
    federation = fcf.federated_cf(model, optax.sgd(0.01), channel=noisy, mesh=mesh, **sizes)
    state = parallel.place_state(federation.init(key), mesh)
    state, _ = fcf.run_rounds(federation, key, state, parallel.place_clients(host, mesh), num_rounds=2)
    filled = parallel.fetch(state.item_factors)
    assert filled.shape == (40, 5) and filled[:39].all() and not filled[39:].any()
    pair = interactions, interactions
    cut = fcf.evaluate(model, filled[:39], *pair)
    assert fcf.evaluate(model, state.item_factors, *pair) == cut

    # devices that keep the sums of their items alone, in floating point and in integers
    mesh, factors = parallel.client_mesh(3), jax.numpy.asarray(filled[:39])
    exact = fixed_point(choose_formats(Pieces(90.0, 20.0, 90.0, 900.0), max_clients=150), max_clients=150)

    @partial(jax.jit, static_argnums=0)
    def sums(sharing, clients):
        totals = {link: cohort_sum.accumulate(
            model, factors, clients, channel=link, sharing=sharing)[0] for link in (None, exact)}
        return [accumulation.accumulation_of(link).read(model, factors, totals[link]) for link in totals]

    whole = sums(None, host)
    parts = sums(server_placement.Sharing(mesh, "clients"), parallel.place_clients(host, mesh))
    for name, one, other in zip(("sums in floating point", "in integers"), whole, parts):
        assert not other.upload.is_fully_replicated
        errors[name] = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in (
            (one.upload, parallel.fetch(other.upload)), (one.user_gram, parallel.fetch(other.user_gram)),
            (one.confidence_sum, parallel.fetch(other.confidence_sum))))

    # in a shard_map of one's own, light confidences and heavy ones
    mesh = jax.make_mesh((8,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = parallel.place_clients(host, parallel.client_mesh(8))

    def upload(alpha, item_factors, mine):
        heavy = model._replace(weighting=fcf.implicit_feedback(alpha=alpha))
        return fcf.cohort_sum(heavy, item_factors, mine)[0].upload

    @jax.jit
    @jax.shard_map(
        mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), chunk_specs()), out_specs=PartitionSpec())
    def total(alpha, item_factors, mine):
        return jax.lax.psum(upload(alpha, item_factors, mine), "clients")

    one_device = jax.jit(upload)
    for alpha in (1.0, 1000.0):
        expected = one_device(alpha, filled[:39], host)
        error = np.abs(np.asarray(total(alpha, filled[:39], placed)) - expected).max()
        errors[f"shard_map, alpha {alpha}"] = float(error / np.abs(expected).max())
    print(json.dumps(errors))
"""


def test_eight_devices_agree_with_one():
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_EIGHT_DEVICES)], capture_output=True, text=True, timeout=240
    )
    assert output.returncode == 0, output.stderr[-2000:]
    errors = json.loads(output.stdout.splitlines()[-1])
    assert len(errors) == 8
    assert max(errors.values()) <= 1e-5, errors  # float32 sums in another order


def test_a_mesh_that_cannot_be_is_named():
    with pytest.raises(ValueError, match="expected 1 to 1 devices, got num_devices 2"):
        client_mesh(2)
    with pytest.raises(ValueError, match="expected item_shards to divide the 1 device, got 2"):
        client_mesh(1, item_shards=2)
    jax.devices()
    with pytest.raises(ValueError, match="call use_cpu_devices first of all"):
        use_cpu_devices(2)


def test_memory_that_the_compiler_has_freed_goes_back(monkeypatch):
    trimmed = []
    fake = SimpleNamespace(malloc_trim=trimmed.append)
    monkeypatch.setattr(mesh_module.ctypes, "CDLL", lambda name: fake)
    monkeypatch.setattr(mesh_module, "_LONG_COMPILATION", 0.0)
    mesh_module._return_memory_of_the_compiler.__wrapped__()
    jax.jit(lambda number: number * 2.5 + 1.25).lower(1.0).compile()
    assert trimmed and set(trimmed) == {0}


def test_limit_one_device_recovers_no_mesh(small):
    mesh, key = client_mesh(1), jax.random.key(3)
    plain, meshed = (
        federated_cf(MODEL, optax.adam(0.1), num_items=17, num_factors=3, mesh=one) for one in (None, mesh)
    )
    expected, _ = run_rounds(plain, key, plain.init(key), small.clients, num_rounds=3)
    state, _ = run_rounds(
        meshed, key, place_state(meshed.init(key), mesh), place_clients(small.clients, mesh), num_rounds=3
    )
    np.testing.assert_allclose(
        state.item_factors, expected.item_factors, rtol=1e-5, atol=1e-6
    )  # fused otherwise
