"""Arrays in about as many bytes as their empirical entropy, and back in every bit.

An array is taken apart into streams of bytes. With at most 256 distinct values it is two streams:
the values, and for each entry the index of its own. Otherwise it is a mask of the zeros, which
costs no more than coded gaps do, and of the other entries each byte in a stream of its own, as the
exponents of trained weights take few values while their low bits are noise.

Each stream has one static model, the counts of its symbols, and is coded by asymmetric numeral
systems (J. Duda, "Asymmetric numeral systems", 2009), or is left as it is where that is smaller.
"""

import math
from typing import Any

import numpy as np

DTYPES = ("bool", "bfloat16", "float16", "float32", "float64")
DTYPES += tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
CHUNK = 1 << 20  # symbols at a time: the coder takes them as int32
TOTAL = 1 << 16  # what the counts of a model are scaled down to
COUNT_BYTES = 2  # what one of them takes in a zipped header, about


def encode(array: np.ndarray) -> tuple[list, list[bytes]]:
    """Codes an array.

    Args:
        array: of a dtype in `DTYPES`, any shape.

    Returns:
        A record for `decode`, of plain lists and numbers, and the bytes of the streams.

    Example:

    >>> record, blobs = encode(np.array([0, 1, 0, 0], "float32"))
    >>> decode(record, iter(blobs))
    array([0., 1., 0., 0.], dtype=float32)
    """
    dtype_of(array.dtype.name)  # raises for others
    bits = _as_bits(array)
    values = _distinct(bits)
    if values is not None:
        indices = np.empty(bits.size, np.uint8)
        for part in _chunks(bits.size):
            indices[part] = np.searchsorted(values, bits[part])
        streams = [(None, values.tobytes()), encode_stream(indices)]
    else:
        zero = bits == 0
        planes = bits[~zero].view(np.uint8).reshape(-1, array.itemsize)
        streams = [encode_stream(zero.view(np.uint8))]
        streams += [encode_stream(np.ascontiguousarray(plane)) for plane in planes.T]
    record = [[len(blob), counts] for counts, blob in streams]
    return [array.dtype.name, list(array.shape), record], [blob for _, blob in streams]


def decode(record: Any, blobs: Any) -> np.ndarray:
    """The array of a record.

    Args:
        record: from `encode`.
        blobs: iterator of the bytes of the streams.

    Raises:
        ValueError: the bytes are not those of the record.
    """
    dtype, shape, streams = record
    size = math.prod(shape)
    if len(streams) == 2:
        values = np.frombuffer(next(blobs), _bits_of(dtype))
        bits = values[decode_stream(streams[1][1], next(blobs), size)]
    else:
        zero = decode_stream(streams[0][1], next(blobs), size).astype(bool)
        count = size - np.count_nonzero(zero)
        planes = np.empty((count, len(streams) - 1), np.uint8)
        for place, (_, counts) in enumerate(streams[1:]):
            planes[:, place] = decode_stream(counts, next(blobs), count)
        bits = np.zeros(size, _bits_of(dtype))
        bits[~zero] = planes.view(bits.dtype).ravel()
    return bits.astype(bits.dtype.newbyteorder("=")).view(dtype_of(dtype)).reshape(shape)


def encode_stream(symbols: np.ndarray) -> tuple[list[int] | None, bytes]:
    """The counts and the code of a stream of uint8 symbols; no counts: the symbols themselves."""
    counts = np.bincount(symbols[:0], minlength=256)
    for part in _chunks(symbols.size):
        counts += np.bincount(symbols[part], minlength=256)
    counts = np.trim_zeros(counts, "b")
    if np.count_nonzero(counts) <= 1:
        return np.minimum(counts, 1).tolist(), b""
    present = counts[counts > 0]
    entropy = -np.sum(present * np.log2(present / symbols.size)) / 8
    if entropy + COUNT_BYTES * len(counts) >= symbols.size:
        return None, symbols.tobytes()
    counts = np.ceil(counts * min(1, TOTAL / symbols.size)).astype(int).tolist()
    coder, model = _coder(counts)
    for part in reversed(_chunks(symbols.size)):  # the coder is a stack
        coder.encode_reverse(symbols[part].astype(np.int32), model)
    coded = coder.get_compressed().astype("<u4").tobytes()
    if len(coded) + COUNT_BYTES * len(counts) >= symbols.size:
        return None, symbols.tobytes()
    return counts, coded


def decode_stream(counts: Any, blob: bytes, size: int) -> np.ndarray:
    """The `size` symbols of a stream, as uint8."""
    if counts is None:
        if len(blob) != size:
            raise ValueError(f"a stream of {size} symbols has {len(blob)} bytes")
        return np.frombuffer(blob, np.uint8)
    if len(counts) > 256 or not all(type(n) is int and 0 <= n <= TOTAL for n in counts):
        raise ValueError("a stream has wrong counts")
    if np.count_nonzero(counts) <= 1:
        return np.full(size, max(len(counts) - 1, 0), np.uint8)
    coder, model = _coder(counts, np.frombuffer(blob, "<u4").astype(np.uint32))
    symbols = np.empty(size, np.uint8)
    for part in _chunks(size):
        symbols[part] = coder.decode(model, part.stop - part.start)
    if not coder.is_empty():
        raise ValueError("a stream goes on behind its last symbol")
    return symbols


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of a name among `DTYPES`; `ValueError` for others."""
    if name not in DTYPES:
        raise ValueError(f"Expected a dtype among {DTYPES}. Received: {name}")
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _distinct(bits):
    """The distinct values, sorted; None if there are more than 256, or too many to pay."""
    values = bits[:0]
    for part in _chunks(bits.size):
        values = np.union1d(values, bits[part])
        if len(values) > 256:
            return None
    few = bits.itemsize == 1 or 2 * len(values) <= bits.size
    return values if few else None


def _as_bits(array):
    array = np.ascontiguousarray(array).ravel()
    return array.view(f"u{array.itemsize}").astype(f"<u{array.itemsize}", copy=False)


def _bits_of(dtype):
    return np.dtype(f"<u{dtype_of(dtype).itemsize}")


def _chunks(size) -> list[slice]:
    return [slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]


def _coder(counts, *compressed):
    """An ANS coder, and the model of symbols with these counts."""
    try:
        from constriction import stream
    except ImportError as error:
        raise ImportError(
            "Archives need the package constriction: pip install constriction"
        ) from error
    model = stream.model.Categorical(np.asarray(counts, np.float64), perfect=False)
    return stream.stack.AnsCoder(*compressed), model
