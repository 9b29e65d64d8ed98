"""Hashed and circulant layers: accuracy of networks trained from nothing, steps, memory, files.

    python benchmarks/structured.py
    python benchmarks/structured.py --only steps memory     also: hashed, circulant

Writes docs/structured-benchmark.md.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from keras import layers
from nets import accuracy
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

BATCH, ROUNDS = 128, 12
HASHED = """
## Hashed layers: 784-1000-10

{data}, all images, standardised, from random weights: Adam, 3 epochs of 1e-3 and 2 of 1e-4, batches
of 128. Mean of seeds {seeds} (and each). Parameters include the biases. "Dense of that size": fewer
hidden units.

| net | parameters | accuracy | Dense of that size | points |
|---|---|---|---|---|
"""
CIRCULANT = """
## Circulant layers: 1024-1024-1024-10

{data}, the first 30,000 images, standardised and padded to 1024 pixels, from random weights: Adam,
4 epochs of 1e-3 and one of 1e-4, batches of 128. Mean of seeds {seeds} (and each). Both hidden
layers circulant.

| net | parameters | accuracy | Dense of that size | points |
|---|---|---|---|---|
"""
STEPS = """
## A step of training

Adam, mean squared error, batches of 128: the median of {rounds} rounds in each of which every layer
takes two steps. Processor time, as a multiple of that of `keras.layers.Dense`.

| layer | kernel | of Dense |
|---|---|---|
"""
MEMORY = """
## Memory of training

One layer, four steps as above. By how much the peak of the process grows from when the inputs are
there: building, compiling and Adam's moments included.

| layer | kernel | stored | peak |
|---|---|---|---|
"""
FILES = """
## Files

`.keras` after `save`; SavedModel after `export`.

| layer | kernel | float32 kernel | stored | .keras | SavedModel |
|---|---|---|---|---|---|
"""


def standardised(width):
    """The images as rows of this width, with mean 0 and variance 1 over all pixels."""
    (x, y), (x_test, y_test), name = fashion_mnist()
    rows = [((a - x.mean()) / x.std()).reshape(len(a), -1) for a in (x, x_test)]
    x, x_test = (np.pad(a, [(0, 0), (0, width - a.shape[1])]) for a in rows)
    return (x, y), (x_test, y_test), name


def train(seed, hidden, data, epochs):
    """A net with these hidden layers (functions that make one from a seed), trained."""
    keras.utils.set_random_seed(seed)
    parts = [make(seed * len(hidden) + place) for place, make in enumerate(hidden)]
    model = keras.Sequential([keras.Input(data[0].shape[1:]), *parts])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    for rate, count in zip((1e-3, 1e-4), epochs, strict=True):
        model.optimizer.learning_rate = rate
        model.fit(*data, batch_size=BATCH, epochs=count, verbose=0)
    return model


def dense(units, activation="relu"):
    return lambda seed: layers.Dense(units, activation=activation)


def hashed_layer(units, activation="relu", **options):
    return lambda seed: tfc.layers.HashedDense(units, activation=activation, seed=seed, **options)


def circulant_layer(**options):
    return lambda seed: tfc.layers.CirculantDense(1024, activation="relu", seed=seed, **options)


def runs(seeds, test, *arguments):
    models = [train(seed, *arguments) for seed in seeds]
    return models[0].count_params(), np.array([accuracy(model, *test) for model in models])


def cell(values):
    return f"{values.mean():.4f} ({', '.join(f'{value:.4f}' for value in values)})"


def compared(name, net, dense_net):
    (count, found), (_, other) = net, dense_net
    points = 100 * (found.mean() - other.mean())
    return f"| {name} | {count:,} | {cell(found)} | {cell(other)} | {points:+.2f} |\n"


def hashed(seeds):
    data, test, name = standardised(784)
    yield HASHED.format(data=name, seeds=list(seeds))

    def run(*hidden):
        return runs(seeds, test, hidden, data, (3, 2))

    count, found = run(dense(1000), dense(10, None))
    yield f"| Dense | {count:,} | {cell(found)} | | |\n"
    for ratio, units in ((8, 126), (16, 63), (64, 17)):
        other = run(dense(units), dense(10, None))
        for blocks in (1, 8) if ratio > 8 else (1,):
            options = {"ratio": ratio, "blocks": blocks}
            net = run(hashed_layer(1000, **options), hashed_layer(10, None, **options))
            runs_of = f", blocks of {blocks}" if blocks > 1 else ""
            yield compared(f"hashed 1/{ratio}{runs_of}", net, other)


def circulant(seeds):
    data, test, name = standardised(1024)
    data = [a[:30_000] for a in data]
    yield CIRCULANT.format(data=name, seeds=list(seeds))

    def run(make):
        return runs(seeds, test, (make, make, dense(10, None)), data, (4, 1))

    count, found = run(dense(1024))
    yield f"| Dense | {count:,} | {cell(found)} | | |\n"
    for units, options in ((13, {"block": None}), (43, {"block": 64})):
        other, form = run(dense(units)), "one circulant" if units == 13 else "blocks of 64"
        for signs in (True, False):
            with_signs = "signs" if signs else "no signs"
            net = run(circulant_layer(signs=signs, **options))
            yield compared(f"{form}, {with_signs}", net, other)


def one_layer(layer, n):
    model = keras.Sequential([keras.Input((n,)), layer])
    model.compile("adam", "mse")
    return model


def samples(n):
    return np.random.default_rng(0).standard_normal((BATCH, n)).astype("float32")


def ratios(n, names):
    """Processor time of a step as a multiple of that of Dense."""
    x, times = samples(n), {}
    models = {name: one_layer(FORMS[name](n), n) for name in ("Dense", *names)}
    for model in models.values():
        for _ in range(3):
            model.train_on_batch(x, x)
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.process_time()
            for _ in range(2):
                model.train_on_batch(x, x)
            times.setdefault(name, []).append(time.process_time() - start)
    medians = {name: np.median(values) for name, values in times.items()}
    return {name: medians[name] / medians["Dense"] for name in names}


FORMS = {
    "Dense": lambda n: layers.Dense(n),
    "HashedDense(ratio=8)": lambda n: tfc.layers.HashedDense(n, ratio=8),
    "HashedDense(ratio=8, blocks=8)": lambda n: tfc.layers.HashedDense(n, ratio=8, blocks=8),
    "HashedDense(ratio=8, blocks=32)": lambda n: tfc.layers.HashedDense(n, ratio=8, blocks=32),
    "HashedDense(ratio=64)": lambda n: tfc.layers.HashedDense(n, ratio=64),
    "HashedDense(ratio=64, blocks=8)": lambda n: tfc.layers.HashedDense(n, ratio=64, blocks=8),
    "TileHashedDense()": lambda n: tfc.layers.TileHashedDense(n),
    "CirculantDense()": lambda n: tfc.layers.CirculantDense(n),
    "CirculantDense(block=64)": lambda n: tfc.layers.CirculantDense(n, block=64),
}
HASHED_FORMS, CIRCULANT_FORMS = list(FORMS)[1:7], list(FORMS)[7:]


def steps(seeds):
    yield STEPS.format(rounds=ROUNDS)
    sizes = {784: HASHED_FORMS, 2048: [*HASHED_FORMS, *CIRCULANT_FORMS]}
    sizes |= {n: CIRCULANT_FORMS for n in (256, 1024, 4096)}
    for n, names in sizes.items():
        for name, ratio in ratios(n, names).items():
            yield f"| `{name}` | {n} x {n} | {ratio:.2f} |\n"
        keras.backend.clear_session()


def peak(name, n):
    """Trains one layer in this process and prints its row."""
    one_layer(layers.Dense(4), 4).train_on_batch(samples(4), np.zeros((BATCH, 4)))
    x, before = samples(n), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = one_layer(FORMS[name](n), n)
    for _ in range(4):
        model.train_on_batch(x, x)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    stored = 4 * (model.count_params() - n)
    print(f"| `{name}` | {n} x {n} | {stored / 1e6:.2f} MB | {grown / 1e3:.0f} MB |")


def memory(seeds):
    yield MEMORY
    hashed = ["HashedDense(ratio=64)", "HashedDense(ratio=64, blocks=8)", "TileHashedDense()"]
    for n, names in ((8192, CIRCULANT_FORMS), (4096, hashed)):
        for name in ("Dense", *names):
            command = [sys.executable, __file__, "--peak", name, str(n)]
            yield subprocess.run(command, check=True, capture_output=True, text=True).stdout


def files(seeds):
    yield FILES
    for name in ("HashedDense(ratio=64)", "HashedDense(ratio=64, blocks=8)", "CirculantDense()"):
        model = one_layer(FORMS[name](4096), 4096)
        with tempfile.TemporaryDirectory() as folder:
            keras_file, exported = (
                pathlib.Path(folder, "model.keras"),
                pathlib.Path(folder, "saved"),
            )
            keras.Sequential([keras.Input((4096,)), *model.layers]).save(keras_file)
            model.export(exported, verbose=False)
            size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
            sizes = [4 * 4096**2, model.layers[0].bits / 8, keras_file.stat().st_size, size]
        yield f"| `{name}` | 4096 x 4096 | {' | '.join(f'{s / 1e6:.2f} MB' for s in sizes)} |\n"


PARTS = {
    "hashed": hashed,
    "circulant": circulant,
    "steps": steps,
    "memory": memory,
    "files": files,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="docs/structured-benchmark.md")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return peak(arguments.peak[0], int(arguments.peak[1]))
    text = "# Hashed and circulant layers\n\nWritten by `benchmarks/structured.py`.\n"
    for name in arguments.only:
        for line in PARTS[name](range(arguments.seeds)):
            print(line, end="", flush=True)
            text += line
    write_page(arguments.output, text)


if __name__ == "__main__":
    main()
