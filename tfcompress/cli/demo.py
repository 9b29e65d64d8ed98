"""`tfcompress demo`: compresses one small network in seven ways and compares the results."""

import dataclasses
import gzip
import json
import pathlib

import keras
import numpy as np

from tfcompress.callbacks import Prune
from tfcompress.cli.pareto_plot import draw
from tfcompress.datasets import fashion_mnist
from tfcompress.export import to_tflite
from tfcompress.layers import (
    BinaryConv2D,
    BinaryDense,
    CirculantDense,
    CPConv2D,
    HashedDense,
    LowRankDense,
)
from tfcompress.pruning.one_shot import prune
from tfcompress.reporting.benchmark import bench
from tfcompress.reporting.model_report import report
from tfcompress.reporting.text import times_faster
from tfcompress.rewriting.swap import swap
from tfcompress.schedules import Constant
from tfcompress.tflite.runner import Runner
from tfcompress.utils.plain import plain
from tfcompress.utils.types import Path
from tfcompress.utils.writers import save_model, write_file

RULES = {
    "binary": {"conv[23]": BinaryConv2D.using(), "fc": BinaryDense.using()},
    "hashed 1/16": {"fc": HashedDense.using(ratio=16)},
    "circulant": {"fc": CirculantDense.using(block=64)},
    "SVD": {"fc": LowRankDense.using(rank=0.25)},
    "CP": {"conv[23]": CPConv2D.using(rank=0.25)},
    "80% pruned": {},
    "mixed": {"conv[23]": CPConv2D.using(rank=0.25), "fc": BinaryDense.using()},
}
RATES = {"hashed 1/16": 2e-3, "circulant": 2e-3, "CP": 5e-4}  # of Adam; 1e-3 for the others
BATCH_SIZE = 128
FITTED = 1000  # images that kernels are fitted to before they are trained
UNFITTED = ("CP", "mixed")  # such a fit of CP forms takes half a minute


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is trained.

    Attributes:
        images, tests: the numbers of images to train and to test on.
        epochs, tune: the epochs of the float network and of each fine-tuning.
    """

    images: int
    tests: int
    epochs: int
    tune: int


QUICK = Settings(images=8_000, tests=2_000, epochs=3, tune=1)
FULL = Settings(images=60_000, tests=10_000, epochs=6, tune=2)


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the table; `times_faster` is the float32 file's time divided by this file's."""

    name: str
    keras_accuracy: float
    litert_accuracy: float
    kernel_bits: int
    file_bytes: int
    gzip_bytes: int
    times_faster: float
    full_size: tuple[str, ...]


def demo(output: Path = "demo-results", quick: bool = False, seed: int = 0) -> list[Result]:
    """Trains a small CNN, compresses it in each way, exports and measures it.

    Args:
        output: the folder for `pareto.png`, `results.json` and the `.keras` and `.tflite` files.
        quick: whether to train on fewer images for fewer epochs, which takes about a minute on two
            cores. The accuracies then say little about the methods.
        seed: the seed of the initial weights and of the order of the images.

    Returns:
        The rows of the table, which is also printed.
    """
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    settings = QUICK if quick else FULL
    train, test, source = fashion_mnist()
    train, test = _first(train, settings.images), _first(test, settings.tests)
    console.print(
        f"Images: {plain(source)}, {len(train[0]):,} to train and {len(test[0]):,} to test"
    )
    models = _train_all(train, test, settings, seed, console)
    results = _measure(models, test, folder, console)
    console.print(_table(results))
    for result in results:
        if result.full_size:
            where = ", ".join(result.full_size)
            console.print(f"{result.name}: {where} is in the .tflite file at full size.")
    draw(results, folder / "pareto.png", f"Accuracy against size: {source}")
    rows = [dataclasses.asdict(result) for result in results]
    used = dataclasses.asdict(settings) | {"seed": seed, "data": source}
    write_file(folder / "results.json", json.dumps({"settings": used, "rows": rows}, indent=2))
    console.print(
        f"Seed {seed}, {settings.epochs} + {settings.tune} epochs. Files are in {plain(folder)}"
    )
    return results


def cnn() -> keras.Model:
    """Three convolutions and two Dense layers, 206,026 parameters."""
    layers = keras.layers
    same = {"padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, name="conv1", **same),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(64, 3, name="conv2", **same),
            layers.MaxPooling2D(name="pool2"),
            layers.Conv2D(64, 3, name="conv3", **same),
            layers.MaxPooling2D(name="pool3"),
            layers.Flatten(name="flatten"),
            layers.Dense(256, activation="relu", name="fc"),
            layers.Dense(10, name="out"),
        ],
        name="cnn",
    )


def _first(data, count):
    return tuple(array[:count] for array in data)


def _train_all(train, test, settings, seed, console):
    """`{name: (model, accuracy)}`, the float network first."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    steps = -(-len(train[0]) // BATCH_SIZE)
    columns = TextColumn("{task.description:14}"), BarColumn(), TextColumn("{task.fields[note]}")
    models = {}
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name in ("float32", *RULES):
            keras.utils.set_random_seed(seed)
            base = models["float32"][0] if models else None
            model = _compressed(base, name, train[0][:FITTED]) if models else cnn()
            total = steps * (settings.tune if models else settings.epochs)
            rate = RATES.get(name, 1e-3) if models else 2e-3
            task = progress.add_task(name, total=total, note="")
            callbacks = [
                keras.callbacks.LambdaCallback(
                    on_train_batch_end=lambda batch, logs, task=task: progress.advance(task)
                )
            ]
            if name == "80% pruned":
                callbacks.insert(0, Prune(Constant(0.8), every=25))
            accuracy = _fit(model, train, test, rate, total, callbacks)
            progress.update(task, note=f"accuracy {accuracy:.4f}")
            models[name] = model, accuracy
    return models


def _compressed(base, name, x):
    """The network in another form, before any training of that."""
    if name == "80% pruned":
        return prune(base, 0.8, data=x, score="obs")
    return swap(base, RULES[name], data=None if name in UNFITTED else x)


def _fit(model, train, test, rate, steps, callbacks):
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    epochs = steps // -(-len(train[0]) // BATCH_SIZE)
    model.fit(*train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks)
    return model.evaluate(*test, batch_size=500, verbose=0)[1]


def _measure(models, test, folder, console):
    blobs = {}
    with console.status("Exporting, and timing the files against each other"):
        for name, (model, _) in models.items():
            stem = folder / "".join(c if c.isalnum() else "-" for c in name)
            save_model(model, f"{stem}.keras")
            blobs[name] = to_tflite(model, f"{stem}.tflite", check=test[0][:32])
        timed = bench(blobs, memory=False)
    return [
        _result(name, *models[name], test, blob, timed[name].ratio) for name, blob in blobs.items()
    ]


def _result(name, model, accuracy, test, blob, ratio):
    made = report(model, tflite=blob)
    return Result(
        name=name,
        keras_accuracy=accuracy,
        litert_accuracy=_litert_accuracy(blob, *test),
        kernel_bits=made.bits,
        file_bytes=len(blob),
        gzip_bytes=len(gzip.compress(blob, 9)),
        times_faster=ratio,
        full_size=tuple(row.path for row in made.rows if row.full_size),
    )


def _litert_accuracy(blob, x, y, batch=500):
    run = Runner(blob)
    hits = [
        np.argmax(run([x[i : i + batch]])[0], axis=1) == y[i : i + batch]
        for i in range(0, len(x), batch)
    ]
    return float(np.concatenate(hits).mean())


def _table(results):
    from rich.table import Table

    table = Table(title="Fine-tuned from the float32 net, exported, and run")
    table.add_column("", no_wrap=True)
    for name in (
        "accuracy\nin LiteRT",
        "kernels,\nbits",
        ".tflite\nbytes",
        "gzip\nbytes",
        "against the\nfloat32 file",
    ):
        table.add_column(name, justify="right")
    for r in results:
        table.add_row(
            r.name,
            f"{r.litert_accuracy:.4f}",
            f"{r.kernel_bits:,}",
            f"{r.file_bytes:,}",
            f"{r.gzip_bytes:,}",
            "" if r is results[0] else times_faster(1 / r.times_faster),
        )
    return table
