"""Shamir's secret sharing: any `threshold` shares give a secret, fewer say nothing at all about it.

A secret is the value at 0 of a random polynomial over the integers mod the Mersenne prime 2^521 - 1,
and a share its value elsewhere. On the host, with Python's integers.
"""

from collections.abc import Callable, Mapping, Sequence

PRIME = 2**521 - 1
SECRET_BYTES = 32
_COEFFICIENT_BYTES = 66
Entropy = Callable[[int], bytes]  # how many random bytes -> so many


def share(secret: bytes, holders: Sequence[int], *, threshold: int, entropy: Entropy) -> dict[int, int]:
    """Split a secret of 32 bytes into one share for each holder.

    Args:
        holders: different numbers, at least 0.
        threshold: how many shares give it back, 1 to the number of holders.

    Raises:
        ValueError: for a secret of another size or a threshold out of range.

    References:
        Shamir, Communications of the ACM 22 (1979).
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= len(holders):
        raise ValueError(f"expected a threshold from 1 to {len(holders)} (holders), got {threshold}")
    coefficients = [_draw(entropy) for _ in range(threshold - 1)] + [int.from_bytes(secret, "big")]

    def value_at(place: int) -> int:
        value = 0
        for coefficient in coefficients:
            value = (value * place + coefficient) % PRIME
        return value

    return {holder: value_at(holder + 1) for holder in holders}  # 0 is where the secret is


def recover(shares: Mapping[int, int], *, threshold: int) -> bytes:
    """Put a secret together from the shares of at least `threshold` holders.

    Raises:
        ValueError: for too few shares, or such as do not belong together.
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


def _draw(entropy: Entropy) -> int:
    """Draw uniformly below the prime: of 521 random bits one value only is not."""
    while (value := int.from_bytes(entropy(_COEFFICIENT_BYTES), "big") & PRIME) == PRIME:
        pass
    return value
