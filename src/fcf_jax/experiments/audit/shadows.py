"""Attack of an audit on the published item factors, by shadow models of the configured run."""

from dataclasses import replace

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array
from scipy.sparse import csr_array

from fcf_jax.channel import Link, Uploads, chain, link
from fcf_jax.core.federation import Federation, setup_of
from fcf_jax.core.packing import pack_clients
from fcf_jax.experiments.audit.attacks import Figures
from fcf_jax.experiments.audit.bounds import TPR_OF_MEMBERS
from fcf_jax.experiments.audit.scene import Scene
from fcf_jax.experiments.build.histories import release_item_counts, trained_histories, weights_of_counts
from fcf_jax.parallel.batch import run_side_by_side
from fcf_jax.privacy.attacks import figures, published_model
from fcf_jax.privacy.attacks.knowledge import weigh
from fcf_jax.privacy.limits import in_out_auc_ceiling


def membership(scene: Scene, *, num_models: int) -> Figures:
    """Train shadow models under the configured mode, each on half of the users, and attack each of them."""
    is_member = published_model.draw_halves(num_models, scene.problem.train.num_users)
    losses = [
        published_model.losses_of(scene.public._replace(item_factors=one), scene.problem.train)
        for one in _train(scene, is_member)
    ]
    found = published_model.membership_of(np.stack(losses), is_member)
    has_ceiling = scene.noise_multiplier > 0 and scene.config.federation.cohort_size is None
    ceiling = in_out_auc_ceiling(scene.noise_multiplier, scene.num_rounds) if has_ceiling else 1.0
    return {"auc": found.auc, "auc_ceiling": figures.exactly(ceiling), TPR_OF_MEMBERS: found.tpr}


def _train(scene: Scene, is_member: np.ndarray) -> np.ndarray:
    """Train a model on the members of each row, side by side; return [models, items, factors]."""
    problem, privacy = scene.problem, scene.config.privacy
    keys = jax.vmap(jax.random.key)(np.arange(len(is_member)))
    weights = _item_weights(scene)

    def make_federation(numbers: tuple[Array, Array]) -> Federation:
        members, confidences = numbers
        federation = problem.federation(item_weights=weights, confidences=confidences)
        return _with_first_link(federation, link(client=Partial(_leave_out, members)))

    states, _ = run_side_by_side(
        make_federation,
        keys,
        (jnp.asarray(is_member, jnp.float32), _confidences(scene, is_member)),
        pack_clients(trained_histories(privacy, problem.train, seed=scene.config.data.seed)),
        num_rounds=scene.num_rounds,
    )
    return np.asarray(states.item_factors, np.float64)


def _with_first_link(federation: Federation, first: Link) -> Federation:
    """Let uploads pass a link before the channel."""
    setup = setup_of(federation)
    setup = replace(setup, channel=first if setup.channel is None else chain(first, setup.channel))
    init, run_round = (part.func for part in federation)
    return Federation(init=Partial(init, setup), round=Partial(run_round, setup))


def _leave_out(members: Array, key: Array | None, state: tuple, uploads: Uploads) -> Uploads:
    present = members.at[uploads.client_ids].get(mode="fill", fill_value=0.0)
    return uploads._replace(weights=uploads.weights * present.astype(uploads.weights.dtype))


def _confidences(scene: Scene, is_member: np.ndarray) -> Array:
    """Sum c - w0 over the members of each model, [models, items]."""
    train = scene.problem.train
    confidence, _ = weigh(scene.public, np.asarray(train.strengths, np.float64))
    extra = confidence - scene.public.unobserved_weight
    held = csr_array((extra, (train.user_ids, train.item_ids)), shape=(train.num_users, train.num_items))
    return jnp.asarray(is_member.astype(np.float64) @ held, jnp.float32)


def _item_weights(scene: Scene) -> np.ndarray | None:
    """Return the weights of learned items; their counts have the noise of a fixed key."""
    protection, seed = scene.problem.protection, scene.config.data.seed
    if protection is None or not protection.privacy.needs_item_counts:
        return None
    counts = release_item_counts(protection, scene.problem.train, jax.random.key(0), seed=seed)
    return weights_of_counts(protection.privacy, counts)
