"""Masks: ChaCha20 against the vectors of RFC 8439, and against OpenSSL."""

from functools import partial

import jax
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jax import numpy as jnp

from fcf_jax.privacy.secure_sum.masks import chacha20_block, mask, quarter_round, words_from_bytes

COUNTING_KEY = bytes(range(32))


@partial(jax.jit, static_argnames=("num_blocks", "first_block"))
def stream(key, nonce, *, num_blocks, first_block=0):
    """The words of consecutive blocks in the order of the RFC."""
    counter = first_block + jnp.arange(num_blocks, dtype=jnp.uint32)
    return chacha20_block(key, counter, nonce).T.reshape(-1)


def stream_bytes(key, nonce, counter, num_blocks=1):
    words = stream(
        jnp.asarray(words_from_bytes(key)),
        jnp.asarray(words_from_bytes(nonce)),
        num_blocks=num_blocks,
        first_block=counter,
    )
    return np.asarray(words).astype("<u4").tobytes()


def test_known_answer_of_quarter_round():
    start = [jnp.uint32(word) for word in (0x11111111, 0x01020304, 0x9B8D6F43, 0x01234567)]
    assert [int(word) for word in quarter_round(*start)] == [0xEA2A92F4, 0xCB1CF8CE, 0x4581472E, 0x5881C4BB]


def test_known_answer_of_block():
    nonce = bytes.fromhex("000000090000004a00000000")
    found = chacha20_block(
        jnp.asarray(words_from_bytes(COUNTING_KEY))[:, None],
        jnp.uint32([1]),
        jnp.asarray(words_from_bytes(nonce))[:, None],
    )
    expected = """e4e7f110 15593bd1 1fdd0f50 c47120a3 c7f4d1c7 0368c033 9aaa2204 4e6cd4c3
                  466482d2 09aa9f07 05d7c214 a2028bd9 d19c12b5 b94e16de e883d0cb 4e3c50a2"""
    assert found[:, 0].tolist() == [int(word, 16) for word in expected.split()]


def test_known_answer_of_encryption():
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    expected = bytes.fromhex(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )
    pad = stream_bytes(COUNTING_KEY, bytes.fromhex("000000000000004a00000000"), 1, num_blocks=2)
    assert bytes(a ^ b for a, b in zip(text, pad, strict=False)) == expected


@pytest.mark.parametrize(("key", "nonce", "counter", "expected"), [
    ("00" * 32, "00" * 12, 0, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
                              "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"),
    ("00" * 32, "00" * 12, 1, "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
                              "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"),
    ("00" * 31 + "01", "00" * 12, 1, "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
                                     "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"),
    ("00ff" + "00" * 30, "00" * 12, 2, "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
                                       "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"),
    ("00" * 32, "00" * 11 + "02", 0, "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
                                     "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"),
])  # fmt: skip
def test_known_answer_of_stream(key, nonce, counter, expected):
    assert stream_bytes(bytes.fromhex(key), bytes.fromhex(nonce), counter).hex() == expected


def test_long_stream_agrees_with_openssl():
    key, nonce = np.random.default_rng(0).bytes(32), np.random.default_rng(1).bytes(12)
    cipher = Cipher(algorithms.ChaCha20(key, (7).to_bytes(4, "little") + nonce), mode=None)
    assert stream_bytes(key, nonce, 7, num_blocks=50) == cipher.encryptor().update(bytes(64 * 50))


def test_mask_is_the_stream_in_another_order():
    seed = jnp.asarray(words_from_bytes(COUNTING_KEY))
    rfc_order = np.asarray(stream(seed, jnp.zeros(3, jnp.uint32), num_blocks=4)).reshape(4, 16)
    np.testing.assert_array_equal(mask(seed, num_words=60), rfc_order.T.ravel()[:60])
