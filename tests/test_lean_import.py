"""What `import fcf_jax` needs: JAX, optax, NumPy and jaxtyping; everything else only where it is used."""

import subprocess
import sys
import textwrap

BLOCKED = [
    "cryptography", "dp_accounting", "filelock", "jinja2", "matplotlib", "optuna", "pandas", "pooch",
    "pyarrow", "pydantic", "requests", "rich", "scipy", "tomli_w", "typer",
]  # fmt: skip
WITH_THEM_BLOCKED = """
    import importlib.abc, json, sys

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] in BLOCKED:
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocker())
    import jax, numpy as np, optax
    import fcf_jax as fcf

    devices_at_import = jax._src.xla_bridge.backends_are_initialized()
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((30, 20)) < 0.4)
    is_test = rng.random(users.size) < 0.2
    train, test = (
        fcf.Interactions.from_arrays(users[part], items[part], num_users=30, num_items=20)
        for part in (~is_test, is_test)
    )
    model = fcf.Model(fcf.implicit_feedback(alpha=4.0), regularization=1.0)
    noisy = fcf.channel.clip_and_noise(
        clip_norms=fcf.channel.Pieces(20.0, None, None, None), noise_multiplier=0.1, expected_cohort_size=10.0
    )
    clients, key = fcf.pack_clients(train), jax.random.key(0)
    for options in ({}, {"cohort_size": 10, "channel": noisy}):
        federation = fcf.federated_cf(model, optax.adam(0.05), num_items=20, num_factors=3, **options)
        state, info = fcf.run_rounds(federation, key, federation.init(key), clients, num_rounds=2)
        assert np.isfinite(info.gradient_norm).all()
    item_factors, _ = fcf.als.fit_als(key, model, clients, fcf.pack_items(train), num_factors=3, num_sweeps=2)
    metrics = fcf.evaluate(model, item_factors, train, test)
    found = fcf.evaluation.recommend(item_factors, np.ones(3, np.float32), [0], k=3)
    assert 0 <= metrics["recall_at_10"] <= 1 and len(found.item_ids) == 3
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(BLOCKED))
    print(json.dumps([devices_at_import, loaded]))
"""


def test_import_and_rounds_need_no_other_package():
    code = f"BLOCKED = {BLOCKED}\n{textwrap.dedent(WITH_THEM_BLOCKED)}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "[false, []]"  # and importing starts no device
