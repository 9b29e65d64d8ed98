"""Low rank: accuracy in the metric, after fine-tuning, and what a decomposition costs.

    python benchmarks/low_rank.py --nets folder     trains the float nets there if missing
    python benchmarks/low_rank.py --only resnet     one of resnet, cnn, cost

Writes docs/low-rank-benchmark.md.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import time

import keras
import numpy as np
from keras import layers
from nets import accuracy, inner_layers, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.numerics.cp import correct, cp, cp_noise_sensitivity
from tfcompress.numerics.low_rank import svd

FORMS = {
    "SVD": tfc.layers.LowRankConv2D,
    "spatial": tfc.layers.SpatialConv2D,
    "Tucker": tfc.layers.TuckerConv2D,
    "CP": tfc.layers.CPConv2D,
}
IMAGES, EPOCHS, CP_SHAPE = 2000, 7, (9, 512, 512)

RESNET = """
## A trained ResNet at 4x fewer MACs, no labels, no training

{data}, float {base:.4f}, all convolutions but the first. {images} calibration images, {draws} draws
of them (mean, and the lowest). "Plain": the nearest kernel in the sum of squares. "In the metric":
`swap(data=images)`, layer by layer. BatchNorm recalibrated on the same images. SVD at half and
quarter rank is in post-training-benchmark.md.

| form | plain | in the metric | lowest | seconds |
|---|---|---|---|---|
"""
CNN = """
## A CNN of 24-48-64 channels, fine-tuned

{data}, mean of the nets of seeds {seeds} (Adam, cosine from 2e-3, {epochs} epochs): {mean:.4f}
(between {low:.4f} and {high:.4f}). The second and third convolution swapped in the metric of
{images} images; then BatchNorm recalibrated; then 2 epochs of all images, Adam, cosine from 1e-3
(chosen among 5e-4, 1e-3 and 2e-3 by CP at 1/4).
Differences from the float net, in points: the mean, and the worst net.

| form | parameters | swapped | recalibrated | fine-tuned |
|---|---|---|---|---|
"""
COST = """
## What a decomposition takes

Random kernels. Seconds of processor time. Memory: the peak of the process, Keras and TensorFlow
(0.5 GB) included. Sensitivity: see `factorize.sensitivity`.

| | relative error | sensitivity | seconds | GB |
|---|---|---|---|---|
"""


def four_times(model):
    for name, form in FORMS.items():
        yield f"{name}, 4x fewer MACs", {n: form.using(macs=0.25) for n in inner_layers(model)}


def resnet(nets, seeds):
    """The ResNet of nets.py, all convolutions but the first, without labels or training."""
    train, test, data = fashion_mnist()
    model = load_or_train("resnet", nets, train)
    yield RESNET.format(data=data, base=accuracy(model, *test), images=IMAGES, draws=len(seeds))
    draws = [np.random.default_rng(s).choice(len(train[0]), IMAGES, False) for s in seeds]
    for name, rules in four_times(model):
        found = {False: [], True: []}
        for images in (train[0][draw] for draw in draws):
            for measured in (False, True):
                start = time.perf_counter()
                small = tfc.swap(model, rules, data=images if measured else None)
                tfc.recalibrate_batch_norm(small, images)
                seconds = time.perf_counter() - start
                found[measured].append(accuracy(small, *test))
        plain, metric = found[False], found[True]
        yield (
            f"| {name} | {np.mean(plain):.4f} | **{np.mean(metric):.4f}** | {min(metric):.4f} | "
            f"{seconds:.0f} |\n"
        )


def small_cnn():
    def conv(filters, stride, name):
        return layers.Conv2D(filters, 3, stride, "same", use_bias=False, name=name)

    parts = [keras.Input((28, 28, 1))]
    for name, filters, stride in (("c1", 24, 2), ("c2", 48, 2), ("c3", 64, 1)):
        parts += [conv(filters, stride, name), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([*parts, layers.Flatten(), layers.Dropout(0.3), layers.Dense(10)])


def fit(model, train, rate, epochs, seed):
    steps = epochs * -(-len(train[0]) // 128)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), loss)
    keras.utils.set_random_seed(seed)
    model.fit(*train, batch_size=128, epochs=epochs, verbose=0)
    return model


def cnn(nets, seeds):
    """A CNN of 24-48-64 channels, its second and third convolution."""
    train, test, data = fashion_mnist()
    models = []
    for seed in seeds:
        path = pathlib.Path(nets, f"cnn-24-48-64-seed-{seed}.keras")
        if not path.exists():
            keras.utils.set_random_seed(seed)
            fit(small_cnn(), train, 2e-3, EPOCHS, seed).save(path)
        models.append(keras.saving.load_model(path, compile=False))
    floats = np.array([accuracy(model, *test) for model in models])
    yield CNN.format(
        data=data,
        seeds=list(seeds),
        epochs=EPOCHS,
        images=IMAGES,
        mean=floats.mean(),
        low=floats.min(),
        high=floats.max(),
    )
    for name, form in reversed(FORMS.items()):
        for cut in (4, 8):
            runs = []
            for seed, model in zip(seeds, models, strict=True):
                images = train[0][np.random.default_rng(seed).choice(len(train[0]), IMAGES, False)]
                small = tfc.swap(model, {"c[23]": form.using(rank=1 / cut)}, data=images)
                run = [accuracy(small, *test)]
                tfc.recalibrate_batch_norm(small, images)
                run += [accuracy(small, *test), accuracy(fit(small, train, 1e-3, 2, seed), *test)]
                runs.append(run)
            lost = 100 * (np.array(runs) - floats[:, None])
            cells = [f"{one.mean():+.2f} ({one.min():+.2f})" for one in lost.T]
            yield f"| {name} | 1/{cut} | {' | '.join(cells)} |\n"


def one_cost(what):
    """Runs one decomposition in this process and prints its row."""
    random = np.random.default_rng(0)
    expression, start = "sr,ir,or->sio", time.process_time()
    if what == "svd":
        w = random.standard_normal((25088, 4096), dtype="float32")
        start = time.process_time()
        u, v = svd(w, 256)
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        error = np.sqrt(1 - np.vdot(u.T @ u, v @ v.T) / np.vdot(w, w))
        print(f"| SVD of 25088 x 4096, rank 256 | {error:.4f} | | {seconds:.0f} | {memory:.2f} |")
        return
    w = random.standard_normal(CP_SHAPE, dtype="float32")

    def relative_error(factors):
        return np.linalg.norm(w - np.einsum(expression, *factors, optimize=True)) / np.linalg.norm(
            w
        )

    if what == "best":
        runs = [cp(w, 256, seed=seed, starts=1, sweeps=600) for seed in range(1, 6)]
        factors = min(runs, key=relative_error)
        name = "the best of five runs of 600 sweeps"
    else:
        factors = cp(w, 256)
        name = "CP of 3x3x512x512, rank 256"
        if what == "corrected":
            factors, name = correct(w, factors), "the same, corrected"
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    error, spread = relative_error(factors), cp_noise_sensitivity(factors, expression)
    print(f"| {name} | {error:.4f} | {spread:.3g} | {seconds:.0f} | {memory:.2f} |")


def cost(nets, seeds):
    yield COST
    for what in ("svd", "cp", "corrected", "best"):
        command = [sys.executable, __file__, "--cost", what]
        yield subprocess.run(command, check=True, capture_output=True, text=True).stdout


PARTS = {"resnet": resnet, "cnn": cnn, "cost": cost}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="docs/low-rank-benchmark.md")
    parser.add_argument("--cost", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cost:
        return one_cost(arguments.cost)
    text = "# Low rank\n\nWritten by `benchmarks/low_rank.py`.\n"
    for name in arguments.only:
        for line in PARTS[name](arguments.nets, range(arguments.seeds)):
            print(line, end="", flush=True)
            text += line
    write_page(arguments.output, text)


if __name__ == "__main__":
    main()
