"""On two devices: sums and training in words to the bit of one device, and runs that stay where they are."""

import os
import subprocess
import sys
import textwrap

import pytest

IN_ONE_PROCESS = """
    import random
    import jax, numpy as np, optax, threadpoolctl
    import fcf_jax as fcf
    from fcf_jax.channel import Pieces, chain, choose_formats, dropouts, fixed_point
    from fcf_jax.data import simulate_taste
    from fcf_jax.parallel import buffered_rounds, rows_of_waves, simulate
    from fcf_jax.parallel import client_mesh, place_clients, place_state, run_rounds_streamed, use_cpu_devices
    from fcf_jax.parallel.batch import map_runs, place_runs, run_mesh
    from fcf_jax.parallel.mesh import fetch
    from fcf_jax.privacy.secure_sum import Encoding, RoundTerms, SumRules, secure_cohort_sum

    use_cpu_devices(2)
    mesh, key = client_mesh(2), jax.random.key(0)
    interactions = simulate_taste(num_users=70, num_items=23, mean_history=7, seed=0)
    host = fcf.pack_clients(interactions, row_width=4, chunk_slots=64, chunk_clients=9, num_shares=2)
    formats = choose_formats(Pieces(90.0, 20.0, 90.0, 900.0), max_clients=70)
    channel = fixed_point(formats, max_clients=70)
    model, y = fcf.Model(fcf.implicit_feedback(alpha=1.0), 1.0), jax.random.normal(key, (23, 4))
    gram = fcf.optimizers.guarded_gram()

    def trained(mesh, streamed=False):
        federation = fcf.federated_cf(
            model, gram, channel=channel, num_items=23, num_factors=4, mesh=mesh
        )
        state = federation.init(key) if mesh is None else place_state(federation.init(key), mesh)
        if streamed:
            state, info = run_rounds_streamed(federation, key, state, host, num_rounds=5, block_chunks=2)
        else:
            clients = host if mesh is None else place_clients(host, mesh)
            state, info = fcf.run_rounds(federation, key, state, clients, num_rounds=5)
        return fetch(state.item_factors), fetch(info.loss)

    def masked(mesh):
        terms = RoundTerms(0, SumRules(min_cohort=50), entropy=random.Random(0).randbytes)
        dropped = range(0, 70, 9)
        return secure_cohort_sum(model, y, host, Encoding(formats), terms, dropped=dropped, mesh=mesh)[0]

    def check_training():
        one = trained(None)
        assert np.isfinite(one[0]).all() and np.isfinite(one[1]).all()
        for other in (trained(mesh), trained(None, streamed=True), trained(mesh, streamed=True)):
            jax.tree.map(np.testing.assert_array_equal, one, other)

    def check_asynchronous():
        seconds = np.random.default_rng(0).lognormal(size=70)
        timetable = simulate(key, seconds, num_rounds=4, buffer_size=10, concurrency=30)

        def trained(mesh):
            federation = buffered_rounds(fcf.federated_cf(
                model, optax.sgd(1e-3), channel=chain(dropouts(0.3), channel), cohort_size=10, mesh=mesh,
                num_items=23, num_factors=4,
            ), timetable)
            state = federation.init(key) if mesh is None else place_state(federation.init(key), mesh)
            clients, num_shares = (host, 1) if mesh is None else (place_clients(host, mesh), 2)
            rows = rows_of_waves(timetable, host, num_shares=num_shares)
            return fetch(fcf.run_rounds(
                federation, key, state, clients, num_rounds=4, row_capacity=rows)[0].item_factors)

        np.testing.assert_array_equal(trained(None), trained(mesh))

    def check_features():
        clients = fcf.pack_clients(
            interactions, row_width=4, chunk_slots=64, num_shares=2, features=np.eye(70, 3)
        )
        total = jax.jit(fcf.cohort_sum, static_argnames="mesh")
        start = jax.random.normal(key, (3, 4))
        one = total(model, y, clients, user_map=start)
        two = total(model, y, place_clients(clients, mesh), user_map=start, mesh=mesh)
        for pair in zip(jax.tree.leaves(one[0]), jax.tree.leaves(two[0]), strict=True):
            np.testing.assert_allclose(*map(fetch, pair), rtol=1e-5, atol=1e-5)

    def check_secure_sum():
        jax.tree.map(np.testing.assert_array_equal, masked(None), masked(mesh))

    def check_blas():
        libraries = [one for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]
        assert libraries and all(one["num_threads"] == 1 for one in libraries), libraries

    def check_runs():
        runs_on = run_mesh()
        multiply = jax.numpy.multiply
        compiled = jax.jit(lambda of_each, factor: map_runs(multiply, of_each, (factor,), mesh=runs_on))
        for num_runs in (4, 3):  # even, and not
            runs = place_runs((jax.numpy.arange(num_runs),), runs_on)
            tripled = compiled(runs, 3)
            assert tripled.tolist() == [3 * run for run in range(num_runs)]
            assert tripled.sharding == runs[0].sharding, (tripled.sharding, runs[0].sharding)
            assert len(tripled.sharding.device_set) == 2

    checks = check_training, check_features, check_asynchronous, check_secure_sum, check_blas, check_runs
    for check in checks:
        check()
        print(check.__name__, flush=True)
"""


CHECKS = [
    "check_training", "check_features", "check_asynchronous", "check_secure_sum", "check_blas", "check_runs",
]  # fmt: skip


@pytest.fixture(scope="module")
def outcome():
    """What a process says that sees the CPU as two devices: the checks that it passed, and its errors."""
    as_by_default = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # rounds alike in all
    code = [sys.executable, "-c", textwrap.dedent(IN_ONE_PROCESS)]
    return subprocess.run(code, capture_output=True, text=True, timeout=230, env=as_by_default)


@pytest.mark.parametrize("check", CHECKS)
def test_two_devices_compute_what_one_does_to_the_bit(outcome, check):
    """Sums and training in fixed point, streamed or asynchronous; sums with masks; runs, which stay in place.

    With features, which have no fixed point, up to rounding.
    LAPACK keeps to one thread meanwhile.
    """
    assert check in outcome.stdout.split(), outcome.stderr[-2000:]
