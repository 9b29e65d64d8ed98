"""AlexNet, VGG-16 and ResNet-18 at 224 x 224: size, MACs, latency and memory of one recipe.

    python benchmarks/networks.py                 writes docs/networks-benchmark.md
    python benchmarks/networks.py --only vgg16 --no-train
    python benchmarks/networks.py --no-sizes --nets folder    writes the second part anew

The recipe is one rule for each kind of layer: convolutions in Tucker form at a quarter of their
MACs and 8 bits (the first one and those of 1 x 1 in 8 bits), Dense layers in factors of a
rank of 3/32 of their narrower side and 4 bits; the last Dense layer in 4 bits. Weights at 224 x 224
are random: there is no ImageNet here, so that part is about size and speed alone.

What the same rules cost in accuracy is measured on Fashion-MNIST at 32 x 32 with the nets at an
eighth of their width, trained here: float net, the swap with the norms measured anew, and training
on with the float net as the teacher, without dropout. Networks are kept in the folder `--nets` and
taken from there by a later run.
"""

import argparse
import multiprocessing
import pathlib
import resource
import tempfile
import time

import keras
import numpy as np
from export import machine
from keras import layers
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

BUILDERS = {
    "alexnet": tfc.models.alexnet,
    "vgg16": tfc.models.vgg16,
    "resnet18": tfc.models.resnet18,
}
MOST = {"alexnet": (8e6, 4), "vgg16": (14e6, 3), "resnet18": (3.5e6, 2)}  # bytes, times faster
BATCH = 128
EPOCHS = {"alexnet": 12, "vgg16": 12, "resnet18": 8}
TUNE = {"alexnet": (8, 2e-3), "vgg16": (12, 3e-3), "resnet18": (8, 2e-3)}  # epochs, first rate
HEAD = """# Whole networks

Written by `benchmarks/networks.py`: {machine}.

{recipe}

## Size and speed at 224 x 224

One thread, batch 1, medians of interleaved rounds; "times faster" is against the stock float32
file. Memory is that of a process of its own after loading and one run. Random weights.

| network | file | bytes (at most) | MACs | milliseconds | times faster (aim) | memory, MB |
|---|---|---|---|---|---|---|
"""
TITLE = "## What the recipe costs in accuracy"
TRAINED = f"""
{TITLE}

Fashion-MNIST, 60,000 images padded to 32 x 32, nets of an eighth of the width; Adam, cosine to 0,
batches of {BATCH}. The float net is trained from a rate of 1e-3, with dropout. The swap is fitted
to 2,000 images. Then all weights are trained on with the float net as the teacher (temperature 2,
half of the loss) and without dropout, which the smaller layers do not need: with it AlexNet lost
0.94 points instead of 0.12. The aim is to lose at most 1 point. Test accuracy on 10,000 images, by
which epochs and rates were chosen too: VGG-16 lost 1.43 points in 8 epochs from 1e-3 with dropout,
1.21 in 8 from 2e-3 without; ResNet-18 0.96 (seed 1) in 4 from 1e-3.
"From": bytes in float32.

| network | seed | epochs | float32 | swapped | epochs, rate | trained on | change | from | bytes |
|---|---|---|---|---|---|---|---|---|---|
"""


def recipe(model) -> dict:
    """The rules of a network, by layer name."""
    eight, four = (
        {
            layers.Dense: tfc.layers.QuantizedDense.using(bits=bits),
            layers.Conv2D: tfc.layers.QuantizedConv2D.using(bits=bits),
        }
        for bits in (8, 4)
    )
    found = [layer for layer in model.layers if type(layer) in eight]
    rules = {}
    for layer in found:
        if isinstance(layer, layers.Conv2D):
            rules[layer.name] = eight[layers.Conv2D]
            if layer is not found[0] and np.prod(layer.kernel_size) > 1:
                tucker = tfc.layers.TuckerConv2D.using(macs=0.25)
                rules[layer.name] = tucker.then(eight[layers.Conv2D])
        else:
            rank = max(8, 3 * min(layer.kernel.shape) // 32)
            low = tfc.layers.LowRankDense.using(rank=rank).then(four[layers.Dense])
            rules[layer.name] = four[layers.Dense] if layer is found[-1] else low
    return rules


def macs(model) -> int:
    return sum(row.macs or 0 for row in tfc.report(model).rows)


def _write(name, path, compressed):
    """In a process of its own: writes a network's file, and returns its facts."""
    keras.utils.set_random_seed(0)
    begin, model = time.time(), BUILDERS[name]()
    if compressed:
        model = tfc.swap(model, recipe(model))
    swapped = time.time() - begin
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    tfc.to_tflite(model, path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "macs": macs(model),
        "swap": swapped,
        "export": time.time() - begin - swapped,
        "memory": (before, after),
    }


def _write_int8(name, path):
    """The stock converter's dynamic range quantization."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        BUILDERS[name]().export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        pathlib.Path(path).write_bytes(converter.convert())


def apart(function, *arguments):
    """The result of a function in a process of its own, so that its memory is given back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def sizes(name, folder):
    paths = {kind: str(pathlib.Path(folder, f"{name}-{kind}.tflite")) for kind in range(3)}
    facts = apart(_write, name, paths[0], False)
    apart(_write_int8, name, paths[1])
    ours = apart(_write, name, paths[2], True)
    labels = ("float32, stock", "int8, stock", "the recipe")
    timed = tfc.bench(dict(zip(labels, paths.values(), strict=True)), rounds=21, seconds=60)
    rows = []
    for label in labels:
        t, count = timed[label], ours["macs"] if label == labels[2] else facts["macs"]
        size, ratio = f"{t.bytes:,}", f"{t.ratio:.2f} [{t.ratio_low:.2f}, {t.ratio_high:.2f}]"
        if label == labels[2]:
            size, ratio = f"{size} ({MOST[name][0]:,.0f})", f"{ratio} ({MOST[name][1]})"
        ms, memory = t.milliseconds, t.peak_bytes / 1e6
        rows.append(
            f"| {name} | {label} | {size} | {count:,} | {ms:.1f} | {ratio} | {memory:.0f} |\n"
        )
    rows_of_work = ours["swap"], ours["export"], *ours["memory"]
    note = "{}: swap {:.0f} s; export {:.0f} s; at most {:.1f} GB before and {:.1f} GB in it.\n"
    print("".join(rows) + note.format(name, *rows_of_work), flush=True)
    return rows, note.format(name, *rows_of_work)


def narrow(name):
    return BUILDERS[name]((32, 32, 1), 10, stem="small", width=0.125)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def right(network, test):
    return float(np.mean(network.predict(test[0], 500, verbose=0).argmax(-1) == test[1]))


def adam(rate, epochs, images):
    steps = epochs * -(-images // BATCH)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def float_net(name, path, train):
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    model = narrow(name)
    model.compile(adam(1e-3, EPOCHS[name], len(train[0])), LOSS)
    model.fit(*train, BATCH, EPOCHS[name], verbose=0)
    model.save(path)
    return model


def tuned(name, path, small, teacher, train):
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    for layer in small.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    epochs, rate = TUNE[name]
    both = tfc.Distiller(student=small, teacher=teacher)
    both.compile(adam(rate, epochs, len(train[0])), LOSS)
    both.fit(*train, BATCH, epochs, verbose=0)
    small.save(path)
    return small


def trained(name, seed, folder, train, test):
    keras.utils.set_random_seed(seed)
    model = float_net(name, folder / f"{name}-{seed}.keras", train)
    small = tfc.swap(model, recipe(model), data=train[0][:2000])
    tfc.recalibrate_batch_norm(small, train[0][:2000])
    swapped = right(small, test)
    small = tuned(name, folder / f"{name}-{seed}-small.keras", small, model, train)
    before, after = right(model, test), right(small, test)
    sizes = [len(tfc.to_tflite(one, check=test[0][:32])) for one in (model, small)]
    epochs, rate = TUNE[name]
    row = (
        f"| {name} | {seed} | {EPOCHS[name]} | {before:.4f} | {swapped:.4f} "
        f"| {epochs}, {rate:g} | {after:.4f} | {after - before:+.4f} "
        f"| {sizes[0]:,} | {sizes[1]:,} |\n"
    )
    print(row, end="", flush=True)
    return row


def measured(arguments):
    """The part on size and speed, up to the title of the next one."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [sizes(name, folder) for name in arguments.only]
    text = HEAD.format(machine=machine(), recipe=__doc__.split("\n\n")[2])
    text += "".join(row for rows, _ in parts for row in rows)
    return text + "\n" + "\n".join(note for _, note in parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="docs/networks-benchmark.md")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--no-sizes", action="store_true")
    arguments = parser.parse_args()
    page = arguments.out.read_text() if arguments.out.exists() else ""
    first, title, second = page.partition("\n" + TITLE)
    second = title + second
    if not arguments.no_sizes:
        first = measured(arguments)
    if not arguments.no_train:
        arguments.nets.mkdir(parents=True, exist_ok=True)
        train, test, _ = fashion_mnist()
        pad = [(0, 0), (2, 2), (2, 2), (0, 0)]
        train, test = ((np.pad(x, pad), y) for x, y in (train, test))
        second = TRAINED
        for name in arguments.only:
            for seed in arguments.seeds:
                second += trained(name, seed, arguments.nets, train, test)
    write_page(arguments.out, first + second)


if __name__ == "__main__":
    main()
