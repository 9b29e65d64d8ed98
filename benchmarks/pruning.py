"""Pruning in training: Optimal Brain Damage, magnitude, a start by surgery, whole channels.

    python benchmarks/pruning.py --nets folder         trains the float nets there if missing
    python benchmarks/pruning.py --tfmot venv/bin/python   also tensorflow_model_optimization, in an
                                       environment that has it and tf_keras (tfmot_pruning.py)

Writes docs/pruning-benchmark.md.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import keras
import numpy as np
from nets import BUILDERS, accuracy, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.measure.macs import macs as macs_of

STEPS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
EPOCHS = {"mlp": 4, "lenet": 4, "resnet": 2}
RATES = {"mlp": 1e-3, "lenet": 1e-3, "resnet": 5e-4}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = """# Pruning in training

Written by `benchmarks/pruning.py` on {data}, test accuracy. All kernels are pruned, the last layer
too; ranking over all of them (`scope="global"`). The curvature of OBD and the inputs of surgery are
measured on {images} training images.
"""


def compile_for(model, rate, epochs, batches, cosine):
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * batches) if cosine else rate
    model.compile(keras.optimizers.Adam(schedule), LOSS, metrics=["accuracy"])


def ladder(seed, score, train, test, images, floats):
    """LeNet-300-100, one epoch for each step of the sparsity; in each the rate falls to 0."""
    batches = -(-len(train[0]) // 128)
    keras.utils.set_random_seed(seed)
    if seed not in floats:
        floats[seed] = BUILDERS["mlp"]()
        compile_for(floats[seed], 1e-3, 10, batches, cosine=False)
        floats[seed].fit(*train, batch_size=128, epochs=10, verbose=0)
    model = tfc.rewrite.copy(floats[seed])
    data = None if score == "magnitude" else tuple(a[:images] for a in train)
    found = []
    for sparsity in STEPS:
        compile_for(model, 2e-3, 1, batches, cosine=True)
        prune = tfc.callbacks.Prune(tfc.schedules.Constant(sparsity), score, data)
        model.fit(*train, batch_size=128, verbose=0, callbacks=[prune])
        found.append(accuracy(model, *test))
    return found


def fine_tuned(name, base, sparsity, method, cosine, train, test, images):
    """A short training from the float weights."""
    epochs, batches = EPOCHS[name], -(-len(train[0]) // 128)
    keras.utils.set_random_seed(0)
    data = tuple(a[:images] for a in train)
    total = epochs * batches
    if method == "surgery":
        model = tfc.prune(base, sparsity, data[0], "obs", scope="global")
        schedule = tfc.schedules.Constant(sparsity)
    else:
        model = tfc.rewrite.copy(base)
        schedule = tfc.schedules.Polynomial(0.3, sparsity, steps=total * 6 // 10)
    prune = tfc.callbacks.Prune(
        schedule,
        "obd" if method == "OBD" else "magnitude",
        data if method == "OBD" else None,
        every=max(1, total // 20),
    )
    compile_for(model, RATES[name], epochs, batches, cosine)
    model.fit(*train, batch_size=128, epochs=epochs, verbose=0, callbacks=[prune])
    return accuracy(model, *test)


def step_cost(base, x, y, rounds=30):
    """Time of a batch with `Prune` over that of one without, between scorings."""
    x, y = x[: 128 * 20], y[: 128 * 20]
    models = [tfc.rewrite.copy(base) for _ in range(2)]
    prune = tfc.callbacks.Prune(tfc.schedules.Constant(0.5), every=10**9)
    times = [[], []]
    for model in models:
        compile_for(model, 1e-4, 1, 20, cosine=False)
    for _ in range(rounds):
        for model, callbacks, seen in zip(models, ([], [prune]), times, strict=True):
            clock = Clock()
            model.fit(x, y, batch_size=128, verbose=0, callbacks=[*callbacks, clock])
            seen.append(np.median(np.diff(clock.ends[2:])))
    return float(np.median(np.divide(times[1][2:], times[0][2:])))


class Clock(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def channels(base, train, test, images, amount=0.3):
    """The ResNet at half of its MACs, by removal of channels."""
    rows = []
    x = train[0][:images]
    blobs = {"float": tfc.to_tflite(base, check=test[0][:8])}
    for score, multiple in (("magnitude", 1), ("obs", 1), ("obs", 16)):
        keras.utils.set_random_seed(0)
        data = x if score == "obs" else None
        small = tfc.prune_channels(base, amount, score, data, multiple=multiple)
        tfc.recalibrate_batch_norm(small, x)
        before = accuracy(small, *test)
        compile_for(small, 1e-3, 2, -(-len(train[0]) // 128), cosine=True)
        small.fit(*train, batch_size=128, epochs=2, verbose=0)
        name = score if multiple == 1 else f"{score}, multiples of {multiple}"
        blobs[name] = tfc.to_tflite(small, check=test[0][:8])
        macs = total_macs(small) / total_macs(base)
        rows.append((name, macs, before, accuracy(small, *test), len(blobs[name])))
    timed = tfc.bench(blobs, memory=False)
    return [(*row, timed[row[0]].ratio) for row in rows], len(blobs["float"])


def total_macs(model):
    return sum(count or 0 for count in macs_of(model).values())


def tfmot(python, name, base, sparsity):
    """The same budget by tensorflow_model_optimization, in its own process and environment."""
    script = pathlib.Path(__file__).with_name("tfmot_pruning.py")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/weights.npz", *base.get_weights())
        budget = [str(EPOCHS[name]), str(RATES[name])]
        command = [python, script, name, f"{folder}/weights.npz", str(sparsity), *budget]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--tfmot", help="a Python that has tensorflow_model_optimization")
    parser.add_argument("--output", default="docs/pruning-benchmark.md")
    options = parser.parse_args()
    train, test, data = fashion_mnist()
    bases = {name: load_or_train(name, options.nets, train) for name in options.only}
    text = [HEAD.format(data=data, images=options.images)]

    def say(line):
        print(line, flush=True)
        text.append(line)

    say(f"\n## LeNet-300-100, one epoch a step, mean of {options.seeds} seeds\n")
    say("Adam, in each step from 2e-3 to 0 by a cosine; the float net: 10 epochs at 1e-3.\n")
    say("| score | " + " | ".join(f"{s:.0%}" for s in STEPS) + " |")
    say("|---" * (len(STEPS) + 1) + "|")
    floats = {}
    for score in ("magnitude", "obd"):
        runs = [
            ladder(seed, score, train, test, options.images, floats)
            for seed in range(options.seeds)
        ]
        means, spread = np.mean(runs, 0), np.ptp(runs, 0)
        cells = [f"{mean:.4f} ({r:.4f})" for mean, r in zip(means, spread, strict=True)]
        say(f"| {score} | " + " | ".join(cells) + " |")
    say("\nIn brackets: the range over the seeds.\n\n## From trained float nets, seed 0\n")
    say("4 epochs (ResNet: 2), Adam 1e-3 (ResNet: 5e-4). Surgery: `tfc.prune(score='obs')` first,")
    say("then trained with its zeros.\n")
    say("| net (float) | zeros | method | constant rate | cosine rate |\n|---|---|---|---|---|")
    for name, base in bases.items():
        for sparsity in (0.9, 0.95):
            title = f"| {name} ({accuracy(base, *test):.4f}) | {sparsity:.0%} |"
            for method in ("magnitude", "OBD", "surgery"):
                arguments = name, base, sparsity, method
                two = [
                    fine_tuned(*arguments, cosine, train, test, options.images)
                    for cosine in (False, True)
                ]
                say(f"{title} {method} | {two[0]:.4f} | {two[1]:.4f} |")
            if options.tfmot:
                two = tfmot(options.tfmot, name, base, sparsity)
                say(f"{title} tensorflow_model_optimization | {two[0]:.4f} | {two[1]:.4f} |")
    if "resnet" in bases:
        base = bases["resnet"]
        say("\n## Channels of the ResNet: 30% removed, then 2 epochs, Adam 1e-3, cosine\n")
        say("| score | MACs left | before training | after | `.tflite` bytes | times faster |")
        say("|---|---|---|---|---|---|")
        rows, size = channels(base, train, test, options.images)
        for score, macs, before, after, count, ratio in rows:
            say(f"| {score} | {macs:.2f} | {before:.4f} | {after:.4f} | {count:,} | {ratio:.2f} |")
        say(f"\nThe float file: {size:,} bytes.")
        ratio = step_cost(base, *train)
        say(f"\nA training step of the ResNet with `Prune`, between scorings: {ratio:.2f} times")
        say("one without, median of interleaved rounds.")
    write_page(options.output, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
