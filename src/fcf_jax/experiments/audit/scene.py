"""Setting of an audit: a briefly trained model, its clients, and what the server sees of them."""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Bool, Float

from fcf_jax import optimizers
from fcf_jax.channel import Link, Pieces, clip_factor, joint_norm
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import CohortSum
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.histories import sent_histories
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.config.protection import Protection
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.attacks import knowledge
from fcf_jax.privacy.attacks.knowledge import Public, weigh

ROUNDS_BEFORE = 10  # trained with all clients and the guarded Gram step before the attacked round
LARGEST_SUM = 2000  # clients; larger sums, which reveal less, are attacked as sums of this size
_CHUNK = 50  # clients computed at a time


class Scene(NamedTuple):
    """Setting of all attacks of an audit.

    Attributes:
        problem: of the run.
        train: histories that the uploads are computed from.
        public: what every attacker knows.
        user_ids: users whose single uploads are attacked.
    """

    problem: Problem
    train: Interactions
    public: Public
    user_ids: np.ndarray

    @property
    def config(self) -> ExperimentConfig:
        """The configuration of the run."""
        return self.problem.config

    @property
    def protection(self) -> Protection:
        """Differential privacy of the run; only for modes with noise."""
        assert self.problem.protection is not None
        return self.problem.protection

    @property
    def channel(self) -> Link | None:
        """The link that clips and adds noise; None without noise."""
        return None if self.problem.protection is None else self.problem.protection.link()

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return self.problem.cohort_size

    @property
    def num_rounds(self) -> int:
        """Rounds of the run, at least 1."""
        return max(self.problem.schedule.num_rounds, 1)

    @property
    def noise_multiplier(self) -> float:
        """Sigma; 0 without noise."""
        return 0.0 if self.problem.protection is None else self.problem.protection.noise_multiplier

    @property
    def noise_scale(self) -> float:
        """Standard deviation of the noise on each number of F."""
        return self.noise_multiplier * self.config.privacy.clip_norm

    @property
    def quantum(self) -> float:
        """Unit of an upload in fixed point; 0 in floating point."""
        number = None if self.problem.formats is None else self.problem.formats.upload
        return 0.0 if number is None else 2.0**-number.fraction_bits

    @property
    def common_strength(self) -> float | None:
        """Strength of all interactions; None if they differ."""
        strengths = self.train.strengths
        return float(strengths[0]) if strengths.size and np.ptp(strengths) == 0 else None

    @property
    def sends_gram(self) -> bool:
        """Whether the server step asks for A = sum x x^T."""
        return self.config.server.spec.asks_for_gram


class Sent(NamedTuple):
    """Unprotected uploads of some clients, and the truth behind them.

    Attributes:
        residuals: e of every item.
        user_factors: x.
        is_held: whether the client holds an item.
        strengths: r, 0 where not held.
    """

    residuals: Float[np.ndarray, "clients items"]
    user_factors: Float[np.ndarray, "clients factors"]
    is_held: Bool[np.ndarray, "clients items"]
    strengths: Float[np.ndarray, "clients items"]


class Seen(NamedTuple):
    """Sum that the server receives; None for pieces that the step does not ask for.

    Attributes:
        upload: F.
        user_gram: A.
        confidence_sum: sum of c - w0.
    """

    upload: Float[np.ndarray, "items factors"]
    user_gram: Float[np.ndarray, "factors factors"] | None
    confidence_sum: Float[np.ndarray, "items"] | None


def set_scene(problem: Problem, *, max_users: int) -> Scene:
    """Train a model briefly without protection, and choose the users to attack."""
    config = problem.config
    train = sent_histories(problem.protection, problem.train, seed=config.data.seed)
    alpha = config.model.alpha if config.data.feedback == "implicit" else None
    public = Public(
        item_factors=np.asarray(_train(problem, train), np.float64),
        regularization=config.model.regularization,
        unobserved_weight=config.model.unobserved_weight,
        alpha=alpha,
        mean_rating=problem.dataset.mean_rating,
    )
    user_ids = np.random.default_rng(0).permutation(train.num_users)[:max_users]
    return Scene(problem, train, public, user_ids)


def _train(problem: Problem, train: Interactions) -> np.ndarray:
    """Train item factors without protection, so that the attacked round is not the first."""
    clients, key = pack_clients(train), jax.random.key(0)
    federation = federated_cf(
        problem.model,
        optimizers.guarded_gram(),
        num_items=train.num_items,
        num_factors=problem.config.model.num_factors,
        init_scale=problem.config.model.init_scale,
    )
    state, _ = run_rounds(federation, key, federation.init(key), clients, num_rounds=ROUNDS_BEFORE)
    return np.asarray(state.item_factors)


def send(scene: Scene, user_ids: np.ndarray) -> Sent:
    """Compute the uploads of these users, in chunks of one size so that a single program serves all."""
    item_factors = jnp.asarray(scene.public.item_factors, jnp.float32)
    parts = []
    for start in range(0, len(user_ids), _CHUNK):
        some = np.resize(user_ids[start : start + _CHUNK], _CHUNK)  # the last chunk is filled up with repeats
        clients = knowledge.histories(scene.train, some)
        parts.append(knowledge.uploads_of(scene.problem.model, item_factors, clients))
    residuals, factors = (np.concatenate(column)[: len(user_ids)] for column in zip(*parts, strict=True))
    return Sent(residuals, factors, *knowledge.held_and_strengths(scene.train, user_ids))


def _extra_confidence(scene: Scene, sent: Sent) -> np.ndarray:
    """Compute c - w0 of each client, [clients, items]."""
    confidence, _ = weigh(scene.public, sent.strengths)
    return np.where(sent.is_held, confidence - scene.public.unobserved_weight, 0.0)


def _norms(scene: Scene, sent: Sent) -> Pieces:
    """Compute the norms of the pieces that each client sends; under noise it never sends its loss."""
    lengths = np.linalg.norm(sent.user_factors, axis=1)
    return Pieces(
        upload=jnp.asarray(np.linalg.norm(sent.residuals, axis=1) * lengths),
        user_gram=jnp.asarray(lengths**2),
        confidence_sum=jnp.asarray(np.linalg.norm(_extra_confidence(scene, sent), axis=1), jnp.float32),
        loss=jnp.zeros(len(lengths)),
    )


def clip_factors(scene: Scene, sent: Sent) -> np.ndarray:
    """Compute the factor a_u that clips each client to the first clip norms; 1 if nothing is clipped."""
    protection = scene.problem.protection
    if protection is None:
        return np.ones(len(sent.residuals), np.float32)
    return np.asarray(clip_factor(_norms(scene, sent), protection.clip_norms))


def signal_sizes(scene: Scene, sent: Sent) -> np.ndarray:
    """Compute how far each client moves the noised sums, over all pieces, in clip norms: at most 1."""
    return np.minimum(np.asarray(joint_norm(_norms(scene, sent), scene.protection.clip_norms)), 1.0)


def sum_of(scene: Scene, sent: Sent) -> Seen:
    """Sum the uploads as the server receives them: clipped and noised if the mode asks for it."""
    factors = clip_factors(scene, sent)
    clipped = factors[:, None] * sent.user_factors
    sums = CohortSum(
        upload=jnp.asarray(_summed_uploads(scene, sent, clipped)),
        user_gram=jnp.asarray(sent.user_factors.T @ clipped),
        confidence_sum=jnp.asarray(factors @ _extra_confidence(scene, sent), jnp.float32),
        loss=jnp.zeros(()),
        num_clients=jnp.asarray(len(factors)),
        num_clipped=jnp.asarray(np.count_nonzero(factors < 1)),
    )
    if (channel := scene.channel) is not None:
        sums, _ = channel.server(jax.random.key(len(factors)), channel.init(), sums)
    has_gram, sent_when = scene.sends_gram, scene.config.sent_confidences
    everybody = scene.config.federation.cohort_among(scene.train.num_users) is None
    has_confidence = sent_when == "each_round" or (sent_when == "once" and everybody)
    return Seen(
        np.asarray(sums.upload),
        np.asarray(sums.user_gram) if has_gram else None,
        np.asarray(sums.confidence_sum) if has_confidence else None,
    )


def _summed_uploads(scene: Scene, sent: Sent, clipped: np.ndarray) -> np.ndarray:
    """Add up uploads in float32, or each rounded to fixed point, as their rows are sent."""
    if not scene.quantum:
        return sent.residuals.T @ clipped
    if not scene.sends_gram:
        return _rounded_sum(scene, sent.residuals, clipped)
    unobserved = scene.public.unobserved_weight * scene.public.item_factors
    seen = np.where(sent.is_held, sent.residuals + sent.user_factors @ unobserved.T, 0.0)
    return _rounded_sum(scene, seen, clipped) - unobserved @ (sent.user_factors.T @ clipped)


def _rounded_sum(scene: Scene, weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    total = np.zeros((weights.shape[1], factors.shape[1]))
    for weight, factor in zip(weights, factors, strict=True):
        total += np.round(weight[:, None] * factor / scene.quantum)
    return total * scene.quantum


def cohorts(scene: Scene, size: int, *, num_cohorts: int) -> list[np.ndarray]:
    """Draw cohorts at random; only one if it has all users."""
    rng, num_users = np.random.default_rng(size), scene.train.num_users
    count = 1 if size == num_users else num_cohorts
    return [rng.choice(num_users, size, replace=False) for _ in range(count)]
