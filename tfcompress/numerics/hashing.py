"""The hash of HashedNets: bucket and sign of each weight from its position and a seed.

A multiplicative mix in int32 arithmetic. It takes only operations that LiteRT has as builtin int32
operators (RANGE, MUL, BITWISE_XOR, arithmetic RIGHT_SHIFT, FLOOR_MOD), so that a device can compute
the index itself:

    v = position * C1 ^ mix(seed);  v ^= v >> 16;  v *= C2;  v ^= v >> 13;  v *= C3;  v ^= v >> 16
    code = v mod 2K;  bucket = code mod K;  sign = +1 if code < K else -1

The sign is the quotient of the code by K: the low bit of the bucket would tie it to the bucket.
"""

import numpy as np

C1, C2, C3 = np.int32(-1640531527), np.int32(-2048144789), np.int32(-1028477387)

MAX_WEIGHTS = 2**28  # the int32 index of a layer takes 4 bytes per virtual weight: 1 GiB


def signed_codes(count: int, buckets: int, seed: int = 0) -> np.ndarray:
    """Codes in `[0, 2 * buckets)` for the positions 0 to `count - 1`.

    A code below `buckets` is that bucket with sign +1; `buckets + k` is bucket k with sign -1, so
    `concatenate([w, -w])[codes]` are the weights.

    Args:
        count: number of virtual weights, at most `MAX_WEIGHTS`.
        buckets: number of real weights K, at least 1.
        seed: an int; layers with different seeds collide in different places.

    Returns:
        int32 array of shape `(count,)`, the same on every platform.

    Example:

    >>> signed_codes(6, buckets=4, seed=0).tolist()
    [4, 6, 4, 3, 0, 0]
    """
    check_codes(count, buckets)
    mixed = _mix(np.arange(count, dtype=np.int32), seed_word(seed))
    return np.mod(mixed, np.int32(2 * buckets))


def check_codes(count: int, buckets: int) -> None:
    """Raises `ValueError` unless there are as many positions and buckets as codes need."""
    if not 1 <= count <= MAX_WEIGHTS:
        raise ValueError(
            f"A hashed kernel may have at most {MAX_WEIGHTS} virtual weights: its index takes 4 "
            f"bytes for each. Split the layer. Received: {count} weights"
        )
    if not 1 <= buckets <= count:
        raise ValueError(
            f"`buckets` must be from 1 to the number of weights, {count}. Received: {buckets}"
        )


def seed_word(seed: int) -> np.int32:
    """The int32 word that a seed adds to the hash."""
    word = np.array([seed & 0x7FFFFFFF], np.int32)
    return _mix(word, np.int32(0x3C6EF372))[0]


def random_signs(count: int, seed: int = 0) -> np.ndarray:
    """Fixed signs -1 and +1 (int8) from the same hash, for circulant layers."""
    return np.where(signed_codes(count, 1, seed), -1, 1).astype(np.int8)


def _mix(position, word):
    with np.errstate(over="ignore"):  # products wrap around, as they do on a device
        v = (position * C1) ^ word
        v ^= v >> np.int32(16)
        v = v * C2
        v ^= v >> np.int32(13)
        v = v * C3
        return v ^ (v >> np.int32(16))
