"""What an audit looks at: a model trained a little, clients, and what their server gets to see."""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.records import CohortSum, Mechanism, SentNorms, Weighting
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.dataset import Dataset, weighting_of
from fcf_jax.experiments.build.item_release import sent_histories
from fcf_jax.experiments.build.models import model_options, weights_of
from fcf_jax.experiments.build.privacy import (
    clip_norms_of,
    configured_mechanism,
    has_noise,
    noise_multiplier_of,
)
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import GRAM_STEPS, confidence_factor
from fcf_jax.optimizers import guarded_gram
from fcf_jax.privacy.attacks import views
from fcf_jax.privacy.attacks.knowledge import Floats, Public, weigh
from fcf_jax.privacy.mechanism import joint_norm

ROUNDS_BEFORE = 10  # of the guarded Gram step with everybody: the attacked rounds are not the first
_CHUNK = 50  # clients that send at a time
LARGEST_SUM = 2000  # clients; larger sums, which tell less, are attacked as sums of so many


class Scene(NamedTuple):
    """The setting of all attacks of an audit."""

    config: ExperimentConfig
    train: Interactions
    weighting: Weighting
    public: Public
    user_ids: Floats  # the users whose own uploads are attacked
    noise_multiplier: float  # sigma; 0 without noise
    mechanism: Mechanism | None

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return min(self.config.federation.cohort_size or self.train.num_users, self.train.num_users)

    @property
    def num_rounds(self) -> int:
        """Rounds of a run, in which a client may be seen."""
        return max(self.config.federation.num_rounds, 1)

    @property
    def noise_scale(self) -> float:
        """Standard deviation of the noise on each number of F."""
        return self.noise_multiplier * self.config.privacy.clip_norm


class Sent(NamedTuple):
    """What some clients send, before anything protects it, and the truth behind it."""

    residuals: Floats  # [clients, items], float32
    user_factors: Floats  # [clients, factors], float32
    is_held: Floats  # bool [clients, items]
    strengths: Floats  # [clients, items], 0 where not held


class Seen(NamedTuple):
    """What the server gets of a sum; None for what the step does not ask for."""

    upload: Floats  # [items, factors]
    user_gram: Floats | None
    confidence_sum: Floats | None


def set_scene(config: ExperimentConfig, dataset: Dataset, *, max_users: int) -> Scene:
    """Train a little in the clear, choose whom to attack, and calibrate the noise."""
    train = sent_histories(config, dataset.split.train)
    weighting = weighting_of(config, dataset.mean_rating)
    item_factors = _trained(config, weighting, train)
    alpha = config.model.alpha if config.data.feedback == "implicit" else None
    model = config.model
    public = Public(
        np.asarray(item_factors, np.float64),
        model.regularization,
        model.unobserved_weight,
        alpha,
        dataset.mean_rating,
    )
    user_ids = np.random.default_rng(0).permutation(train.num_users)[:max_users]
    sigma, mechanism = _noise(config, num_users=train.num_users)
    return Scene(config, train, weighting, public, user_ids, sigma, mechanism)


def _trained(
    config: ExperimentConfig, weighting: Weighting, train: Interactions
) -> Float[Array, "items factors"]:
    """Run the rounds before the attacked ones."""
    optimizer = guarded_gram(**weights_of(config))
    federation = federated_cf(optimizer, weighting, **model_options(config, num_items=train.num_items))
    key = jax.random.key(0)
    clients, start = batch_clients(train), federation.init(key)
    return run_rounds(federation, key, start, clients, num_rounds=ROUNDS_BEFORE)[0].item_factors


def _noise(config: ExperimentConfig, *, num_users: int) -> tuple[float, Mechanism | None]:
    if not has_noise(config):
        return 0.0, None
    sigma = noise_multiplier_of(config, num_users=num_users)
    privacy = config.privacy.model_copy(update={"noise_multiplier": sigma})  # calibrating takes seconds
    return sigma, configured_mechanism(config.model_copy(update={"privacy": privacy}), num_users=num_users)


def send(scene: Scene, user_ids: Floats) -> Sent:
    """Let these clients solve and send, so many at a time, which compiles one program for all sizes."""
    item_factors = jnp.asarray(scene.public.item_factors, jnp.float32)
    model = scene.config.model
    parts = []
    for start in range(0, len(user_ids), _CHUNK):
        some = np.resize(user_ids[start : start + _CHUNK], _CHUNK)  # repeats some to fill up the last
        clients = views.histories(scene.train, some)
        weights = model.regularization, model.unobserved_weight
        parts.append(views.uploads_of(item_factors, clients, scene.weighting, *weights))
    residuals, factors = (np.concatenate(column)[: len(user_ids)] for column in zip(*parts, strict=True))
    return Sent(residuals, factors, *views.held_and_strengths(scene.train, user_ids))


def extra_confidence(scene: Scene, sent: Sent) -> Floats:
    """Compute c - w0 of each client, [clients, items]."""
    confidence, _ = weigh(scene.public, sent.strengths)
    return np.where(sent.is_held, confidence - scene.public.unobserved_weight, 0.0)


def norms_of(scene: Scene, sent: Sent) -> SentNorms:
    """Measure what each client sends; its loss is never sent under noise."""
    lengths = np.linalg.norm(sent.user_factors, axis=1)
    return SentNorms(
        upload=jnp.asarray(np.linalg.norm(sent.residuals, axis=1) * lengths),
        user_gram=jnp.asarray(lengths**2),
        confidence_sum=jnp.asarray(np.linalg.norm(extra_confidence(scene, sent), axis=1), jnp.float32),
        loss=jnp.zeros(len(lengths)),
    )


def clip_factors(scene: Scene, sent: Sent) -> Floats:
    """Compute a_u of each client, with clip norms as they begin; 1 where nothing is clipped."""
    if scene.mechanism is None:
        return np.ones(len(sent.residuals), np.float32)
    return np.asarray(scene.mechanism.clip(scene.mechanism.init(), norms_of(scene, sent)))


def signal_sizes(scene: Scene, sent: Sent) -> Floats:
    """Compute how far each client moves the sums, all pieces together, in clip norms: at most 1."""
    return np.minimum(np.asarray(joint_norm(norms_of(scene, sent), clip_norms_of(scene.config))), 1.0)


def sends_gram(config: ExperimentConfig) -> bool:
    """Say whether the server step asks for A = sum x x^T."""
    return config.server.step in GRAM_STEPS


def sum_of(scene: Scene, sent: Sent) -> Seen:
    """Sum up what these clients send, as the server gets it."""
    factors = clip_factors(scene, sent)
    clipped = factors[:, None] * sent.user_factors
    sums = CohortSum(
        upload=jnp.asarray(sent.residuals.T @ clipped),
        user_gram=jnp.asarray(sent.user_factors.T @ clipped),
        confidence_sum=jnp.asarray(factors @ extra_confidence(scene, sent), jnp.float32),
        loss=jnp.zeros(()),
        num_clients=jnp.asarray(len(factors)),
        num_clipped=jnp.asarray(np.count_nonzero(factors < 1)),
    )
    if scene.mechanism is not None:
        key = jax.random.key(len(factors))
        sums, _ = scene.mechanism.release(key, scene.mechanism.init(), sums)
    has_gram, has_confidence = sends_gram(scene.config), confidence_factor(scene.config) > 0
    return Seen(
        np.asarray(sums.upload),
        np.asarray(sums.user_gram) if has_gram else None,
        np.asarray(sums.confidence_sum) if has_gram and has_confidence else None,
    )


def cohorts(scene: Scene, size: int, *, num_cohorts: int) -> list[Floats]:
    """Draw cohorts at random; one only where it is everybody."""
    rng, num_users = np.random.default_rng(size), scene.train.num_users
    count = 1 if size == num_users else num_cohorts
    return [rng.choice(num_users, size, replace=False) for _ in range(count)]
