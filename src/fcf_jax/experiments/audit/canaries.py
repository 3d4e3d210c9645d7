"""Audit by canaries: whole runs with noise, with and without one client, and what tells them apart.

A small population is trained by the configured rounds, server step and noise, many times with a canary and as
often without. The attacker knows everybody else's uploads and what the canary would send, which is clipped to
its whole clip norm. The score of a run is the exact log likelihood ratio of all that was released.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from fcf_jax.channel import Link, Pieces, Uploads, chain, clip_and_noise, link
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.federation import Federation, federated_cf
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import CohortSum, Key, Model, PackedClients, Scalar, ServerState
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.config.schema import ServerConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.privacy.accounting import Participation, epsilon
from fcf_jax.privacy.attacks import figures
from fcf_jax.privacy.attacks.figures import Figure
from fcf_jax.privacy.empirical import epsilon_at_least, gaussian_epsilon_at_least

CANARY_FIGURES = ("epsilon_low", "epsilon_low_gaussian", "epsilon_claimed")
_NUM_USERS = 40  # of the population, the canary included
_ITEMS_PER_FACTOR = 4  # of its catalogue; the canary holds half of it, more than its factor can fit
_LARGEST_FACTOR = 3.0  # in absolute value
_STRENGTH = 100.0  # of the canary's interactions, so that its upload exceeds every clip norm


class CanaryAudit(NamedTuple):
    """Outcome of an audit by canaries.

    Attributes:
        num_worlds: runs with the canary, and as many without.
        epsilon_claimed: of the audited run, by the accountant.
        epsilon_low: lower bound at 95 % confidence, whatever the mechanism.
        epsilon_low_gaussian: likewise, if the run is one Gaussian mechanism; None for sampled cohorts.
        delta: of all of them.
        signal: mean length of what the canary adds to a sum, in clip norms.
    """

    num_worlds: int
    epsilon_claimed: float
    epsilon_low: float
    epsilon_low_gaussian: float | None
    delta: float
    signal: float

    @property
    def figures(self) -> dict[str, Figure]:
        """The bounds and the claim, as figures of an attack."""
        values = {name: getattr(self, name) for name in CANARY_FIGURES}
        return {name: figures.exactly(math.nan if one is None else one) for name, one in values.items()}

    @property
    def highest(self) -> float:
        """The higher of the lower bounds."""
        return max(self.epsilon_low, self.epsilon_low_gaussian or 0.0)

    @property
    def exceeds_claim(self) -> bool:
        """Whether more is lost than is claimed."""
        return self.highest > self.epsilon_claimed

    @property
    def sentence(self) -> str:
        """What was found, beside what is claimed."""
        gaussian = self.epsilon_low_gaussian
        known = "" if gaussian is None else f", {gaussian:.3g} for Gaussian noise"
        found = "EXCEEDS" if self.exceeds_claim else "is within"
        return (
            f"Canaries: from {self.num_worlds} runs with a client and as many without, epsilon is at least "
            f"{self.epsilon_low:.3g}{known} (95 %), at delta {self.delta:.2g}; this {found} the "
            f"{self.epsilon_claimed:.3g} that the accountant claims."
        )


class _Setting(NamedTuple):
    """What all runs share, static under `jit`.

    Attributes:
        server: section of the configuration.
        who: participation.
        clip_norms: C_f.
        num_rounds: T.
        num_items: M.
        num_factors: K.
        init_scale: of the first item factors.
    """

    server: ServerConfig
    who: Participation
    clip_norms: Pieces[float | None]
    num_rounds: int
    num_items: int
    num_factors: int
    init_scale: float

    def noise(self, noise_multiplier: Scalar) -> Link:
        """Build the link that clips and adds noise."""
        return clip_and_noise(
            clip_norms=self.clip_norms,
            noise_multiplier=noise_multiplier,
            expected_cohort_size=self.who.cohort_size,
        )

    def federation(self, model: Model, channel: Link) -> Federation:
        """Set up the rounds of the population."""
        is_sampled = self.who.sampling == "poisson"
        return federated_cf(
            model,
            self.server.optimizer(self.num_rounds),
            num_items=self.num_items,
            num_factors=self.num_factors,
            cohort_size=self.who.cohort_size if is_sampled else None,
            sampling="poisson" if is_sampled else "independent",
            init_scale=self.init_scale,
            channel=channel,
        )


def refuse_unauditable(problem: Problem) -> None:
    """Refuse protection whose likelihood ratio is not computed here.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    protection = problem.protection
    if protection is None or protection.privacy.spec.noise_on != "sum":
        raise ConfigError(
            f"privacy.mode: --canaries expects noise on a sum, got {problem.config.privacy.mode}; set "
            'privacy.mode = "central_noise" or "distributed_noise"'
        )
    if protection.privacy.clipping != "static":
        raise ConfigError('privacy.clipping: --canaries expects fixed clip norms; set it to "static"')
    if protection.participation.sampling == "fixed_size":
        raise ConfigError(
            "federation.sampling: --canaries expects clients that take part independently of each other; set "
            'it to "poisson"'
        )
    if problem.config.federation.num_rounds == 0:
        raise ConfigError("federation.num_rounds: --canaries expects at least 1 round, got 0; raise it")


def audit_canaries(
    problem: Problem, *, num_worlds: int, seed: int = 0, actual_noise: float | None = None
) -> CanaryAudit:
    """Simulate runs with and without a canary, and bound epsilon from below.

    Args:
        problem: accepted by `refuse_unauditable`.
        num_worlds: runs with the canary, and as many without, at least 1.
        seed: of the population and the runs.
        actual_noise: noise multiplier of the runs, if it is not the one that is claimed: a test of the audit.
    """
    protection, config = problem.protection, problem.config
    assert protection is not None
    who, claimed = _participation(protection.participation), protection.noise_multiplier
    num_items = min(max(40, _ITEMS_PER_FACTOR * config.model.num_factors), problem.train.num_items)
    setting = _Setting(
        server=config.server,
        who=who,
        clip_norms=protection.clip_norms,
        num_rounds=config.federation.num_rounds,
        num_items=num_items,
        num_factors=config.model.num_factors,
        init_scale=config.model.init_scale,
    )
    everybody, canary = _population(problem.train, setting, np.random.default_rng(seed))
    ratios, lengths = _play_all(
        setting,
        int(everybody.row_counts.sum()),
        problem.model._replace(solve_tolerance=config.solve_tolerance),
        everybody,
        canary,
        jax.random.split(jax.random.key(seed), 2 * num_worlds),
        jnp.arange(2 * num_worlds) < num_worlds,
        (jnp.asarray(claimed, float), jnp.asarray(claimed if actual_noise is None else actual_noise, float)),
    )
    scores = np.asarray(ratios, np.float64)
    pair, delta = (scores[:num_worlds], scores[num_worlds:]), protection.delta
    is_gaussian = who.sampling == "everybody"
    return CanaryAudit(
        num_worlds=num_worlds,
        epsilon_claimed=epsilon(
            who,
            noise_multiplier=claimed,
            num_rounds=setting.num_rounds,
            delta=delta,
            accountant=protection.privacy.accountant,
        ),
        epsilon_low=epsilon_at_least(*pair, delta=delta),
        epsilon_low_gaussian=gaussian_epsilon_at_least(*pair, delta=delta) if is_gaussian else None,
        delta=delta,
        signal=float(np.mean(lengths)),
    )


def _participation(who: Participation) -> Participation:
    """Scale the population down, with the same probability to take part as nearly as whole clients allow."""
    if who.sampling == "everybody":
        return Participation("everybody", _NUM_USERS, _NUM_USERS)
    cohort_size = max(1, round(_NUM_USERS * who.sampling_probability))
    return Participation("poisson", round(cohort_size / who.sampling_probability), cohort_size)


def _population(
    train: Interactions, setting: _Setting, rng: np.random.Generator
) -> tuple[PackedClients, PackedClients]:
    """Pack users with what they hold of the most popular items and, as the last user, a canary.

    Returns:
        Everybody, and the canary alone.
    """
    num_users, num_items = setting.who.num_users, setting.num_items
    items = np.sort(np.argsort(-train.item_counts, kind="stable")[:num_items])
    users = rng.choice(train.num_users, num_users - 1, replace=train.num_users < num_users)
    others = Interactions.from_scipy(train.to_scipy()[users][:, items])
    held = rng.choice(num_items, max(1, num_items // 2), replace=False)
    canary = np.full(len(held), num_users - 1), held, np.full(len(held), _STRENGTH)
    rest = others.user_ids, others.item_ids, others.strengths
    sizes = {"num_users": num_users, "num_items": num_items}
    whole = [np.concatenate(pair) for pair in zip(rest, canary, strict=True)]
    everybody, alone = (Interactions.from_arrays(*part, **sizes) for part in (whole, canary))
    return pack_clients(everybody), pack_clients(alone)


@partial(jax.jit, static_argnums=(0, 1))
def _play_all(
    setting: _Setting,
    row_capacity: int,
    model: Model,
    everybody: PackedClients,
    canary: PackedClients,
    keys: Array,
    is_in: Array,
    noises: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Return the log likelihood ratio of each run, and the mean length of the canary's uploads in it."""
    claimed, actual = noises
    noise = setting.noise(actual)

    def run(key: Key, is_in: Array) -> tuple[Array, Array]:
        shape = setting.num_items, setting.num_factors
        gate = link(client=Partial(_gate, is_in, setting.who.num_users - 1))
        federation = setting.federation(model, chain(gate, _tap(*shape), noise, _tap(*shape)))
        options = {"row_capacity": row_capacity} if setting.who.sampling == "poisson" else {}

        def play(state: ServerState, _: None) -> tuple[ServerState, tuple[Array, Array]]:
            own = _pieces(cohort_sum(model, state.item_factors, canary, channel=noise)[0])
            state, info = federation.round(key, state, everybody, **options)
            takes_part = is_in & jnp.any(info.client_ids == setting.who.num_users - 1)
            _, released, _, exact = state.channel_state
            found = _likelihood(setting, claimed, own, released, exact, takes_part)
            return _tamed(state), found

        first = federation.init(jax.random.key(0))  # known to the attacker
        _, (ratios, lengths) = jax.lax.scan(play, first, length=setting.num_rounds)
        return jnp.sum(ratios), jnp.mean(lengths)

    return jax.lax.map(lambda one: run(*one), (keys, is_in))


def _tamed(state: ServerState) -> ServerState:
    """Keep the item factors of a population that drowns in noise near 1: post-processing, as the step is."""
    item_factors, optimizer_state = jax.tree.map(
        lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), (state.item_factors, state.optimizer_state)
    )
    largest = jnp.max(jnp.abs(item_factors))
    item_factors = jnp.where(largest > _LARGEST_FACTOR, item_factors / largest, item_factors)
    return state._replace(item_factors=item_factors, optimizer_state=optimizer_state)


def _gate(is_in: Array, user_id: int, key: Key | None, state: tuple, uploads: Uploads) -> Uploads:
    """Leave a user out of the sums."""
    is_open = is_in | (uploads.client_ids != user_id)
    return uploads._replace(weights=jnp.where(is_open, uploads.weights, 0.0))


def _tap(num_items: int, num_factors: int) -> Link:
    """Build a link that keeps the sums of the last round as its state."""

    def init() -> Pieces[Array]:
        gram = jnp.zeros((num_factors, num_factors))
        return Pieces(jnp.zeros((num_items, num_factors)), gram, jnp.zeros(num_items), jnp.zeros(()))

    def keep(key: Key, state: Any, sums: CohortSum) -> tuple[CohortSum, Any]:
        return sums, _pieces(sums)

    return link(init=init, server=keep)


def _pieces(sums: CohortSum) -> Pieces[Array]:
    return Pieces(*(getattr(sums, name) for name in Pieces._fields))


def _likelihood(
    setting: _Setting,
    noise_multiplier: Array,
    own: Pieces[Array],
    released: Pieces[Array],
    exact: Pieces[Array],
    takes_part: Array,
) -> tuple[Array, Array]:
    """Return the log likelihood ratio of what was released, in over out, and the length of the upload."""
    ratio, squared = jnp.zeros(()), jnp.zeros(())
    for name, clip_norm in setting.clip_norms._asdict().items():
        if clip_norm is None:
            continue
        mine = getattr(own, name) / clip_norm
        others = getattr(exact, name) / clip_norm - takes_part * mine
        noise = getattr(released, name) / clip_norm - others
        ratio += jnp.sum(noise * mine - 0.5 * mine**2) / noise_multiplier**2
        squared += jnp.sum(mine**2)
    share = setting.who.sampling_probability
    if share < 1:  # the attacker does not know whether the canary is in the cohort
        ratio = jnp.logaddexp(jnp.log1p(-share), jnp.log(share) + ratio)
    return ratio, jnp.sqrt(squared)
