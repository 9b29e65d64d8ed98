"""Bytes and latency of exported structured layers against the stock float32 file.

    python benchmarks/export_structured.py            writes docs/export-structured-benchmark.md
    python benchmarks/export_structured.py --shapes   also times each form over sizes, from which
                                                      the rules in tfcompress/export are read

The way of measuring is that of benchmarks/export.py.
"""

import argparse
import os
import time

import keras
import numpy as np
from export import HEAD, PROTOCOL, machine, measure
from keras import layers
from pages import write_page

import tfcompress as tfc
from tfcompress.export import to_tflite
from tfcompress.tflite.runner import Runner

EIGHT_BITS = range(-127, 128)
NOTE = """; the aims come from AMD Zen 5.

"""
FIRST = """
## Loading and the first call

Codes are unpacked when the file is loaded (and again for another batch size), hashes in the first
call. Milliseconds, the median of 7 fresh interpreters, default resolver, one thread, batch 1.

| file | load | first call | later calls |
|---|---|---|---|
"""


def one(layer, *shape):
    return keras.Sequential([keras.Input(shape), layer])


def dense(size):
    return one(layers.Dense(size, name="fc"), size)


def conv(image, filters, kind=layers.Conv2D):
    return one(kind(filters, 3, padding="same", name="conv"), *image)


def codebook(size, entries):
    """A codebook whose entries are on no grid."""
    model = one(tfc.layers.CodebookDense(size, size=entries, name="fc"), size)
    random = np.random.default_rng(0)
    values = np.append(0, random.standard_normal(entries - 1)) / np.sqrt(size)
    layer = model.get_layer("fc")
    layer.restore(layer.stored() | {"codebook": values.astype("float32")})
    return model


def pruned(size, block, share, integers=True):
    """A kernel with a share of nonzero blocks of 1 x `block` (along its inputs)."""
    model, random = dense(size), np.random.default_rng(0)
    kernel = model.get_layer("fc").kernel
    mask = np.repeat(random.random((size // block, size)) < share, block, axis=0)
    values = random.standard_normal((size, size)) / np.sqrt(size)
    if integers:
        scale = random.uniform(0.5, 1.5, size) / np.sqrt(size) / 127
        values = random.choice(EIGHT_BITS, (size, size)) * scale
    kernel.assign(np.where(mask, values, 0))
    return model


def circulant(size, block=None):
    return one(tfc.layers.CirculantDense(size, block=block, use_bias=False, name="fc"), size)


def tiles(size, tile, count):
    return one(tfc.layers.TileHashedDense(size, tile=tile, tiles=count, name="fc"), size)


def hashed(size, ratio=64):
    return one(tfc.layers.HashedDense(size, ratio=ratio, name="fc"), size)


def binary(size):
    return one(tfc.layers.BinaryDense(size, name="fc"), size)


def blocks():
    """`(float32 network, [(kernel, network, store, activations, bytes, aim)])` of each block."""
    yield (
        dense(2048),
        [
            ("Dense 2048x2048 binary", binary(2048), "small", "int8", 0.61, 2),
            ("Dense 2048x2048, 8 entries", codebook(2048, 8), "small", "int8", 1.75, 2),
            ("Dense 2048x2048 hashed 1/64", hashed(2048), "small", "int8", 0.145, 1.4),
            ("Dense 2048x2048, 90% 1x16 zeros", pruned(2048, 16, 0.1), "fast", "int8", 0.495, 6),
            ("block-circulant 2048, block 128", circulant(2048, 128), "fast", "int8", 0.292, 18),
            ("TileHashedDense 2048, T 32, U 4", tiles(2048, 32, 4), "fast", "int8", 0.095, 30),
            ("the same", tiles(2048, 32, 4), "fast", "float32", None, None),
            ("Dense 2048x2048, 90% zeros", pruned(2048, 1, 0.1), "small", "int8", None, None),
            ("the same in float32", pruned(2048, 1, 0.1, False), "fast", "float32", None, None),
            ("90% 1x4 zeros, float32", pruned(2048, 4, 0.1, False), "fast", "float32", None, None),
        ],
    )
    big = circulant(4096)
    yield (
        dense(4096),
        [
            ("CirculantDense 4096", big, "small", "float32", 0.024, 25),
            ("CirculantDense 4096", big, "fast", "float32", 0.31, 45),
        ],
    )
    image = (28, 28, 256)
    name, kind = "Conv 3x3 256-256, 28x28, binary", tfc.layers.BinaryConv2D
    yield conv(image, 256), [(name, conv(image, 256, kind), "small", "int8", 0.095, 1)]


def shapes():
    """Each form over sizes."""
    for size in (256, 512, 1024, 2048):
        rows = [
            (f"{size}, binary", binary(size)),
            (f"{size}, 8 entries", codebook(size, 8)),
            (f"{size}, hashed 1/64", hashed(size)),
            (f"{size}, zeros, 0.1", pruned(size, 1, 0.1)),
        ]
        rows = [(*row, "small", "int8", None, None) for row in rows]
        for share in (0.1, 0.3, 0.5):
            model = pruned(size, 16, share)
            rows.append((f"{size}, 1x16, {share}", model, "fast", "int8", None, None))
        exact = [
            (f"{size}, 1x4, float32, 0.1", pruned(size, 4, 0.1, False)),
            (f"{size}, 1x4, float32, 0.15", pruned(size, 4, 0.14, False)),
            (f"{size}, zeros, float32, 0.1", pruned(size, 1, 0.1, False)),
            (f"{size}, tiles 32, 4", tiles(size, 32, 4)),
            (f"{size}, tiles 32, 16", tiles(size, 32, 16)),
            (f"{size}, circulant", circulant(size)),
            *((f"{size}, block {b}", circulant(size, b)) for b in (16, 64, 256) if b < size),
        ]
        rows += [(*row, "fast", "float32", None, None) for row in exact]
        rows += [(*row, "small", "float32", None, None) for row in exact[-4:]]
        yield dense(size), rows


def first_calls():
    """Rows of the table of loading times."""
    for name, model in (
        ("binary 2048", binary(2048)),
        ("8 entries 2048", codebook(2048, 8)),
        ("hashed 2048", hashed(2048)),
        ("hashed 1024", hashed(1024)),
    ):
        blob, x = to_tflite(model, store="small"), np.ones((1, model.input_shape[-1]), np.float32)
        times = np.median([_calls(blob, x) for _ in range(7)], axis=0)
        yield f"| {name} | " + " | ".join(f"{1e3 * t:.3g}" for t in times) + " |\n"


def _calls(blob, x):
    """Seconds of loading a file, of its first call and of the second."""
    marks = [time.perf_counter()]
    runner = Runner(blob)
    runner.interpreter.allocate_tensors()
    runner.allocated = True
    for _ in range(2):
        marks.append(time.perf_counter())
        runner([x])
    return np.diff([*marks, time.perf_counter()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/export-structured-benchmark.md")
    parser.add_argument("--shapes", action="store_true", help="also time each form over sizes")
    parser.add_argument("--rounds", type=int, default=61)
    arguments = parser.parse_args()
    from importlib.metadata import version

    packages = ("ai-edge-litert", "tensorflow", "keras")
    protocol = PROTOCOL.replace("Export: ", "Export of structured layers: ")
    protocol = protocol.replace("benchmarks/export.py", "benchmarks/export_structured.py")
    protocol = protocol[: protocol.index("; the aims")] + NOTE
    text = protocol.format(
        machine=machine(),
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        rounds=arguments.rounds,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
    )
    text += HEAD + "|---|---|---|---|---|\n"
    for reference, rows in [*blocks(), *(shapes() if arguments.shapes else ())]:
        text += "".join(measure(reference, rows, arguments.rounds))
    text += FIRST + "".join(first_calls())
    write_page(arguments.out, text)


if __name__ == "__main__":
    main()
