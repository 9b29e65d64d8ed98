"""Bytes and latency of exported files against the stock float32 file of the same network.

    python benchmarks/export.py                       writes docs/export-benchmark.md
    python benchmarks/export.py --nets folder         also times the `.keras` nets of a folder

Kernels are drawn at random: neither bytes nor latency depend on their values.
"""

import argparse
import math
import os
import pathlib
import platform

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from pages import write_page

import tfcompress as tfc
from tfcompress.export import to_tflite
from tfcompress.reporting.benchmark import bench
from tfcompress.tflite.runner import Runner

BINARY, TERNARY = (-1, 1), (-1, 0, 1)
FOUR_BITS = tuple(range(-7, 8))
PROTOCOL = """# Export: bytes and latency

Written by `benchmarks/export.py`: {machine}, one thread, batch 1, {versions}.
Load average of the machine when it began: {load:.1f} on {cores} cores.

All files of one table block are loaded in one process and run in turn, {rounds} rounds at most;
each round runs every file once to warm its caches and then times it. "Times faster" is the median
over the rounds of (float32 file / this file), with the quartiles; the float32 file is what
`tf.lite.TFLiteConverter.from_keras_model` makes of the uncompressed network. The default resolver
(XNNPACK) runs all of them. "Difference" is the largest one from the Keras model, in units of its
rms, under the default resolver and without delegates. Random kernels: bytes and time do not depend
on values. "At most" and "aim" are the project's own bars; the aims come from another processor
(AMD Zen 5), on which 2-bit products are about twice as fast against float32 as on Zen 4.

"""
HEAD = "| kernel | store / activations | bytes (at most) | times faster (aim) | difference |\n"


def on_grid(model, levels, seed=0):
    """Gives kernels small integers times a scale per output channel; `levels`: by layer name."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if getattr(layer, "kernel", None) is not None and levels.get(layer.name):
            values = random.choice(levels[layer.name], layer.kernel.shape)
            fan_in = math.prod(layer.kernel.shape[:-1])
            scale = random.uniform(0.5, 1.5, layer.kernel.shape[-1])
            layer.kernel.assign(values / max(levels[layer.name]) * scale / math.sqrt(fan_in))
    return model


def dense(levels):
    model = keras.Sequential([keras.Input((2048,)), layers.Dense(2048, name="fc")])
    return on_grid(model, {"fc": levels})


def conv(levels):
    image = keras.Input((28, 28, 256))
    model = keras.Model(image, layers.Conv2D(256, 3, padding="same", name="conv")(image))
    return on_grid(model, {"conv": levels})


def factored(cls, rank):
    """The convolution 3x3 256-256 in factors at about a quarter of its MACs."""
    image = keras.Input((28, 28, 256))
    return keras.Model(image, cls(256, 3, padding="same", rank=rank, name="conv")(image))


def tucker():
    return factored(tfc.layers.TuckerConv2D, 96)


def tucker_in_8_bits():
    plain = tfc.to_ordinary(tucker())
    return tfc.swap(plain, {layers.Conv2D: tfc.layers.QuantizedConv2D.using(bits=8)})


def canonical():
    return factored(tfc.layers.CPConv2D, 280)


def spatial():
    return factored(tfc.layers.SpatialConv2D, 96)


def svd():
    return factored(tfc.layers.LowRankConv2D, 56)


def mlp(levels):
    parts = [layers.Dense(2048, "relu", name="a"), layers.Dense(2048, "relu", name="b")]
    model = keras.Sequential([keras.Input((2048,)), *parts, layers.Dense(10)])
    return on_grid(model, levels)


def blocks():
    """`(float32 network, [(kernel, network, store, activations, bytes, aim)])` of each block."""
    low_rank = tfc.swap(dense(()), {"fc": tfc.layers.LowRankDense.using(rank=128)})
    yield (
        dense(()),
        [
            ("Dense 2048x2048 binary", dense(BINARY), "fast", "int8", 1.10, 9),
            ("Dense 2048x2048 ternary", dense(TERNARY), "fast", "int8", 1.10, 9),
            ("Dense 2048x2048 ternary", dense(TERNARY), "fast", "float32", 1.10, 3.5),
            ("Dense 2048x2048 4-bit", dense(FOUR_BITS), "fast", "int8", 2.15, 12),
            ("LowRankDense 2048, rank 128", low_rank, "fast", "float32", 2.15, 12),
        ],
    )
    yield (
        conv(()),
        [
            ("Conv 3x3 256-256, 28x28, binary", conv(BINARY), "fast", "int8", 0.60, 3.8),
            ("the same, ternary, im2col", conv(TERNARY), "small", "int8", 0.165, 1.7),
            ("the same, 4-bit, im2col", conv(FOUR_BITS), "small", "int8", 0.31, 3.3),
            ("the same, CP, 4x fewer MACs", canonical(), "fast", "float32", 0.61, 3.5),
            ("the same, Tucker, 4x fewer MACs", tucker(), "fast", "float32", 0.61, 4.2),
            ("the same, 3x1 and 1x3, 4x fewer MACs", spatial(), "fast", "float32", 0.61, 3.8),
            ("the same, SVD, 4x fewer MACs", svd(), "fast", "float32", 0.61, 3.2),
            ("the same, Tucker, 8-bit", tucker_in_8_bits(), "fast", "int8", 0.15, 11),
        ],
    )
    both = {"a": BINARY, "b": TERNARY}
    yield mlp({}), [("MLP 2048-2048-2048-10", mlp(both), "fast", "int8", 2.25, 9)]


def shapes():
    """Blocks of convolutions of other shapes, for which there are no bars."""
    image = {"padding": "same", "name": "conv"}
    kinds = {
        "Conv 1x1 256-64, 28x28": ((28, 28, 256), layers.Conv2D(64, 1, **image)),
        "Conv 1x1 32-32, 14x14": ((14, 14, 32), layers.Conv2D(32, 1, **image)),
        "Conv 5x5 32-64, 14x14": ((14, 14, 32), layers.Conv2D(64, 5, **image)),
        "Conv 3x3 64-128, 28x28, stride 2": ((28, 28, 64), layers.Conv2D(128, 3, 2, **image)),
        "Conv 3x3 1-32, 28x28": ((28, 28, 1), layers.Conv2D(32, 3, **image)),
        "depthwise 3x3 64, 28x28": ((28, 28, 64), layers.DepthwiseConv2D(3, **image)),
    }
    for name, (shape, layer) in kinds.items():
        found = []
        for levels, label in ((TERNARY, "ternary"), (FOUR_BITS, "4-bit")):
            copy = type(layer).from_config(layer.get_config())
            model = keras.Sequential([keras.Input(shape), copy])
            on_grid(model, {"conv": levels})
            for store in ("fast", "small"):
                found.append((f"{name}, {label}", model, store, "int8", None, None))
        yield keras.Sequential([keras.Input(shape), layer]), found


def nets(folder):
    """The nets of a folder with all kernels binary or 4-bit, by `swap`."""
    makers = {
        "binary": (tfc.layers.BinaryDense.using(), tfc.layers.BinaryConv2D.using()),
        "4-bit": (
            tfc.layers.QuantizedDense.using(bits=4),
            tfc.layers.QuantizedConv2D.using(bits=4),
        ),
    }
    for path in sorted(pathlib.Path(folder).glob("*.keras")):
        model, rows = keras.models.load_model(path), []
        kinds = {type(layer) for layer in model.layers}
        for name, pair in makers.items():
            rules = dict(zip((layers.Dense, layers.Conv2D), pair, strict=True))
            small = tfc.swap(model, {kind: rules[kind] for kind in kinds & set(rules)})
            for store, activations in (("fast", "int8"), ("fast", "float32"), ("small", "int8")):
                rows.append((f"{path.stem}, {name}", small, store, activations, None, None))
        yield model, rows


def measure(reference, rows, rounds):
    """The rows of one table block."""
    stock = tf.lite.TFLiteConverter.from_keras_model(reference)
    files, differences = {"float32": stock.convert()}, {}
    shape = (4, *reference.inputs[0].shape[1:])
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for place, (_, model, store, activations, _, _) in enumerate(rows):
        blob = files[str(place)] = to_tflite(model, None, activations, store, check=x)
        expected = np.asarray(model(x, training=False))
        found = [np.abs(Runner(blob, way)([x])[0] - expected).max() for way in (True, False)]
        differences[str(place)] = [value / np.sqrt(np.mean(expected**2)) for value in found]
    result = bench(files, rounds=rounds, seconds=20, memory=False)
    first = result["float32"]
    lines = [f"| {rows[0][0].rsplit(',', 1)[0]}, float32, stock | | {first.bytes:,} | 1 | |\n"]
    for place, (name, _, store, activations, most, aim) in enumerate(rows):
        t, (fast, slow) = result[str(place)], differences[str(place)]
        size, ratio = f"{t.bytes:,}", f"{t.ratio:.2f} [{t.ratio_low:.2f}, {t.ratio_high:.2f}]"
        if most is not None:
            size += f" ({most * 1e6:,.0f}{'' if t.bytes <= most * 1e6 else ', missed'})"
            ratio += f" ({aim})"
        way = f"{store}, {activations}"
        lines.append(f"| {name} | {way} | {size} | {ratio} | {fast:.1g}, {slow:.1g} |\n")
    print("".join(lines), flush=True)
    return lines


def machine():
    try:
        with open("/proc/cpuinfo") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        flags = "AVX512-VNNI" if "avx512_vnni" in names.get("flags", "") else "no AVX512-VNNI"
        family = f"family {names['cpu family']} model {names['model']}"
        return f"{names['model name']} ({family}, {flags})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/export-benchmark.md")
    parser.add_argument("--nets", help="a folder of .keras files")
    parser.add_argument("--rounds", type=int, default=61)
    arguments = parser.parse_args()
    from importlib.metadata import version

    packages = ("ai-edge-litert", "tensorflow", "keras")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    text = PROTOCOL.format(
        machine=machine(),
        versions=versions,
        rounds=arguments.rounds,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
    )
    text += HEAD + "|---|---|---|---|---|\n"
    rest = nets(arguments.nets) if arguments.nets else ()
    for reference, rows in [*blocks(), *shapes(), *rest]:
        text += "".join(measure(reference, rows, arguments.rounds))
    write_page(arguments.out, text)


if __name__ == "__main__":
    main()
