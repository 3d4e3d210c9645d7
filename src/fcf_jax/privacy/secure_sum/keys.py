"""Keys of the clients, the seeds they agree on, and shares of their secrets; on the host.

Keys are X25519 and seeds HKDF, from the package `cryptography`. The seed of a mask is bound to its
purpose: the model of the round, the round, and the pair. Clients that were given different models draw
masks that do not cancel, so a server that sends one client a special model learns nothing from it, and
spoils the sum.

Shares are Shamir's: any `threshold` of them recover a secret, fewer reveal nothing at all about it. A
secret is the value at 0 of a random polynomial modulo the Mersenne prime 2^521 - 1, and a share its
value elsewhere.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = _COEFFICIENT_BYTES = 66  # 521 bits
_PURPOSE = b"fcf_jax secure sum: pair mask"
Entropy = Callable[[int], bytes]  # a number of bytes -> that many random bytes


class KeyPair(NamedTuple):
    """Keys of one client in one round, 32 bytes each."""

    private: bytes
    public: bytes


class Binding(NamedTuple):
    """Model and round that the masks are bound to.

    Attributes:
        model_hash: SHA-256 of Y, see `model_hash`.
        round_index: of the round.
    """

    model_hash: bytes
    round_index: int


def model_hash(item_factors: Float[Array | np.ndarray, "*shape"]) -> bytes:
    """Hash the model as a client received it: its shape, its type and all its bytes."""
    array = np.ascontiguousarray(item_factors)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()


def draw_key_pair(entropy: Entropy) -> KeyPair:
    """Draw the keys of one client.

    Raises:
        ImportError: without the package `cryptography`.
    """
    x25519, _, _ = _cryptography()
    private = entropy(SECRET_BYTES)
    key = x25519.X25519PrivateKey.from_private_bytes(private)
    return KeyPair(private, key.public_key().public_bytes_raw())


def pair_seed(private: bytes, public: bytes, binding: Binding, pair: tuple[int, int]) -> bytes:
    """Compute the seed of the mask of two clients, the same on both sides.

    Args:
        private: key of one side.
        public: key of the other side.
        binding: model and round.
        pair: ids of the two, in either order.

    Raises:
        ImportError: without the package `cryptography`.

    References:
        Bonawitz et al., CCS 2017, section 4; Pasquini et al. 2021 (arXiv:2111.07380) on models that differ.
    """
    x25519, hashes, hkdf = _cryptography()
    key = x25519.X25519PrivateKey.from_private_bytes(private)
    secret = key.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    numbers = b"".join(number.to_bytes(8, "big") for number in (binding.round_index, *sorted(pair)))
    info = _PURPOSE + binding.model_hash + numbers
    return hkdf.HKDF(algorithm=hashes.SHA256(), length=SECRET_BYTES, salt=None, info=info).derive(secret)


def _cryptography() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import x25519
        from cryptography.hazmat.primitives.kdf import hkdf
    except ImportError:
        raise ImportError(
            "secure sums need the package cryptography: pip install 'fcf_jax[secure]'"
        ) from None
    return x25519, hashes, hkdf


def share(secret: bytes, holders: Sequence[int], *, threshold: int, entropy: Entropy) -> dict[int, int]:
    """Split a secret of 32 bytes into one share for each holder.

    Args:
        secret: 32 bytes.
        holders: different numbers, at least 0.
        threshold: number of shares that recover the secret, from 1 to the number of holders.
        entropy: of the polynomial.

    Raises:
        ValueError: for a secret of another size, or a threshold out of range.

    References:
        Shamir, Communications of the ACM 22 (1979).
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= len(holders):
        raise ValueError(f"expected a threshold from 1 to {len(holders)} (holders), got {threshold}")
    coefficients = [_draw_coefficient(entropy) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))

    def value_at(place: int) -> int:
        value = 0
        for coefficient in coefficients:
            value = (value * place + coefficient) % PRIME
        return value

    return {holder: value_at(holder + 1) for holder in holders}  # the secret is at 0


def recover(shares: Mapping[int, int], *, threshold: int) -> bytes:
    """Recover a secret from the shares of at least `threshold` holders.

    Raises:
        ValueError: for too few shares, or shares of different secrets.
    """
    if len(shares) < threshold:
        raise ValueError(
            f"expected shares of at least {threshold} holders, got {len(shares)}; nothing is known"
        )
    chosen = dict(sorted(shares.items())[:threshold])
    secret = interpolate({holder + 1: value for holder, value in chosen.items()}, at=0)
    if secret >> (8 * SECRET_BYTES):
        raise ValueError("expected shares of one secret, got shares that give no 32 bytes")
    return secret.to_bytes(SECRET_BYTES, "big")


def interpolate(points: Mapping[int, int], *, at: int) -> int:
    """Evaluate the polynomial of lowest degree through these points, by Lagrange's formula."""
    total = 0
    for place, value in points.items():
        numerator, denominator = value, 1
        for other in points:
            if other != place:
                numerator = numerator * (at - other) % PRIME
                denominator = denominator * (place - other) % PRIME
        total += numerator * pow(denominator, -1, PRIME)
    return total % PRIME


def _draw_coefficient(entropy: Entropy) -> int:
    """Draw uniformly below the prime: of all 521-bit numbers only the prime itself is rejected."""
    while (value := int.from_bytes(entropy(_COEFFICIENT_BYTES), "big") & PRIME) == PRIME:
        pass
    return value
