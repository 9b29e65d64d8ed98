"""Arrays as bytes, and exactly back: what `bits` counts and what an archive holds.

A codec has `encode(array) -> Packed | None` (None: this codec cannot hold the array exactly) and
`decode(packed) -> ndarray`. This file needs NumPy only and is the specification of the format.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class Codec(Protocol):
    def encode(self, array: np.ndarray) -> "Packed | None": ...

    def decode(self, packed: "Packed") -> np.ndarray: ...


@dataclass(frozen=True)
class Packed:
    """One array in its packed form.

    Attributes:
        codec: the codec that wrote it.
        shape, dtype: of the array.
        payload: its bytes.
    """

    codec: Codec
    shape: tuple[int, ...]
    dtype: str
    payload: bytes = field(repr=False)

    @property
    def bits(self) -> int:
        """Stored size in bits: eight times the payload's bytes."""
        return 8 * len(self.payload)

    def decode(self) -> np.ndarray:
        return self.codec.decode(self)


@dataclass(frozen=True)
class Raw:
    """The array's own bytes, little-endian. Holds any array of numbers, bfloat16 too."""

    def encode(self, array: np.ndarray) -> Packed:
        native = _native(array.dtype)
        numbers = np.ascontiguousarray(array).view(native)
        return _packed(self, array, numbers.astype(native.newbyteorder("<")).tobytes())

    def decode(self, packed: Packed) -> np.ndarray:
        native = _native(np.dtype(packed.dtype))
        numbers = np.frombuffer(packed.payload, native.newbyteorder("<")).astype(native)
        return numbers.view(packed.dtype).reshape(packed.shape)


@dataclass(frozen=True)
class Signs:
    """One bit per entry for arrays of -1 and +1: a set bit is +1, the first entry the low bit."""

    def encode(self, array: np.ndarray) -> Packed:
        if not np.all(np.abs(array) == 1):
            return None
        return _packed(self, array, np.packbits(array > 0, bitorder="little").tobytes())

    def decode(self, packed: Packed) -> np.ndarray:
        bits = np.unpackbits(
            np.frombuffer(packed.payload, np.uint8), count=_count(packed), bitorder="little"
        )
        return (2 * bits.astype(np.int8) - 1).astype(packed.dtype).reshape(packed.shape)


AT_A_TIME = 2**18  # integers, a multiple of 8: each takes a number of its own for every bit


@dataclass(frozen=True)
class Integers:
    """`bits` bits per entry, two's complement for a signed dtype, the first entry the low bits."""

    bits: int

    def encode(self, array: np.ndarray) -> Packed:
        if array.dtype.kind not in "iu":
            return None
        low, high = self.range(array.dtype)
        if array.size and (array.min() < low or array.max() > high):
            return None
        flat = array.ravel()
        parts = (flat[i : i + AT_A_TIME] for i in range(0, flat.size, AT_A_TIME))
        return _packed(self, array, b"".join(map(self._encode_part, parts)))

    def _encode_part(self, part):
        wide = np.uint8 if self.bits <= 8 else np.uint64  # which keep the low bits
        lanes = (part.astype(wide)[:, None] >> np.arange(self.bits, dtype=wide)) & wide(1)
        return np.packbits(lanes.astype(np.uint8, copy=False), bitorder="little").tobytes()

    def decode(self, packed: Packed) -> np.ndarray:
        count = _count(packed)
        lanes = np.unpackbits(
            np.frombuffer(packed.payload, np.uint8), count=count * self.bits, bitorder="little"
        ).reshape(count, self.bits)
        codes = lanes.astype(np.int64) @ (1 << np.arange(self.bits, dtype=np.int64))
        # Two's complement: of a signed dtype, codes above the largest value are negative.
        _, high = self.range(np.dtype(packed.dtype))
        codes = np.where(codes > high, codes - (1 << self.bits), codes)
        return codes.astype(packed.dtype).reshape(packed.shape)

    def range(self, dtype: Any) -> tuple[int, int]:
        """Smallest and largest value that fits."""
        if dtype.kind == "u":
            return 0, (1 << self.bits) - 1
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Nonzeros:
    """One bit per entry that tells whether it is zero, then the other entries.

    Attributes:
        bits: of each other entry: 1 for -1 and +1 as `Signs` has them, the width of the dtype for
            its own bytes, else as `Integers` has them. -0.0 counts as another entry.
    """

    bits: int

    def encode(self, array: np.ndarray) -> Packed:
        mask = (array != 0) | np.signbit(array)  # a zero that is left out comes back as +0.0
        packed = self._inner(array.dtype).encode(array[mask])
        if packed is None:
            return None
        places = np.packbits(mask, bitorder="little").tobytes()
        return _packed(self, array, places + packed.payload)

    def decode(self, packed: Packed) -> np.ndarray:
        count = _count(packed)
        places = -(-count // 8)
        mask = np.unpackbits(
            np.frombuffer(packed.payload[:places], np.uint8), count=count, bitorder="little"
        ).astype(bool)
        codec, array = self._inner(np.dtype(packed.dtype)), np.zeros(count, packed.dtype)
        shape = (int(mask.sum()),)
        array[mask] = Packed(codec, shape, packed.dtype, packed.payload[places:]).decode()
        return array.reshape(packed.shape)

    def _inner(self, dtype):
        if self.bits == 8 * dtype.itemsize:
            return Raw()
        return Signs() if self.bits == 1 else Integers(self.bits)


MOST_NONZERO = 0.25  # share of the entries; with more, a mask saves little


def pack(array: np.ndarray) -> Packed:
    """Packs an array with the smallest codec that holds it exactly.

    `Nonzeros` is tried where at least three quarters of the entries are zero.

    Args:
        array: an array of floats or integers, any shape.

    Returns:
        A `Packed`, whose `decode()` is equal to the array in every bit.

    Example:

    >>> import numpy as np
    >>> pack(np.array([1, -1, -1, 1], "int8")).bits
    8
    >>> pack(np.array([3, 0, 7], "uint8")).decode()
    array([3, 0, 7], dtype=uint8)
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"Expected an array of floats or integers. Received: dtype {array.dtype}")
    packed = _pack_all(array)
    if np.count_nonzero(array) <= MOST_NONZERO * array.size:
        # The first width that holds the other entries is the smallest one.
        for bits in range(1, 8 * array.dtype.itemsize + 1):
            masked = Nonzeros(bits).encode(array)
            if masked is not None:
                return min(packed, masked, key=lambda found: found.bits)
    return packed


def _pack_all(array) -> Packed:
    """The array in the smallest codec that treats all entries alike."""
    if array.dtype.kind in "iu":
        for codec in (Signs(), *map(Integers, range(1, 8 * array.dtype.itemsize))):
            packed = codec.encode(array)
            if packed is not None:
                return packed
    return Raw().encode(array)


def unpack(packed: dict[str, Packed]) -> dict[str, np.ndarray]:
    """Gives back the arrays of a layer's `pack()`, equal in every bit to its `stored()`."""
    return {name: part.decode() for name, part in packed.items()}


def _packed(codec, array, payload):
    return Packed(codec, array.shape, array.dtype.name, payload)


def _native(dtype):
    """The dtype as which an array's bytes are written: of bfloat16, whole numbers of 16 bits."""
    return np.dtype("uint16") if dtype.name == "bfloat16" else dtype.newbyteorder("=")


def _count(packed):
    return int(np.prod(packed.shape))
