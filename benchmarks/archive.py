"""Accuracy at the size of a download: sparse ternary weights, distilled, in an archive.

    python benchmarks/archive.py --nets folder [--only mlp] [--seeds 3]

Starts from the float nets of `nets.py` (trained and saved in the folder if missing). The inner
kernels become ternary; 10 epochs with the float net as the teacher (temperature 2, half of the
loss), Adam at a rate that falls to 0 by a cosine, batches of 128. An L1 penalty on the latents,
switched on slowly, drives weights to zero, and zeros are what an archive codes in few bits. Then
the other kernels are rounded to 6 bits, the norms recalibrated, and `archive.save(half=True)`
writes the file; the accuracy is that of the model that `archive.load` gives, on all test images.

Writes docs/archive-benchmark.md.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import layers
from nets import accuracy, inner_layers, load_or_train

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

BATCH, EPOCHS = 128, 10
PENALTY = {"mlp": 1e-4, "lenet": 1e-4, "resnet": 1e-4}
RATE = {"mlp": 1e-3, "lenet": 1e-3, "resnet": 1e-3}
TERNARY = {2: tfc.layers.TernaryDense, 4: tfc.layers.TernaryConv2D}
ROUNDED = {layers.Dense: tfc.layers.QuantizedDense, layers.Conv2D: tfc.layers.QuantizedConv2D}


def compressed(start, name, train, seed, penalty):
    keras.utils.set_random_seed(seed)
    student = tfc.swap(start, {n: TERNARY[start.get_layer(n).kernel.ndim] for n in inner(start)})
    for n in inner(start):
        layer = student.get_layer(n)
        layer.latent.regularizer = keras.regularizers.L1(penalty)
    both = tfc.Distiller(student=student, teacher=start, temperature=2.0, alpha=0.5)
    falling = keras.optimizers.schedules.CosineDecay(
        RATE[name], EPOCHS * -(-len(train[0]) // BATCH)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    both.compile(keras.optimizers.Adam(falling), loss)
    both.fit(*train, BATCH, EPOCHS, verbose=0)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--only", nargs="*", default=["mlp", "lenet", "resnet"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--penalty", type=float, nargs="*")
    arguments = parser.parse_args()
    train, test, _ = fashion_mnist()
    for name in arguments.only:
        start = load_or_train(name, arguments.nets, train)
        for penalty in arguments.penalty or [PENALTY[name]]:
            for seed in arguments.seeds:
                begin = time.time()
                small = compressed(start, name, train, seed, penalty)
                bytes_, right = measured(small, test)
                print(
                    f"| {name} | {penalty} | {seed} | {right:.4f} | {bytes_:,} | {zeros(small):.3f}"
                    f" | {time.time() - begin:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
