"""Bytes and latency of recurrent layers against the stock converter's files.

    python benchmarks/recurrent.py                    writes docs/recurrent-files-benchmark.md

Our file is made for any batch and any number of steps; the stock one for one sequence of the length
that is timed, since the converter makes no other.
"""

import argparse
import contextlib
import io
import os
import time

import keras
import numpy as np
import tensorflow as tf
from export import machine
from keras import layers
from pages import write_page

import tfcompress as tfc
from tfcompress.tflite.runner import Runner

WIDTH, UNITS = 40, 128
PROTOCOL = """# Recurrent layers: bytes and latency

Written by `benchmarks/recurrent.py`: {machine}, one thread, one sequence of {width} numbers per
step. Load average of the machine when it began: {load:.1f} on {cores} cores.

All files of a block are loaded in one process and run in turn, {rounds} rounds; each round runs
every file once to warm its caches and then times it. "Times faster" is the median over the rounds
of (stock float32 file / this file), with the quartiles. The default resolver (XNNPACK) runs all.
"Error" is the root mean square of the difference from Keras, in units of that of the output.
Random weights. Ours is one file for any batch and any number of steps.

| network | file | bytes | times faster | error |
|---|---|---|---|---|
"""
NETS = {  # the layer, its steps
    "LSTM(128), 50 steps, all outputs": (layers.LSTM, UNITS, 50, True),
    "LSTM(128), 50 steps, last output": (layers.LSTM, UNITS, 50, False),
    "LSTM(128), 200 steps, all outputs": (layers.LSTM, UNITS, 200, True),
    "GRU(128), 50 steps, all outputs": (layers.GRU, UNITS, 50, True),
    "LSTM(16), 10 steps, last output": (layers.LSTM, 16, 10, False),
}


def network(kind, units, steps, whole, batch=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((steps, WIDTH), batch_size=batch)
    return keras.Model(inputs, kind(units, return_sequences=whole, name="rnn")(inputs))


def stock(model, dynamic_range):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if dynamic_range:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


def files(kind, units, steps, whole, x):
    fixed = network(kind, units, steps, whole, batch=1)
    free = network(kind, units, None, whole)
    yield "stock, float32", stock(fixed, False)
    yield "stock, dynamic range", stock(fixed, True)
    yield "float32", tfc.to_tflite(free, check=x)
    yield "8 bits", tfc.to_tflite(free, check=x, rest="int8")
    yield "4 bits", tfc.to_tflite(tfc.swap(free, tfc.layers.rounding(4)), check=x)
    yield "float32, steps known", tfc.to_tflite(fixed, check=x)
    yield "streaming, float32", tfc.to_tflite(free, check=x, streaming=True)


def measure(name, kind, units, steps, whole, rounds):
    x = np.random.default_rng(0).standard_normal((4, steps, WIDTH)).astype("float32")
    expected = np.asarray(network(kind, units, steps, whole)(x[:1]))
    blobs, lines = dict(files(kind, units, steps, whole, x)), []
    count = 2 if kind is layers.LSTM else 1
    inputs = {key: [x[:1]] for key in blobs}
    inputs["streaming, float32"] = [x[:1], *[np.zeros((1, units), "float32")] * count]
    runners, times = {key: Runner(blob) for key, blob in blobs.items()}, {key: [] for key in blobs}
    for _ in range(rounds):
        for key, runner in runners.items():
            runner(inputs[key])
            begin = time.perf_counter()
            runner(inputs[key])
            times[key].append(time.perf_counter() - begin)
    for key, runner in runners.items():
        ratios = np.array(times["stock, float32"]) / np.array(times[key])
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        error = np.sqrt(np.mean((runner(inputs[key])[0] - expected) ** 2) / np.mean(expected**2))
        lines.append(
            f"| {name} | {key} | {len(blobs[key]):,} | {middle:.2f} [{low:.2f}, {high:.2f}] | "
            f"{error:.1g} |\n"
        )
    print("".join(lines), flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/recurrent-files-benchmark.md")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--net", choices=NETS, help="this one alone; nothing is written")
    arguments = parser.parse_args()
    text = PROTOCOL.format(
        machine=machine(),
        width=WIDTH,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        rounds=arguments.rounds,
    )
    chosen = {arguments.net: NETS[arguments.net]} if arguments.net else NETS
    for name, net in chosen.items():
        text += "".join(measure(name, *net, arguments.rounds))
    if not arguments.net:
        write_page(arguments.out, text)


if __name__ == "__main__":
    main()
