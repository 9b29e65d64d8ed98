"""A model in one small file for download: entropy-coded weights behind a versioned header.

    b"TFCARCHV", version: 1 byte
    the streams of each array (entropy.py), one behind the other
    header: zipped JSON {"config", "stored": {layer path: {name: record}}, "weights": [record]}
    length of the header: 4 bytes, little-endian
    checksum of all before: 16 bytes, BLAKE2b

The header comes last, so that arrays are coded and written one at a time.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from tfcompress.archive import entropy
from tfcompress.archive.readable import check_readable, weights_beside
from tfcompress.archive.rounding import FACTORS, roundable, rounded
from tfcompress.archive.skeleton import compressed, skeleton
from tfcompress.archive.untrusted import Checker, check_bound, without_training
from tfcompress.graph.paths import check_keras_3, name_of
from tfcompress.graph.private_keras import derive_state, initialize, layers_in
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.checks import check_ending, whole_number
from tfcompress.utils.errors import ArchiveError
from tfcompress.utils.plain import plain, plain_lines
from tfcompress.utils.types import Path
from tfcompress.utils.writers import replacing

MAGIC, VERSION = b"TFCARCHV", 1
CHECKSUM = 16  # bytes
LARGEST_HEADER = 1 << 22  # bytes of JSON
MOST_BRACKETS = 200_000  # each of them becomes an object many times its size


def save(model: keras.Model, path: Path, half: bool = False) -> int:
    """Writes a model into one entropy-coded file, from which `load` makes it again.

    Each array is stored losslessly: of a compressed layer what `stored()` gives, of all else the
    weights. Zeros, codes and clustered weights take about their empirical entropy, so that no mask
    or format is needed for pruned layers. What only training needs is left out: the optimizer, the
    compiled state, the latents of compressed layers.

    Cost: `n H` bits for `n` entries of entropy `H`; each array has a model of its own.

    Args:
        model: a built model of any kind that Keras can make again from its config, without
            `Lambda`.
        path: of the file; it is replaced only once the new one is complete.
        half: whether kernels, biases, and scales and offsets of normalizations in float32 are first
            rounded to float16; statistics, and what has entries beyond its range or a channel
            below its normal numbers, are not. `load` gives the rounded model.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: the model cannot be made again from a file; the message tells why.
        ImportError: the package constriction is missing.

    Example:

    >>> import keras, tempfile, tfcompress as tfc
    >>> fc = tfc.layers.TernaryDense(64, name="fc")
    >>> model = keras.Sequential([keras.Input((64,)), fc])
    >>> path = tempfile.mkdtemp() + "/net.tfc"
    >>> tfc.archive.save(model, path) < 64 * 64 / 4 + 1024  # 2 bits a weight, and a header
    True
    >>> np.array_equal(tfc.archive.load(path).layers[0].kernel, fc.kernel)
    True
    """
    check_ending(path, ".tfc")
    check_keras_3(model)
    if not isinstance(half, (bool, np.bool_)):
        raise TypeError(f"Expected `half` to be True or False. Received: {half!r}")
    if not model.built:
        raise ValueError(f"Model {model.name!r} is not built. Call it on data or `build` it first.")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    config = without_training(config)
    try:
        Checker(trusted=None).check(config)
    except ValueError as error:
        raise ValueError(f"Model {model.name!r} cannot be archived: {error}.") from error
    check_readable(model, config)
    with replacing(path) as file:
        return _write(file, model, config, half)


def load(
    path: Path,
    max_bytes: int = 1 << 31,
    custom_objects: dict[str, Any] | None = None,
    allow: Collection[str] = (),
) -> keras.Model:
    """Makes the model of an archive, with every stored array as it was saved, bit for bit.

    Nothing that the file names is run. It may name layers and operations of Keras that hold no
    functions, our layers, and activations, initializers, regularizers and constraints of Keras; of
    what is registered or given here, only what the caller vouches for. Sizes are added up before
    anything is allocated.

    Args:
        path: of a file written by `save`.
        max_bytes: of the variables of the model and what its layers derive from them; a file that
            declares more is refused. Reading takes up to four times the largest array beside, and
            64 MB for the file's own header.
        custom_objects: `{name: class or function}` that the file may name, as in
            `keras.saving.load_model`.
        allow: names of registered objects that it may name, as `"package>Name"`.

    Returns:
        A model, not compiled.

    Raises:
        ArchiveError: the file is not complete, damaged, newer, or made to mislead; it is a
            ValueError.
        OSError: there is no such file.
        ImportError: the package constriction is missing.
    """
    whole_number(max_bytes, "max_bytes", least=0)
    if isinstance(allow, str):
        raise TypeError(f"Expected `allow` to be a list of names. Received: {allow!r}")
    trusted = {*(custom_objects or ()), *allow}
    # A scope hides the one around it: without objects there is none.
    scope = keras.saving.custom_object_scope(custom_objects) if custom_objects else nullcontext()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no such file: {plain(str(path))}")
    with open(path, "rb") as file, scope:
        try:
            return _read(file, max_bytes, trusted)
        except (ArchiveError, ImportError):
            raise
        except Exception as error:  # Keras, NumPy and the coder raise their own
            message = f"{plain(path)} does not hold a sound model: {plain_lines(error)}"
            raise ArchiveError(message) from error


def _write(file, model, config, half):
    checksum = hashlib.blake2b(digest_size=CHECKSUM)

    def put(data):
        checksum.update(data)
        file.write(data)

    def record(array, name=None, may_be_rounded=True):
        array = rounded(array, each=name in FACTORS) if half and may_be_rounded else array
        made, blobs = entropy.encode(array)
        for blob in blobs:
            put(blob)
        return made

    put(MAGIC + bytes([VERSION]))
    stored = {
        path: {name: record(np.asarray(x), name) for name, x in layer.stored().items()}
        for path, layer in compressed(model)
    }
    known = roundable(model)
    weights = [record(to_numpy(v), v.name, id(v) in known) for v in weights_beside(model)]
    text = json.dumps({"config": config, "stored": stored, "weights": weights})
    if len(text) > LARGEST_HEADER:
        raise ValueError(f"The config of model {model.name!r} is too large: {len(text)} bytes")
    header = zlib.compress(text.encode(), 9)
    put(header + len(header).to_bytes(4, "little"))
    file.write(checksum.digest())
    return file.tell()


def _read(file, max_bytes, trusted):
    header, end = _header(file)
    config, stored, weights = header["config"], header["stored"], header["weights"]
    records = [record for parts in stored.values() for record in parts.values()] + weights
    _check_records(records, end - file.tell(), max_bytes)
    config = without_training(config)
    Checker(trusted, max_bytes).check(config)
    model = skeleton(config, max_bytes, bool(trusted))
    # By their own names: Keras may have given the layers around them other names this time. `walk`
    # marks the second of two parts of one name with an apostrophe.
    layers = [layer for _, layer in compressed(model)]
    expected = [name_of(path).rstrip("'") for path in stored]
    if [layer.name.rstrip("'") for layer in layers] != expected:
        raise ArchiveError("its arrays are not those of its layers")

    def array(record):
        return entropy.decode(record, (file.read(size) for size, _ in record[2]))

    for layer, parts in zip(layers, stored.values(), strict=True):
        for part in layer.parts.values():
            initialize(part, keras.initializers.Zeros())  # never one that the file names
        _check_shapes(layer, parts)
        layer.restore({name: array(record) for name, record in parts.items()})
    for variable, record in zip(weights_beside(model), weights, strict=True):
        if tuple(record[1]) != tuple(variable.shape):
            raise ArchiveError(
                f"{plain(variable.path)} has shape {variable.shape}, not {record[1]}"
            )
        _set(variable, array(record))
    for variable in _states(model):
        initialize(variable)
    for layer in layers_in(model):
        derive_state(layer)
    return model


def _set(variable, array):
    array = array.astype(variable.dtype)
    initialize(variable, lambda shape, dtype: keras.ops.convert_to_tensor(array, dtype))


def _header(file):
    """The header and where the streams end; the file is left at their start."""
    start = file.read(len(MAGIC) + 1)
    if start[:-1] != MAGIC:
        raise ArchiveError(f"{plain(file.name)} is no archive of tfcompress.")
    if start[-1] > VERSION:
        raise ArchiveError(
            f"{plain(file.name)} has format {start[-1]}, newer than {VERSION}, which this version "
            "of tfcompress reads. Install a newer one."
        )
    size = os.fstat(file.fileno()).st_size
    checksum, left = hashlib.blake2b(start, digest_size=CHECKSUM), size - len(start) - CHECKSUM
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        checksum.update(part)
        left -= len(part)
    if left != 0 or file.read() != checksum.digest():
        raise ArchiveError(
            f"{plain(file.name)} is truncated or damaged: its checksum does not match."
        )
    file.seek(size - CHECKSUM - 4)
    length = int.from_bytes(file.read(4), "little")
    end = size - CHECKSUM - 4 - length
    if end < len(start) or length > LARGEST_HEADER:
        raise ArchiveError("its header is longer than the file")
    file.seek(end)
    unzip = zlib.decompressobj()
    text = unzip.decompress(file.read(length), LARGEST_HEADER)
    if not unzip.eof or text.count(b"{") + text.count(b"[") > MOST_BRACKETS:
        raise ArchiveError("its header is too large or not complete")
    file.seek(len(start))
    return json.loads(text), end


def _check_records(records, available, max_bytes):
    """Raises unless the sizes that records declare are those of the file and within bounds."""
    sizes = [size for _, _, streams in records for size, _ in streams]
    shapes = [n for _, shape, _ in records for n in shape]
    if not all(type(n) is int and n >= 0 for n in sizes + shapes) or sum(sizes) != available:
        raise ArchiveError("its sizes do not add up")
    for name, _, streams in records:
        if len(streams) not in (2, entropy.dtype_of(name).itemsize + 1):
            raise ArchiveError(f"an array of {name} cannot have {len(streams)} streams")
    sizes = (entropy.dtype_of(name).itemsize * math.prod(shape) for name, shape, _ in records)
    check_bound(sum(sizes), max_bytes)


def _check_shapes(layer, parts):
    # A layer may have two forms of its arrays, with other names, but the shapes are the same.
    expected = sorted(array.shape for array in layer.stored().values())
    if sorted(tuple(shape) for _, shape, _ in parts.values()) != expected:
        raise ArchiveError(f"the arrays of layer {layer.name!r} do not have shapes {expected}")


def _states(model) -> list:
    """The variables that no file keeps: states of random generators."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights]
