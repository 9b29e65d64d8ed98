"""What the scripts of the papers share: their arguments, their data and their results.

A full run keeps what it found in `results/<script>.json`: for each row and seed the epochs, what
was measured, and the seconds. A row that is there with as many epochs is not run again, so that a
run that was stopped goes on where it was.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

from tfcompress import datasets

FOLDER = pathlib.Path(__file__).parent / "results"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def read_arguments(doc, epochs, seeds=(0, 1, 2)):
    """The arguments that all scripts have; `quick` turns the number of epochs into 1."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few examples, one epoch, no file")
    parser.add_argument(
        "--data",
        help="a folder with mnist.npz, usps.h5 and cifar10_jpeg.npz, or one of these files; "
        "without it Keras downloads",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--epochs", type=int, default=epochs, help="of the longest training")
    parser.add_argument("--rows", nargs="+", default=[""], help="only rows that begin like one")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score on the last sixth of the training data, left out of it, and keep nothing: "
        "how settings were chosen",
    )
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.epochs = given.seeds[:1], 1
    return given


def file_of(given, name):
    """The path of a data set: `--data`, or the file of this name in that folder."""
    if given.data is None:
        return None
    path = pathlib.Path(given.data)
    return path / name if path.is_dir() else path


def load(given, name, make):
    """`(x, y), (x_test, y_test)` as `make(path)` reads them; with `--quick` a few small images.

    Images of 28 x 28 then stand in for those of MNIST, and are cut for others.
    """
    if not given.quick:
        return split(given, make(file_of(given, name)))
    (x, y), (x_test, y_test), _ = datasets.fashion_mnist()
    if name == "usps.h5":
        x, x_test = x[:, 6:22, 6:22], x_test[:, 6:22, 6:22]
    if name == "cifar10_jpeg.npz":
        x, x_test = (np.pad(a, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, -1) for a in (x, x_test))
    return (x[:640], y[:640]), (x_test[:200], y_test[:200])


def split(given, data):
    """The data as they are, or with `--validation` a sixth of the training data as the test."""
    if not given.validation:
        return data
    x, y = data[0]
    train = len(x) * 5 // 6
    return (x[:train], y[:train]), (x[train:], y[train:])


def each(given, script, rows, run):
    """Calls `run(row, seed)` for all seeds and rows that are not done, and keeps what it returns.

    Args:
        given: the arguments.
        script: `__file__` of the script.
        rows: names; `--quick` takes the first two.
        run: returns a dict of numbers, of which `accuracy` is a share.
    """
    path = FOLDER / f"{pathlib.Path(script).stem}.json"
    rows = [row for row in rows if row.startswith(tuple(given.rows))]
    if given.quick:
        rows = rows[:2]
    for seed in given.seeds:
        for row in rows:
            done = read(path).get(row, {}).get(str(seed), {})
            if done.get("epochs") == given.epochs and not (given.quick or given.validation):
                continue
            begin = time.perf_counter()
            keras.utils.set_random_seed(seed)
            found = {"epochs": given.epochs} | run(row, seed)
            found["seconds"] = round(time.perf_counter() - begin, 1)
            print(f"{row}, seed {seed}: {found}", flush=True)
            if not (given.quick or given.validation):
                write(path, row, seed, found)


def read(path):
    """`{row: {seed: what was measured}}`, empty if there is no file."""
    path = pathlib.Path(path)
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, row, seed, found):
    """Adds an entry to a file; a reader sees the old file or the new one."""
    results = read(path)
    results.setdefault(row, {})[str(seed)] = found
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def accuracy(model, test):
    """The share of examples whose largest output is that of their label."""
    x, y = test
    return float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(-1) == y))


def fit(model, train, epochs, rate=1e-3, batch=128, loss=LOSS, callbacks=()):
    """Trains with Adam, whose rate falls to 0 along a cosine; returns the model."""
    steps = max(1, round(epochs * -(-len(train[0]) // batch)))
    rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    # On a CPU, XLA takes two to three times as long for convolutions.
    convolves = any(hasattr(layer, "kernel_size") for layer in model.layers)
    jit = False if convolves else "auto"
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=jit)
    model.fit(*train, batch_size=batch, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model
