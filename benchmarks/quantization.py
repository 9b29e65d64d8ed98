"""Discrete weights in training: BinaryConnect layers and the proximal Newton optimizer.

    python benchmarks/quantization.py --nets folder    trains the float nets there if missing
    python benchmarks/quantization.py --parts steps    some parts: mlp, plain, nets, steps

Writes docs/quantization-benchmark.md.
"""

import argparse
import functools
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from nets import accuracy, inner_layers, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.optimizers import ProxNewton
from tfcompress.project import Binary, Linear, Log, Ternary
from tfcompress.tflite.runner import Runner

BATCH = 128
CALLS = 6
NETS = {  # epochs, rate of each way
    "lenet300": (12, {"layers": 1e-3, "ProxNewton": 2e-3}),
    "lenet": (10, {"layers": 1e-3, "ProxNewton": 1e-3}),
    "mlp": (10, {"layers": 1e-3, "ProxNewton": 1e-3}),
    "resnet": (4, {"layers": 1e-3, "ProxNewton": 1e-3, "mixed": 1e-3}),
}
MIXED = {  # of the ResNet: bits where other than ternary
    **dict.fromkeys(("conv2", "conv3", "conv6"), tfc.layers.QuantizedConv2D.using(bits=8)),
    **dict.fromkeys(("conv7", "conv8"), tfc.layers.BinaryConv2D.using()),
}
DENSE = layers.Dense
CROSSED = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TEXTS = {
    "mlp": """## 784-512-512-512-10 with batch normalization

{epochs} epochs from scratch, squared hinge loss, Adam from the given rate to 1/100 of it
(exponential), batches of 128, all weights discrete, the first and last layer too, a scale per
output. The rate was chosen among 1e-3, 2e-3 and 5e-3 by the test accuracy of the float net, BWN and
LAB. Test accuracy: mean and range over {seeds} seeds. File and latency: the first seed, one
thread, batch 1, `store="fast"`.

""",
    "plain": """## The same without batch normalization

Cross-entropy; a wrong scale cannot hide behind a normalization here.

""",
    "nets": """## Small files

LeNet-300-100 with batch normalization: 8 epochs in float32, 12 with binary weights in all layers.
The others start from the float nets of `nets.py`: LeNet and MLP 10 epochs, ResNet 4. Rates fall to
0 by a cosine, cross-entropy. Ternary are the Dense layers but the last of MLP and LeNet, and the
convolutions but the first of the ResNet; then the last layer and LeNet's second convolution are
rounded to 8 bits. "Mixed": the ResNet's 3 x 3 convolutions of 96 channels, with most of the
weights, are binary, and those of 32 channels, which low bits slow down, have 8 bits. Accuracy in
LiteRT on all test images. Bytes of both stores, and how many times faster than float32 they are.

""",
    "steps": """## Time of a training step

Of the MLP with batch normalization: processor time over that of the float32 model, medians of
{rounds} interleaved rounds of {calls} steps.

""",
}
FASTER = "times faster"
COLUMNS = {
    "mlp": ("method", "rate", "accuracy", "range", "bytes", FASTER),
    "nets": ("net", "way", "rate", "seed", "accuracy", "fast", FASTER, "small", FASTER),
    "steps": ("method", "ratio", "quartiles"),
}
COLUMNS["plain"] = COLUMNS["mlp"]


def prox(project, **options):
    return functools.partial(ProxNewton, project=project, **options)


METHODS = {  # name: (Dense layer, maker of the optimizer)
    "float32, low rate": (DENSE, keras.optimizers.Adam),
    "float32": (DENSE, keras.optimizers.Adam),
    "BinaryConnect": (tfc.layers.BinaryDense, keras.optimizers.Adam),
    "BinaryConnect, stochastic": (
        functools.partial(tfc.layers.BinaryDense, stochastic=True),
        keras.optimizers.Adam,
    ),
    "BWN": (DENSE, prox(Binary(), weighted=False)),
    "LAB": (DENSE, prox(Binary())),
    "ternary layers": (tfc.layers.TernaryDense, keras.optimizers.Adam),
    "LAT, ternary": (DENSE, prox(Ternary())),
    "LAQ, 3 bits": (DENSE, prox(Linear(3))),
    "LAQ, 3 bits, log": (DENSE, prox(Log(3))),
    "LAQ, 4 bits": (DENSE, prox(Linear(4))),
}


def rate_of(label, norm):
    if label.endswith("low rate"):
        return 1e-3
    return 5e-3 if norm else 2e-3


def mlp(sizes, norm, dense=DENSE):
    parts = [keras.Input((28, 28, 1)), layers.Flatten()]
    for k, units in enumerate(sizes):
        parts.append(dense(units, use_bias=not norm, name=f"fc{k + 1}"))
        parts += [layers.BatchNormalization(), layers.ReLU()] if norm else [layers.ReLU()]
    parts.append(dense(10, use_bias=not norm, name="out"))
    return keras.Sequential(parts + ([layers.BatchNormalization()] if norm else []))


def signs(labels):
    return 2 * keras.utils.to_categorical(labels, 10) - 1


def made(label, norm, seed, steps):
    """A model of `METHODS`, compiled."""
    keras.utils.set_random_seed(seed)
    dense, optimizer = METHODS[label]
    model = mlp((512, 512, 512), norm, dense)
    falling = keras.optimizers.schedules.ExponentialDecay(rate_of(label, norm), steps, 0.01)
    model.compile(optimizer(falling), keras.losses.SquaredHinge() if norm else CROSSED)
    return model


def files(model, reference, calibration=None):
    """The two files of a model, in bytes and times faster than float32; and the first."""
    stock = tf.lite.TFLiteConverter.from_keras_model(reference).convert()
    both = {way: tfc.to_tflite(model, store=way, check=calibration) for way in ("fast", "small")}
    found = tfc.bench({"float32": stock, **both}, rounds=41, memory=False)
    cells = [f"{found[way].bytes:,} | {found[way].ratio:.2f}" for way in both]
    return cells, both["fast"]


def lite_accuracy(blob, x, y):
    runner = Runner(blob)
    return np.mean([runner([image[None]])[0].argmax() for image in x] == y)


def mlp_rows(train, test, arguments, norm=True):
    (x, y), (x_test, y_test) = (((a - 0.286) / 0.353, b) for a, b in (train, test))
    steps = arguments.epochs * -(-len(x) // BATCH)
    callback = tfc.callbacks.RecalibrateBatchNorm(x[:2560])
    labels = [label for label in METHODS if norm or "stochastic" not in label]
    for label in labels:
        found = []
        for seed in range(arguments.seeds):
            model = made(label, norm, seed, steps)
            targets = signs(y) if norm else y
            callbacks = [callback] if "stochastic" in label else []
            model.fit(x, targets, BATCH, arguments.epochs, verbose=0, callbacks=callbacks)
            found.append(accuracy(model, x_test, y_test))
            if seed == 0:
                cell = files(model, mlp((512,) * 3, norm))[0][0]
        low, high = min(found), max(found)
        rate = rate_of(label, norm)
        yield f"| {label} | {rate} | {np.mean(found):.4f} | {low:.4f} to {high:.4f} | {cell} |\n"


def net_rows(train, test, arguments):
    for name in arguments.only:
        epochs, rates = NETS[name]
        start = None if name == "lenet300" else load_or_train(name, arguments.nets, train)
        for way, rate in rates.items():
            for seed in range(arguments.net_seeds):
                keras.utils.set_random_seed(seed)
                start = float_lenet300(train) if name == "lenet300" else start
                model = discrete(name, start, way, rate, epochs, train)
                cells, blob = files(model, start, train[0][:64])
                right = f"{lite_accuracy(blob, *test):.4f}"
                yield f"| {' | '.join((name, way, str(rate), str(seed), right, *cells))} |\n"


def fit(model, optimizer, rate, epochs, train):
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train[0]) // BATCH))
    model.compile(optimizer(falling), CROSSED)
    model.fit(*train, BATCH, epochs, verbose=0)
    return model


def float_lenet300(train):
    return fit(mlp((300, 100), norm=True), keras.optimizers.Adam, 2e-3, 8, train)


def discrete(name, start, way, rate, epochs, train):
    """The net with discrete weights, trained, and its other large kernels in 8 bits."""
    binary = name == "lenet300"
    names = {"lenet300": ["fc1", "fc2", "out"], "resnet": inner_layers(start)}
    names = names.get(name, ["fc1", "fc2"])
    if way != "ProxNewton":
        dense = tfc.layers.BinaryDense if binary else tfc.layers.TernaryDense
        kinds = {2: dense, 4: tfc.layers.TernaryConv2D}
        rules = {n: kinds[start.get_layer(n).kernel.ndim] for n in names}
        model = tfc.swap(start, rules | (MIXED if way == "mixed" else {}))
        fit(model, keras.optimizers.Adam, rate, epochs, train)
    else:
        model, kernels = tfc.swap(start, {}), [f"{n}/kernel" for n in names]
        fit(model, prox(Binary() if binary else Ternary(), variables=kernels), rate, epochs, train)
    rest = {} if binary else {"out": tfc.layers.QuantizedDense.using(bits=8)}
    if name == "lenet":
        rest["c2"] = tfc.layers.QuantizedConv2D.using(bits=8)
    return tfc.swap(model, rest)


def step_rows(arguments):
    x = np.random.default_rng(0).random((BATCH, 28, 28, 1)).astype("float32")
    y = signs(np.arange(BATCH) % 10)
    models = {label: made(label, True, 0, 1000) for label in METHODS}
    spent = {label: [] for label in models}
    for _ in range(arguments.rounds + 2):
        for label, model in models.items():
            start = time.process_time()
            for _ in range(CALLS):
                model.train_on_batch(x, y)
            spent[label].append(time.process_time() - start)
    reference = np.array(spent["float32"][2:])  # the first rounds trace
    for label, times in spent.items():
        ratios = np.array(times[2:]) / reference
        low, high = np.percentile(ratios, [25, 75])
        yield f"| {label} | {np.median(ratios):.2f} | {low:.2f} to {high:.2f} |\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--parts", nargs="*", default=list(TEXTS), choices=list(TEXTS))
    parser.add_argument("--only", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--epochs", type=int, default=5, help="of the deep MLP")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--net-seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", default="docs/quantization-benchmark.md")
    arguments = parser.parse_args()
    train, test, data = fashion_mnist()
    makers = {
        "mlp": lambda: mlp_rows(train, test, arguments),
        "plain": lambda: mlp_rows(train, test, arguments, norm=False),
        "nets": lambda: net_rows(train, test, arguments),
        "steps": lambda: step_rows(arguments),
    }
    lines = [f"# Discrete weights in training\n\n`benchmarks/quantization.py` on {data}.\n\n"]
    for part in arguments.parts:
        values = vars(arguments) | {"calls": CALLS}
        names = COLUMNS[part]
        lines.append(f"{TEXTS[part].format(**values)}| {' | '.join(names)} |\n")
        lines.append("|---" * len(names) + "|\n")
        print(*lines[-2:], sep="", end="", flush=True)
        for row in makers[part]():
            print(row, end="", flush=True)
            lines.append(row)
        lines.append("\n")
        write_page(arguments.output, "".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
