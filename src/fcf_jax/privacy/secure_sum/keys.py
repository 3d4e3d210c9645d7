"""Keys of the clients, on the host: X25519 and HKDF from the package `cryptography`.

The seed of a mask is bound to what it is for: the model that the round is about, the round, and
the pair. Clients that were given different models so draw different masks, which do not cancel: a
server that hands one client a model of its own learns nothing from it, and spoils its sum.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.privacy.secure_sum.shamir import Entropy

_PURPOSE = b"fcf_jax secure sum: pair mask"
_SIZE = 32


class KeyPair(NamedTuple):
    """Of one client, in one round."""

    private: bytes  # 32
    public: bytes  # 32


class Binding(NamedTuple):
    """What the masks of a round are bound to."""

    model_hash: bytes  # sha256(Y)
    round_index: int


def model_hash(item_factors: Any) -> bytes:
    """Hash the model as a client received it: its shape, its type and all its bytes."""
    array = np.ascontiguousarray(item_factors)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()


def draw_key_pair(entropy: Entropy) -> KeyPair:
    """Draw the keys of one client.

    Raises:
        ImportError: without the package `cryptography`.
    """
    x25519, _, _ = _cryptography()
    private = entropy(_SIZE)
    return KeyPair(
        private, x25519.X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    )


def pair_seed(private: bytes, public: bytes, binding: Binding, pair: tuple[int, int]) -> bytes:
    """Agree on the seed of the mask of two clients: both sides compute the same.

    Args:
        private: one side's key.
        public: the other side's.
        pair: ids of the two, in either order.

    Raises:
        ImportError: without the package `cryptography`.

    References:
        Bonawitz et al., CCS 2017, section 4; Pasquini et al. 2021 (arXiv:2111.07380) on models that differ.
    """
    x25519, hashes, hkdf = _cryptography()
    own = x25519.X25519PrivateKey.from_private_bytes(private)
    secret = own.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    numbers = b"".join(number.to_bytes(8, "big") for number in (binding.round_index, *sorted(pair)))
    info = _PURPOSE + binding.model_hash + numbers
    return hkdf.HKDF(algorithm=hashes.SHA256(), length=_SIZE, salt=None, info=info).derive(secret)


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import x25519
        from cryptography.hazmat.primitives.kdf import hkdf
    except ImportError:
        raise ImportError(
            "secure sums need the package cryptography: pip install 'fcf_jax[secure]'"
        ) from None
    return x25519, hashes, hkdf
