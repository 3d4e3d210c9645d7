import jax

from fcf_jax import als
from fcf_jax.core.packing import batch_clients, batch_items
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.data import simulate_taste
from fcf_jax.experiments.build.baseline import MIN_SWEEPS, converge_als
from fcf_jax.parallel.mesh import client_mesh, place_clients


def test_all_sweeps_are_one_program_on_a_mesh_as_well():
    interactions = simulate_taste(num_users=30, num_items=12, mean_history=5, seed=0)
    mesh = client_mesh(1)
    clients = place_clients(batch_clients(interactions), mesh)
    items = place_clients(batch_items(interactions), mesh)
    model = {"num_items": 12, "num_factors": 3, "regularization": 1.0, "mesh": mesh}
    before = als._scan_sweeps._cache_size()
    baseline = converge_als(
        als.centralized_als(implicit_feedback(alpha=1.0), **model), jax.random.key(0), clients, items
    )
    assert len(baseline.losses) >= MIN_SWEEPS and baseline.losses[-1] < baseline.losses[0]
    assert als._scan_sweeps._cache_size() == before + 1
