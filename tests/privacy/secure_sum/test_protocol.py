"""The round of secure summation: masks cancel, and the server is told nothing but the sum."""

import random

import numpy as np
import pytest
from jax import numpy as jnp
from scipy.stats import chisquare

from fcf_jax.privacy.secure_sum import SumRules, protocol
from fcf_jax.privacy.secure_sum.keys import Binding
from fcf_jax.privacy.secure_sum.masks import masked_words
from fcf_jax.privacy.secure_sum.rounds import unmask

COHORT = np.arange(100, 130)
BINDING = Binding(bytes(32), 0)


def words_themselves(words):
    return words, 0


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
