"""Files of eight kinds of networks, beside those of the stock converter and of another tool.

    python benchmarks/any_model_files.py --other-python venv/bin/python

writes docs/any-model-files-benchmark.md. The other tool is `ai-edge-quantizer` 0.10 of PyPI, which
runs in the Python of another virtual environment; without `--other-python` its rows are left out.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile
from importlib.metadata import version

import keras
import numpy as np
import tensorflow as tf
from export import machine
from keras import layers
from pages import write_page

import tfcompress as tfc
from tfcompress.layers import rounding
from tfcompress.reporting.benchmark import bench
from tfcompress.tflite.runner import Runner

OTHER = "ai-edge-quantizer"
PROGRAM = """
import pathlib, sys
from ai_edge_quantizer import quantizer, recipe
source, *targets = sys.argv[1:]
for bits, path in zip((8, 4), targets):
    work = quantizer.Quantizer(source)
    work.load_quantization_recipe(getattr(recipe, f"dynamic_wi{bits}c_afp32")())
    pathlib.Path(path).write_bytes(work.quantize().quantized_model)
"""
SAMPLES, SEED = 500, 0
HEAD = """# Any model: bytes, error and time of files

Written by `benchmarks/any_model_files.py`: {machine}, one thread, batch 1, {versions}. Load average
of the machine when it began: {load:.1f} on {cores} cores.

Eight networks with random weights, on {samples} random samples. "Dynamic range" is what the stock
converter makes with `Optimize.DEFAULT`; "{other}" is that tool of version 0.10 with a scale per
channel (`dynamic_wi8c_afp32`, `dynamic_wi4c_afp32`); "swap, n bits" is
`tfc.swap(model, rounding(n), data=samples)` and then `tfc.to_tflite(..., rest="int8")`, and
"rest" is `tfc.to_tflite(model, rest="int8")` alone. All are made from the same model with a batch
of 1.

"Error" is the root mean square of the difference from the Keras model in units of that of its
output, on 20 samples, under the default resolver and without delegates. "Times faster" is the
median over the rounds of (stock float32 file / this file), both run in turn in one process, under
the default resolver: below 1 is slower.

| network | file | bytes | error, default | error, no delegates | times faster |
|---|---|---|---|---|---|
"""

NOTES = """
What to read with it:

- The other tool leaves the kernel of `Conv2DTranspose` (in 4 bits) and the table of `Embedding` in
  float32.
- No operator of LiteRT computes with a transposed kernel in 4 bits. `rounding(4)` gives it 8 bits,
  and kernels of up to 512 weights too, such as that of the small Dense layer behind the table.
- 3x3 convolutions in 4 bits are held in 8: these run faster than a product of 4-bit numbers.
  `store="small"` packs them.
- The network with the table takes one to two microseconds. Our files read the ids as they are; the
  stock converter's count negative ids from the end. The rows of a table in 4 bits have a scale and
  a zero point each. `store="small"` keeps the scales in a table of their own, which takes 40 KB
  less and 0.3 microseconds more.
- 1x1 convolutions in 4 bits run as matrix products where these are faster than float32.
"""


def recurrent(layer, length=50, width=40):
    inputs = keras.Input((length, width), batch_size=1)
    return keras.Model(inputs, layers.Dense(40)(layer(inputs)))


def lstm():
    return recurrent(layers.LSTM(128, return_sequences=True))


def gru():
    return recurrent(layers.GRU(128, return_sequences=True))


def bidirectional():
    return recurrent(layers.Bidirectional(layers.LSTM(128, return_sequences=True)))


def transformer():
    x = inputs = keras.Input((32, 64), batch_size=1)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16)(x, x))
    y = layers.Dense(64)(layers.Dense(256, "gelu")(x))
    return keras.Model(inputs, layers.LayerNormalization()(x + y))


def time_distributed():
    inputs = keras.Input((20, 256), batch_size=1)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(256))(inputs))


def separable():
    inputs = keras.Input((28, 28, 64), batch_size=1)
    x = layers.SeparableConv2D(128, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Conv2D(64, 1)(x))


def transposed():
    inputs = keras.Input((16, 16, 64), batch_size=1)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Conv2DTranspose(64, 3, strides=2, padding="same")(x))


def embedding():
    inputs = keras.Input((30,), batch_size=1, dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(5000, 64)(inputs))
    return keras.Model(inputs, layers.Dense(8)(x))


NETWORKS = {
    "LSTM(128) + Dense": lstm,
    "GRU(128) + Dense": gru,
    "Bidirectional LSTM(128)": bidirectional,
    "transformer block": transformer,
    "TimeDistributed(Dense)": time_distributed,
    "SeparableConv2D + 1x1": separable,
    "Conv2D + Conv2DTranspose": transposed,
    "Embedding(5000, 64)": embedding,
}


def samples(model):
    random, (tensor,) = np.random.default_rng(SEED), model.inputs
    shape = (SAMPLES, *tensor.shape[1:])
    if tensor.dtype == "int32":
        return random.integers(0, 5000, shape).astype("int32")
    return random.standard_normal(shape).astype("float32")


def stock(model, optimize=()):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = list(optimize)
    return converter.convert()


def of_other_tool(python, blob):
    """Its files in 8 and in 4 bits."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{name}.tflite") for name in ("float32", "eight", "four")]
        pathlib.Path(paths[0]).write_bytes(blob)
        subprocess.run([python, "-c", PROGRAM, *paths], check=True, capture_output=True)
        return [pathlib.Path(path).read_bytes() for path in paths[1:]]


def files_of(model, x, other):
    """`{what made it: file}`, the stock float32 file first."""
    files = {"stock float32": stock(model)}
    files["dynamic range"] = stock(model, [tf.lite.Optimize.DEFAULT])
    if other:
        eight, four = of_other_tool(other, files["stock float32"])
        files |= {f"{OTHER}, 8 bits": eight, f"{OTHER}, 4 bits": four}
    for bits in (8, 4):
        small = tfc.swap(model, rounding(bits), data=x)
        files[f"swap, {bits} bits"] = tfc.to_tflite(small, check=x[:20], rest="int8")
    return files | {"rest": tfc.to_tflite(model, check=x[:20], rest="int8")}


def error(blob, x, expected, delegates):
    runner = Runner(blob, delegates)
    found = np.concatenate([runner([sample[None]])[0] for sample in x])
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def measure(name, other, rounds):
    keras.utils.set_random_seed(SEED)
    model = NETWORKS[name]()
    x = samples(model)
    files = files_of(model, x, other)
    few = x[:20]
    expected = np.concatenate([keras.ops.convert_to_numpy(model(s[None])) for s in few])
    times = bench(files, rounds=rounds, memory=False)
    for made, blob in files.items():
        errors = [error(blob, few, expected, delegates) for delegates in (True, False)]
        cells = [f"{len(blob):,}", *(f"{e:.4f}" for e in errors), f"{times[made].ratio:.2f}"]
        yield f"| {name} | {made} | {' | '.join(cells)} |\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/any-model-files-benchmark.md")
    parser.add_argument("--other-python", help="a Python with ai-edge-quantizer 0.10")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    arguments = parser.parse_args()
    packages = ("ai-edge-litert", "tensorflow", "keras")
    text = HEAD.format(
        machine=machine(),
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        samples=SAMPLES,
        other=OTHER,
    )
    for name in arguments.networks:
        for line in measure(name, arguments.other_python, arguments.rounds):
            print(line, end="", flush=True)
            text += line
    write_page(arguments.out, text + NOTES)


if __name__ == "__main__":
    main()
