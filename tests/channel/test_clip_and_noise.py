"""Clipping at the client and noise on the sum, as the two ends of a link."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, relative_error, solve_users, upload
from small_data import MODEL

from fcf_jax.channel import Pieces, adaptive_clip_and_noise, clip_and_noise, clip_factor, joint_norm
from fcf_jax.channel.clip_and_noise import add_noise
from fcf_jax.core.cohort_sum import broadcast_of, cohort_sum, solve_chunks
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import CohortSum
from fcf_jax.data import simulate_taste
from fcf_jax.optimizers import gram_preconditioned

KEY = jax.random.key(3)
ALL_PIECES = Pieces(20.0, 1.0, 30.0, 15.0)
UPLOAD_ONLY = Pieces(20.0, None, None, None)
SGD = optax.sgd(1e-3)  # one object: programs are shared
WEIGHTS = np.random.default_rng(0).uniform(0.2, 2.0, 17).astype(np.float32) * (np.arange(17) % 3 > 0)


def federation(channel, optimizer=SGD, **options):
    return federated_cf(MODEL, optimizer, channel=channel, num_items=17, num_factors=NUM_FACTORS, **options)


def run(small, one, num_rounds=3, key=KEY):
    return run_rounds(one, key, one.init(key), small.clients, num_rounds=num_rounds)


@pytest.mark.parametrize("clip_norms", [ALL_PIECES, UPLOAD_ONLY])
def test_clipped_sums_match_dense_reference(small, clip_norms):
    y = jnp.asarray(small.item_factors, jnp.float32)
    channel = clip_and_noise(clip_norms=clip_norms, noise_multiplier=0.5, expected_cohort_size=13)
    sums, _ = jax.jit(lambda y, clients: cohort_sum(MODEL, y, clients, channel=channel))(y, small.clients)
    x = solve_users(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    pieces, norms, clipped = [], [], 0
    for row in zip(x, small.c, small.p, strict=True):
        residual = np.sum(row[1] * (row[2] - small.item_factors @ row[0]) ** 2)
        sent = (
            upload(small.item_factors, *row), np.outer(row[0], row[0]),
            np.where(row[2] > 0, row[1] - 1.0, 0.0), residual + REGULARIZATION * row[0] @ row[0],
        )  # fmt: skip
        units = zip(sent, clip_norms, strict=True)
        norm = np.sqrt(sum((np.linalg.norm(piece) / unit) ** 2 for piece, unit in units if unit))
        share = 1 / max(norm, 1.0)
        clipped += share < 1
        norms.append(share * norm)
        pieces.append([share * np.asarray(piece) for piece in sent])
    assert max(norms) <= 1 + 1e-12 and 0 < clipped < 13  # some are clipped, some are not
    for name, dense in zip(Pieces._fields, zip(*pieces, strict=True), strict=True):
        assert relative_error(getattr(sums, name), sum(dense)) <= 3e-5, name  # float32; norms rounded up 1e-5
    assert int(sums.num_clipped) == clipped and int(sums.num_clients) == 13


@jax.jit
def sent_by_all(model, item_factors, clients):
    """Return what clients send, clipped: x, a, e + w0 s of their histories, and where these belong."""
    channel = clip_and_noise(
        clip_norms=Pieces(0.5, 0.1, None, None), noise_multiplier=1.0, expected_cohort_size=60
    )

    def send(_, uploads):
        sent = channel.client(None, (), uploads)
        history = sent.seen, sent.owners, sent.observations.item_ids, sent.observations.mask
        return None, (sent.user_factors, sent.weights, *history)

    return solve_chunks(broadcast_of(model, item_factors, channel), clients, send, None)[1]


@pytest.mark.parametrize("solve_tolerance", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("scale", [0.3, 30.0, 300.0])
def test_true_norm_of_a_clipped_upload_never_exceeds_the_clip_norm(scale, solve_tolerance):
    """In float64, from what is sent: factors of low rank let scores and norms cancel in float32."""
    rng = np.random.default_rng(0)
    y = scale * (rng.normal(size=(50, 3)) @ rng.normal(size=(3, 16)) + 1e-3 * rng.normal(size=(50, 16)))
    y, histories = y.astype(np.float32), simulate_taste(num_users=60, num_items=50, mean_history=20, seed=0)
    model = MODEL._replace(regularization=1e-3, solve_tolerance=solve_tolerance)
    chunks = sent_by_all(model, jnp.asarray(y), pack_clients(histories))
    largest = []
    for x, a, seen, owners, ids, mask in zip(*(np.asarray(part) for part in chunks), strict=True):
        x, dense = x.astype(np.float64), -x.astype(np.float64) @ y.astype(np.float64).T
        for row in np.flatnonzero(owners < len(x)):
            np.add.at(dense[owners[row]], ids[row][mask[row]], seen[row][mask[row]].astype(np.float64))
        lengths = np.linalg.norm(x, axis=1)
        joint = np.hypot(np.linalg.norm(dense, axis=1) * lengths / 0.5, lengths**2 / 0.1)
        largest.append((a * joint).max())
    assert 0 < max(largest) <= 1.0


def test_limit_of_no_noise_and_no_clip_recovers_the_plain_round(small):
    huge = Pieces(1e9, None, None, None)
    silent = clip_and_noise(clip_norms=huge, noise_multiplier=0.0, expected_cohort_size=13)
    plain, plain_info = run(small, federation(None))
    private, info = run(small, federation(silent))
    np.testing.assert_allclose(private.item_factors, plain.item_factors, rtol=1e-5, atol=1e-6)  # other fusion
    np.testing.assert_allclose(info.gradient_norm, plain_info.gradient_norm, rtol=1e-5)
    assert np.isnan(info.loss).all() and np.isnan(info.num_clipped).all()  # neither is released


def test_server_divides_by_the_expected_cohort_and_learns_no_count(small):
    quiet = clip_and_noise(clip_norms=UPLOAD_ONLY, noise_multiplier=0.0, expected_cohort_size=4)
    _, info = run(small, federation(quiet, cohort_size=4, sampling="poisson"), num_rounds=20)
    np.testing.assert_array_equal(info.num_clients, 4.0)
    realised = np.sum(np.asarray(info.client_ids) < 13, axis=1)
    assert len(set(realised.tolist())) > 3


def empty_sums(num_clients=13):
    zeros = jnp.zeros
    counts = jnp.int32(num_clients), jnp.int32(0)
    return CohortSum(zeros((400, 5)), zeros((5, 5)), zeros(2000), zeros(()), *counts)


def test_noise_has_the_stated_deviation_in_each_piece():
    noised = jax.vmap(lambda key: add_noise(key, empty_sums(), ALL_PIECES, noise_multiplier=0.5))(
        jax.random.split(KEY, 100)
    )
    noised = jax.tree.map(np.asarray, noised)
    # 200,000 and 200,000 draws: within 1 %; 100 draws of a number: within 20 % but for 1 in 200
    assert np.std(noised.upload) == pytest.approx(0.5 * 20.0, rel=0.01)
    assert np.std(noised.confidence_sum) == pytest.approx(0.5 * 30.0, rel=0.01)
    assert np.std(noised.loss) == pytest.approx(0.5 * 15.0, rel=0.2)
    on, off = noised.user_gram[:, range(5), range(5)], noised.user_gram[:, 0, 1:]
    assert np.std(on) == pytest.approx(0.5, rel=0.1)
    assert np.std(off) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)  # symmetric afterwards
    np.testing.assert_array_equal(noised.user_gram, np.swapaxes(noised.user_gram, 1, 2))


def test_local_noise_grows_with_the_clients():
    options = {"clip_norms": UPLOAD_ONLY, "noise_multiplier": 0.5, "expected_cohort_size": 9}
    local = clip_and_noise(is_local=True, **options).server(KEY, (), empty_sums(9))[0]
    central = clip_and_noise(**options).server(KEY, (), empty_sums(9))[0]
    np.testing.assert_allclose(local.upload, 3.0 * central.upload, rtol=0.01, atol=0.05)  # the same draws


def test_each_round_draws_its_own_noise(small):
    noisy = clip_and_noise(clip_norms=UPLOAD_ONLY, noise_multiplier=1.0, expected_cohort_size=13)
    one = federation(noisy)
    _, info = run(small, one)
    assert len(set(np.asarray(info.gradient_norm).tolist())) == 3
    _, again = run(small, one)
    np.testing.assert_array_equal(info.gradient_norm, again.gradient_norm)  # of the same key
    _, other = run(small, one, key=jax.random.key(4))
    assert not np.array_equal(info.gradient_norm, other.gradient_norm)


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_adaptive_norm_finds_the_quantile(start):
    """1000 clients whose norms are 1 to 1000 thousandths: the norm that leaves 30 % unclipped is .3."""
    norms = jnp.linspace(0.001, 1.0, 1000)
    zeros = jnp.zeros(1000)
    link = adaptive_clip_and_noise(
        clip_norms=Pieces(start, None, None, None), noise_multiplier=1.0, expected_cohort_size=1000,
        quantile=0.3,
    )  # fmt: skip

    def step(state, key):
        clip_norms = Pieces(state.scale * start, None, None, None)
        clipped = jnp.sum(clip_factor(Pieces(norms, zeros, zeros, zeros), clip_norms) < 1)
        sums = empty_sums(1000)._replace(num_clipped=clipped)
        return link.server(key, state, sums)[1], None

    state, _ = jax.lax.scan(step, link.init(), jax.random.split(KEY, 150))
    assert start * float(state.scale) == pytest.approx(0.3, rel=0.25)  # the count has noise of 5 %


def weights_after(link, state, small):
    """What the client end makes of the weights a_u of all clients."""
    broadcast = broadcast_of(MODEL, jnp.asarray(small.item_factors, jnp.float32), link)
    _, weights, _ = solve_chunks(
        broadcast, small.clients, lambda _, uploads: (None, link.client(None, state, uploads).weights), None
    )
    return np.asarray(weights)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_adaptive_client_end_clips_to_scaled_norms(small, scale):
    options = {"noise_multiplier": 1.0, "expected_cohort_size": 13}
    scaled = jax.tree.map(lambda norm: scale * norm, ALL_PIECES)
    adaptive = adaptive_clip_and_noise(clip_norms=ALL_PIECES, **options)
    moved = weights_after(adaptive, adaptive.init()._replace(scale=jnp.asarray(scale)), small)
    static = weights_after(clip_and_noise(clip_norms=scaled, **options), (), small)
    np.testing.assert_allclose(moved, static, rtol=1e-6)  # a product of float32 more
    assert 0 < np.sum(static == 1) < 13


def test_sums_of_adaptive_clipping_get_a_little_more_noise():
    options = {"clip_norms": UPLOAD_ONLY, "noise_multiplier": 8.0, "expected_cohort_size": 100}
    adaptive = adaptive_clip_and_noise(**options)
    sums, _ = adaptive.server(KEY, adaptive.init(), empty_sums(100))
    expected = (8.0**-2 - (2 * 5.0) ** -2) ** -0.5 * 20.0  # theorem 1 of Andrew et al.; noise of the count 5
    assert np.std(sums.upload) == pytest.approx(expected, rel=0.05)  # 2000 draws


def test_gram_step_with_factor_0_needs_no_confidence_sum(small):
    pieces = Pieces(1e3, 1e3, None, None)
    link = clip_and_noise(clip_norms=pieces, noise_multiplier=1e-6, expected_cohort_size=13)
    state, _ = run(small, federation(link, gram_preconditioned(0.3, confidence_factor=0.0)))
    assert np.isfinite(state.item_factors).all()


def test_joint_norm_is_that_of_all_pieces_in_their_units():
    norms = Pieces(*(jnp.array([value]) for value in (6.0, 8.0, 5.0, 1.0)))
    assert float(joint_norm(norms, Pieces(2.0, 2.0, None, None))[0]) == pytest.approx(5.0)
    assert float(clip_factor(norms, Pieces(2.0, 2.0, None, None))[0]) == pytest.approx(0.2)
    assert float(clip_factor(norms, Pieces(None, None, 5.0, None))[0]) == 1.0


def test_limit_of_equal_weights_recovers_none(small):
    def trained(weights):
        link = clip_and_noise(
            clip_norms=Pieces(2.0, None, None, None), noise_multiplier=0.3, expected_cohort_size=13,
            item_weights=weights,
        )  # fmt: skip
        return run(small, federation(link))[0].item_factors

    np.testing.assert_allclose(trained(jnp.ones(17)), trained(None), rtol=1e-5, atol=1e-6)  # other fusion


@pytest.mark.parametrize("make", [clip_and_noise, adaptive_clip_and_noise])
def test_items_of_weight_zero_are_neither_sent_nor_learned(small, make):
    link = make(
        clip_norms=Pieces(2.0, None, None, None), noise_multiplier=1.0, expected_cohort_size=13,
        item_weights=jnp.asarray(WEIGHTS),
    )  # fmt: skip
    state, _ = run(small, federation(link))
    is_zero = np.all(np.asarray(state.item_factors) == 0, axis=1)
    np.testing.assert_array_equal(is_zero, WEIGHTS == 0)


def test_noise_of_an_item_is_inverse_to_its_weight():
    weights, zeros = np.array([0.0, 0.5, 2.0], np.float32), jnp.zeros((3, 4000))
    nothing = CohortSum(zeros, jnp.zeros((2, 2)), jnp.zeros(3), jnp.zeros(()), jnp.ones(()), jnp.zeros(()))
    norms = Pieces(3.0, None, None, None)
    noised = add_noise(KEY, nothing, norms, noise_multiplier=2.0, item_weights=jnp.asarray(weights))
    expected = [0.0, 6.0 / 0.5, 6.0 / 2.0]
    np.testing.assert_allclose(np.std(noised.upload, axis=1), expected, rtol=0.05)  # 4000 draws: 1.1 %
