"""Secure sums: exact, and the server sees nothing but the sum."""

import os
import random
import subprocess
import sys
import textwrap
from functools import partial

import jax
import numpy as np
import pytest
import references
from jax import numpy as jnp
from jax.tree_util import Partial
from references import ALPHA, REGULARIZATION
from scipy.stats import chisquare

from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.records import SentNorms
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.privacy.mechanism import clip_factor
from fcf_jax.privacy.secure_sum import (
    NoiseShares,
    SumRules,
    check_cohorts,
    choose_formats,
    fixed_point_sums,
    plain_integer_sum,
    protocol,
    rounds,
    secure_cohort_sum,
)
from fcf_jax.privacy.secure_sum.keys import Binding
from fcf_jax.privacy.secure_sum.masks import masked_words
from fcf_jax.privacy.secure_sum.rounds import unmask

WEIGHTING = implicit_feedback(alpha=ALPHA)
BOUNDS = SentNorms(upload=60.0, user_gram=20.0, confidence_sum=100.0, loss=500.0)
FORMATS = choose_formats(BOUNDS, max_clients=13)
RULES = SumRules(min_cohort=4)
SUMS = {"regularization": REGULARIZATION, "formats": FORMATS}
IN_WORDS = {"regularization": REGULARIZATION, "accumulation": fixed_point_sums(FORMATS, max_clients=13)}
CLIP = partial(clip_factor, clip_norms=SentNorms(5.0, 5.0, 50.0, 50.0))
COHORT = np.arange(100, 130)
BINDING = Binding(bytes(32), 0)


ON_TWO_DEVICES = """
    import random
    import jax, numpy as np
    import fcf_jax as fcf
    from fcf_jax.core.records import SentNorms
    from fcf_jax.data import simulate_taste
    from fcf_jax.core.cohort_sum import cohort_sum
    from fcf_jax.privacy import secure_sum

    fcf.use_cpu_devices(2)
    interactions = simulate_taste(num_users=70, num_items=23, mean_history=7, seed=0)
    host = fcf.batch_clients(interactions, row_width=4, chunk_slots=64, chunk_clients=9)
    y, weighting = jax.random.normal(jax.random.key(0), (23, 4)), fcf.implicit_feedback(alpha=1.0)
    formats = secure_sum.choose_formats(SentNorms(50.0, 50.0, 50.0, 500.0), max_clients=70)

    def deterministic(mesh):
        clients = host if mesh is None else fcf.place_clients(host, mesh)
        words = secure_sum.fixed_point_sums(formats, max_clients=70)
        options = {"regularization": 1.0, "accumulation": words, "mesh": mesh}
        return jax.jit(lambda y: cohort_sum(y, clients, weighting, **options)[0])(y)

    def secure(mesh):
        return secure_sum.secure_cohort_sum(
            y, host, weighting, regularization=1.0, formats=formats, round_index=0, dropped=range(0, 70, 9),
            rules=secure_sum.SumRules(min_cohort=50), entropy=random.Random(0).randbytes, mesh=mesh,
        )[0]

    for summed in deterministic, secure:
        one = summed(None)
        jax.tree.map(np.testing.assert_array_equal, one, summed(fcf.client_mesh(2)))
"""


def words_themselves(words):
    return words, 0


def secure(small, *, seed=0, **options):
    y = jnp.asarray(small.item_factors, jnp.float32)
    options = {"rules": RULES, "round_index": 0, "entropy": random.Random(seed).randbytes} | options
    return secure_cohort_sum(y, small.clients, WEIGHTING, **SUMS, **options)


def plain(small, **options):
    y = jnp.asarray(small.item_factors, jnp.float32)
    return plain_integer_sum(y, small.clients, WEIGHTING, **SUMS, **options)


def masked_round(rng, *, bindings=None, num_words=64):
    """The round of 30 clients with any words: facts, secrets, words and what they send."""
    facts = protocol.open_round(COHORT, BINDING, SumRules(min_cohort=10))
    secrets = protocol.deal_secrets(facts, rng.randbytes)
    public_keys = [one.keys.public for one in secrets]
    streams = []
    for who, own in enumerate(secrets):
        own_facts = facts._replace(binding=(bindings or {}).get(who, BINDING))
        streams.append(protocol.mask_streams(own_facts, who, own, public_keys))
    words = np.frombuffer(rng.randbytes(4 * num_words * 30), np.uint32).reshape(30, num_words)
    seeds, signs = (np.stack(part) for part in zip(*streams, strict=True))
    masked = np.asarray(masked_words(words_themselves, jnp.asarray(words), seeds, signs)[0])
    return facts, secrets, public_keys, words, masked


def unmasked(facts, secrets, public_keys, masked, survivors):
    request = protocol.declare(facts, survivors)
    revealed = protocol.collect_shares(facts, secrets, request)
    return unmask(masked[survivors], *protocol.streams_to_remove(facts, public_keys, request, revealed))


@pytest.mark.parametrize("dropped", [(), (4,), (0, 5, 7, 12)], ids=["0 %", "10 %", "30 %"])
def test_secure_sum_agrees_with_plain_integer_sum_bit_for_bit(small, dropped):
    sums, view, info = secure(small, dropped=dropped, clip=CLIP)
    expected, words, _ = plain(small, dropped=dropped, clip=CLIP)
    np.testing.assert_array_equal(view.total, words)
    jax.tree.map(np.testing.assert_array_equal, sums, expected)
    assert int(sums.num_clients) == 13 - len(dropped) == view.masked.shape[0] == info.cohort.size
    assert info.num_clipped_clients > 0


def test_sums_match_dense_reference(small):
    sums, _, info = plain(small)
    x = references.solve_users(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    upload = references.cohort_sum(x, small.item_factors, small.c, small.p)
    assert info.num_clipped_entries == 0
    step = 13 * 2.0**-FORMATS.upload.fraction_bits  # the rounding of 13 clients
    np.testing.assert_allclose(sums.upload, upload, rtol=1e-4, atol=step)  # float32, condition about 1e2
    np.testing.assert_allclose(sums.user_gram, references.user_gram(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.confidence_sum, np.sum(small.c - 1, axis=0), rtol=1e-6, atol=1e-5)


def test_noise_of_the_clients_is_in_both_sums_and_of_the_size_asked_for(small):
    noise = NoiseShares(jax.random.key(0), SentNorms(2.0, 2.0, 2.0, 2.0), num_shares=9)
    wide = choose_formats(BOUNDS, max_clients=13, noise_stds=SentNorms(3.0, 3.0, 3.0, 3.0))
    y = jnp.asarray(small.item_factors, jnp.float32)
    options = {"regularization": REGULARIZATION, "formats": wide, "noise": noise, "dropped": (0, 5, 7, 12)}
    _, view, _ = secure_cohort_sum(
        y, small.clients, WEIGHTING, rules=RULES, round_index=0, entropy=random.Random(0).randbytes, **options
    )
    expected, words, _ = plain_integer_sum(y, small.clients, WEIGHTING, **options)
    np.testing.assert_array_equal(view.total, words)
    without, _, _ = plain_integer_sum(y, small.clients, WEIGHTING, **(options | {"noise": None}))
    spread = float(jnp.std(expected.upload - without.upload))
    assert 1.4 < spread < 2.6  # 2 expected, from 68 numbers
    with pytest.raises(ValueError, match="at least 9 survivors"):
        plain_integer_sum(y, small.clients, WEIGHTING, **(options | {"dropped": (0, 5, 7, 12, 1)}))


def test_pieces_that_are_not_sent_are_nan_and_send_no_words(small):
    formats = FORMATS._replace(user_gram=None, confidence_sum=None)
    y = jnp.asarray(small.item_factors, jnp.float32)
    sums, words, _ = plain_integer_sum(
        y, small.clients, WEIGHTING, regularization=REGULARIZATION, formats=formats
    )
    assert words.size == small.item_factors.size + 1
    assert np.isnan(sums.user_gram).all() and np.isnan(sums.num_clipped)


def test_another_alpha_does_not_recompile(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    options = SUMS | {"rules": RULES, "entropy": random.Random(0).randbytes}
    norms = SentNorms(5.0, 5.0, 50.0, 50.0)

    def run(scale, round_index):
        weighting = implicit_feedback(alpha=scale * ALPHA)
        clip = Partial(clip_factor, clip_norms=jax.tree.map(lambda norm: scale * norm, norms))
        plain_integer_sum(y, small.clients, weighting, clip=clip, **SUMS)
        secure_cohort_sum(y, small.clients, weighting, clip=clip, round_index=round_index, **options)
        return rounds._uploads._cache_size(), rounds._integer_sum._cache_size()

    assert run(1.0, 0) == run(0.5, 1)


def test_every_round_masks_anew(small):
    _, first, _ = secure(small, seed=0)
    _, again, _ = secure(small, seed=1)
    np.testing.assert_array_equal(first.total, again.total)
    assert (first.masked != again.masked).mean() > 0.99


def test_masked_words_are_uniform():
    """What the server gets of words that are all 0; each byte of a word."""
    facts, secrets, keys, _, _ = masked_round(random.Random(0), num_words=16)
    streams = [protocol.mask_streams(facts, who, secrets[who], keys) for who in range(30)]
    seeds, signs = (np.stack(part) for part in zip(*streams, strict=True))
    sent = np.asarray(masked_words(words_themselves, jnp.zeros((30, 1024), jnp.uint32), seeds, signs)[0])
    for byte in range(4):
        counts = np.bincount(sent.view(np.uint8)[:, byte::4].ravel(), minlength=256)
        assert chisquare(counts).pvalue > 1e-3  # fixed seed: no chance of failing


@pytest.mark.parametrize("dropped", [[], [3], list(range(0, 27, 3))], ids=["0 %", "3 %", "30 %"])
def test_regular_graph_recovers_any_words(dropped):
    """30 clients with 20 neighbours each."""
    facts, secrets, keys, words, masked = masked_round(random.Random(len(dropped)))
    survivors = [who for who in range(30) if who not in dropped]
    found = unmasked(facts, secrets, keys, masked, survivors)
    np.testing.assert_array_equal(found, words[survivors].sum(axis=0, dtype=np.uint32))


@pytest.mark.parametrize("seed", range(4))
def test_transcript_is_that_of_any_other_inputs_with_the_same_sum(seed):
    """With one-time pads for pair masks: for other words of the same sum, other pads give the same view.

    Clients stand in a chain, as they may in any connected graph; self masks are known to the server,
    and so are the pads of the last client, which dropped out.
    """
    rng = np.random.default_rng(seed)
    size, survivors = (6, 32), slice(0, 5)

    def draw(*shape):
        return rng.integers(0, 2**32, shape, np.uint32)

    def net_pads(pads):  # between client i and i + 1: the lower adds, the higher subtracts
        net = np.zeros(size, np.uint32)
        net[:-1] += pads
        net[1:] -= pads
        return net

    words, self_masks, pads = draw(*size), draw(*size), draw(5, 32)
    sent = (words + self_masks + net_pads(pads))[survivors]
    other = draw(*size)
    other[4] += (words[survivors] - other[survivors]).sum(axis=0, dtype=np.uint32)
    other_pads = pads.copy()
    difference = (words - other)[survivors]
    other_pads[:4] += np.cumsum(difference, axis=0, dtype=np.uint32)[:4]
    again = (other + self_masks + net_pads(other_pads))[survivors]
    assert (other != words).mean() > 0.99
    np.testing.assert_array_equal(sent, again)
    np.testing.assert_array_equal(pads[4], other_pads[4])  # what recovery lays open


@pytest.mark.parametrize(
    "binding", [Binding(bytes([1]) * 32, 0), Binding(bytes(32), 1)], ids=["model", "round"]
)
def test_masks_of_another_model_or_round_do_not_cancel(binding):
    facts, secrets, keys, words, masked = masked_round(random.Random(7), bindings={4: binding})
    found = unmasked(facts, secrets, keys, masked, list(range(30)))
    assert (found != words.sum(axis=0, dtype=np.uint32)).mean() > 0.99


def test_late_arrivals_are_refused():
    facts = protocol.open_round(COHORT, BINDING, SumRules(min_cohort=10))
    request = protocol.declare(facts, range(1, 30))
    protocol.check_arrival(5, request)
    protocol.check_arrival(0, None)
    with pytest.raises(ValueError, match="position 0, declared dropped"):
        protocol.check_arrival(0, request)


def test_both_masks_of_a_client_are_never_revealed():
    facts, secrets, *_ = masked_round(random.Random(8), num_words=16)
    first, second = protocol.declare(facts, range(1, 30)), protocol.declare(facts, range(30))
    of_self_seeds, of_keys = protocol.reveal_shares(facts, 2, secrets[2], first)
    assert not set(of_self_seeds) & set(of_keys)
    with pytest.raises(ValueError, match="one request in a round"):
        protocol.reveal_shares(facts, 2, secrets[2], second, answered=first)
    with pytest.raises(ValueError, match="got some as both"):
        protocol.reveal_shares(facts, 2, secrets[2], first._replace(dropped=(0, 1)))


def test_a_server_that_tells_clients_different_things_gets_no_majority():
    facts, *_ = masked_round(random.Random(9), num_words=16)
    assert 2 * facts.threshold > facts.neighbors.shape[1]


def test_too_few_survivors_to_recover_reveal_nothing():
    facts, secrets, *_ = masked_round(random.Random(10), num_words=16)
    with pytest.raises(ValueError, match="nothing was revealed"):
        protocol.collect_shares(facts, secrets, protocol.declare(facts, range(10)))


def test_small_cohorts_are_refused(small):
    with pytest.raises(ValueError, match="cohort of at least 14"):
        secure(small, rules=SumRules(min_cohort=14))
    with pytest.raises(ValueError, match="at least 13 survivors"):
        secure(small, rules=SumRules(min_cohort=13), dropped=(3,))


def test_near_identical_cohorts_are_refused(small):
    everybody = np.arange(13)
    secure(small, earlier_cohorts=[everybody])
    secure(small, earlier_cohorts=[everybody[:9]])
    with pytest.raises(ValueError, match="got a difference of 1"):
        secure(small, earlier_cohorts=[everybody[:9], everybody[1:]])
    with pytest.raises(ValueError, match="got a difference of 2"):
        secure(small, dropped=(1,), earlier_cohorts=[everybody[:12]])


def test_overflow_is_refused(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    formats = choose_formats(BOUNDS, max_clients=6)
    with pytest.raises(ValueError, match="below 2\\^31"):
        plain_integer_sum(y, small.clients, WEIGHTING, regularization=REGULARIZATION, formats=formats)


@partial(jax.jit, static_argnames="mesh")
def deterministic(y, clients, mesh=None):
    return cohort_sum(y, clients, WEIGHTING, mesh=mesh, **IN_WORDS)


def test_deterministic_sum_agrees_with_cohort_sum(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    sums, _ = deterministic(y, small.clients)
    expected, _ = jax.jit(partial(cohort_sum, weighting=WEIGHTING, regularization=REGULARIZATION))(
        y, small.clients
    )
    assert int(sums.num_clipped_entries) == 0
    for found, wanted in zip(sums, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)  # float32, and 13 roundings


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
def test_deterministic_sum_agrees_with_the_masked_one_to_the_last_unit(small, clip):
    """The sum of words that clients mask is what a training under `secure_sum` steps on.

    Two programs may round what a client computes differently, and then a word.
    """
    y = jnp.asarray(small.item_factors, jnp.float32)
    summed = jax.jit(lambda y, clients: cohort_sum(y, clients, WEIGHTING, clip=clip, **IN_WORDS)[0])
    found = summed(y, small.clients)
    masked, view, info = secure(small, is_sparse=True, clip=clip)
    unmasked, words, _ = plain(small, is_sparse=True, clip=clip)
    np.testing.assert_array_equal(view.total, words)
    for name, number in FORMATS._asdict().items():
        near = {"rtol": 0, "atol": 4 * 2.0**-number.fraction_bits}  # of 13 clients
        np.testing.assert_allclose(getattr(masked, name), getattr(found, name), **near)
        np.testing.assert_array_equal(getattr(unmasked, name), getattr(masked, name))
    assert int(found.num_clipped) == info.num_clipped_clients
    assert int(found.num_clients) == info.cohort.size


def test_dense_and_sparse_uploads_agree(small):
    dense, sparse = (plain(small, is_sparse=one, clip=CLIP)[0] for one in (False, True))
    np.testing.assert_array_equal(dense.user_gram, sparse.user_gram)
    step = 2.0**-FORMATS.upload.fraction_bits  # of each of 13 clients, and of A, which Y multiplies
    np.testing.assert_allclose(dense.upload, sparse.upload, rtol=1e-5, atol=100 * step)
    y = jnp.asarray(small.item_factors, jnp.float32)
    options = SUMS | {"formats": FORMATS._replace(user_gram=None), "is_sparse": True}
    with pytest.raises(ValueError, match="user_gram"):
        plain_integer_sum(y, small.clients, WEIGHTING, **options)


def test_cohorts_of_all_rounds_are_looked_at_beforehand():
    rounds_apart = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]])
    check_cohorts(rounds_apart, num_users=9, min_cohort=4)
    check_cohorts(np.tile(np.arange(9), (300, 1)), num_users=9, min_cohort=9)
    with pytest.raises(ValueError, match="got 3 in round 1"):
        check_cohorts(np.where(rounds_apart == 5, 9, rounds_apart), num_users=9, min_cohort=4)
    near = np.concatenate([np.repeat(rounds_apart[:2], 150, axis=0), [[4, 5, 6, 8]]])
    with pytest.raises(ValueError, match="difference of 2 between rounds 150 and 300"):
        check_cohorts(near, num_users=9, min_cohort=4)


def test_deterministic_sum_invariant_to_order_of_chunks_and_clients(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    clients = small.clients
    order = np.random.default_rng(0).permutation(clients.owners.shape[0])
    chunked = clients._replace(
        rows=jax.tree.map(lambda leaf: leaf[order], clients.rows),
        owners=clients.owners[order],
        client_ids=clients.client_ids[order],
    )
    jax.tree.map(np.testing.assert_array_equal, deterministic(y, clients)[0], deterministic(y, chunked)[0])


@pytest.mark.parametrize("options", [{"chunk_slots": 16, "chunk_clients": 2}, {"chunk_slots": 512}])
def test_deterministic_sum_invariant_to_chunking(small, options):
    y = jnp.asarray(small.item_factors, jnp.float32)
    other = batch_clients(small.interactions, row_width=4, **options)
    jax.tree.map(
        np.testing.assert_array_equal, deterministic(y, small.clients)[0], deterministic(y, other)[0]
    )


def test_sums_invariant_to_device_count():
    """In a process of its own, which sees the CPU as two devices."""
    as_by_default = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # rounds alike in all
    code = textwrap.dedent(ON_TWO_DEVICES)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, env=as_by_default)


def test_sums_in_words_that_could_overflow_are_refused():
    with pytest.raises(ValueError, match=r"below 2\^31"):
        fixed_point_sums(FORMATS, max_clients=1300)
