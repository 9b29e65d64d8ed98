"""Discrete weights in training: BinaryConnect layers and the proximal Newton optimizer.

    python benchmarks/quantization.py --nets folder    trains the float nets there if missing
    python benchmarks/quantization.py --parts steps    one part: mlp, plain, nets or steps

Writes docs/quantization-benchmark.md.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from nets import accuracy, inner_layers, load_or_train

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.optimizers import ProxNewton
from tfcompress.project import Binary, Linear, Log, Ternary

BATCH = 128
CALLS = 6
NETS = {  # epochs, rate of the layers, rate of ProxNewton
    "lenet300": (12, 2e-3, 2e-3),
    "lenet": (10, 1e-3, 1e-3),
    "mlp": (10, 1e-3, 1e-3),
    "resnet": (4, 1e-3, 1e-3),
}
DENSE = layers.Dense
TEXTS = {
    "mlp": """## 784-512-512-512-10 with batch normalization

{epochs} epochs from scratch, squared hinge loss, Adam from the given rate to 1/100 of it
(exponential), batches of 128, all weights discrete, the first and last layer too, a scale per
output. Test accuracy: mean and range over {seeds} seeds. File and latency: the first seed, one
thread, batch 1, `store="fast"`.

""",
    "plain": """## The same without batch normalization

Cross-entropy; a wrong scale cannot hide behind a normalization here.

""",
    "nets": """## Small files

LeNet-300-100 with batch normalization from scratch, 12 epochs; the others from the float nets of
`nets.py`, LeNet and MLP 10 epochs, ResNet 4; cosine to 0, cross-entropy. Binary are all weights of
LeNet-300-100. Ternary are the Dense layers but the last of MLP and LeNet, and the convolutions but
the first of the ResNet; then the last layer and LeNet's second convolution are rounded to 8 bits.
Accuracy in LiteRT on all test images. Latency over that of the float32 file.

""",
    "steps": """## Time of a training step

Of the MLP with batch normalization: processor time over that of the float32 model, medians of
{rounds} interleaved rounds of {calls} steps.

""",
}
LINE = "|---" * 6 + "|\n"
HEADS = {
    "mlp": f"| method | rate | accuracy | range | bytes | latency ratio |\n{LINE}",
    "nets": "| net | way | rate | seed | accuracy | bytes | latency ratio | small bytes |\n"
    f"|---|---{LINE}",
    "steps": "| method | ratio | quartiles |\n|---|---|---|\n",
}
HEADS["plain"] = HEADS["mlp"]


def prox(project, **options):
    return lambda rate: ProxNewton(rate, project, **options)


METHODS = {  # name: (rate, maker of Dense layers, maker of the optimizer)
    "float32": (1e-3, None, keras.optimizers.Adam),
    "BinaryConnect": (1e-3, tfc.layers.BinaryDense.using(), keras.optimizers.Adam),
    "BinaryConnect, stochastic": (
        5e-3,
        tfc.layers.BinaryDense.using(stochastic=True),
        keras.optimizers.Adam,
    ),
    "BWN": (1e-3, None, prox(Binary(), weighted=False)),
    "LAB": (1e-3, None, prox(Binary())),
    "ternary layers": (1e-3, tfc.layers.TernaryDense.using(), keras.optimizers.Adam),
    "LAT, ternary": (1e-3, None, prox(Ternary())),
    "LAQ, 3 bits": (1e-3, None, prox(Linear(3))),
    "LAQ, 3 bits, log": (1e-3, None, prox(Log(3))),
    "LAQ, 4 bits": (1e-3, None, prox(Linear(4))),
}


def mlp(sizes, norm, last_norm):
    parts = [keras.Input((28, 28, 1)), layers.Flatten()]
    for k, units in enumerate(sizes):
        parts.append(DENSE(units, use_bias=not norm, name=f"fc{k + 1}"))
        parts += [layers.BatchNormalization(), layers.ReLU()] if norm else [layers.ReLU()]
    parts.append(DENSE(10, use_bias=not last_norm, name="out"))
    return keras.Sequential(parts + ([layers.BatchNormalization()] if last_norm else []))


def signs(labels):
    return 2 * keras.utils.to_categorical(labels, 10) - 1


def made(label, norm, seed, steps):
    """A model of `METHODS`, compiled."""
    keras.utils.set_random_seed(seed)
    rate, maker, optimizer = METHODS[label]
    model = mlp((512, 512, 512), norm, norm)
    model = tfc.swap(model, {DENSE: maker} if maker else {})
    falling = keras.optimizers.schedules.ExponentialDecay(rate, steps, 0.01)
    crossed = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(falling), keras.losses.SquaredHinge() if norm else crossed)
    return model


def size_and_ratio(model, reference, test=None):
    """Bytes, latency over the float file's, bytes in the small form, accuracy in LiteRT."""
    stock = tf.lite.TFLiteConverter.from_keras_model(reference).convert()
    fast, small = tfc.to_tflite(model), tfc.to_tflite(model, store="small")
    found = tfc.bench({"float32": stock, "small": fast}, rounds=41, memory=False)["small"]
    right = lite_accuracy(fast, *test) if test else None
    return len(fast), 1 / found.ratio, len(small), right


def lite_accuracy(blob, x, y):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=blob, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for image in x:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"]).argmax())
    return float(np.mean(found == y))


def mlp_rows(train, test, arguments, norm=True):
    (x, y), (x_test, y_test) = (((a - 0.286) / 0.353, b) for a, b in (train, test))
    steps = arguments.epochs * -(-len(x) // BATCH)
    callback = tfc.callbacks.RecalibrateBatchNorm(x[:2560])
    for label, (rate, _, _) in METHODS.items():
        if "stochastic" in label and not norm:
            continue
        found, extra = [], ""
        for seed in range(arguments.seeds):
            model = made(label, norm, seed, steps)
            targets = signs(y) if norm else y
            callbacks = [callback] if "stochastic" in label else []
            model.fit(x, targets, BATCH, arguments.epochs, verbose=0, callbacks=callbacks)
            found.append(accuracy(model, x_test, y_test))
            if seed == 0:
                bytes_, ratio, _, _ = size_and_ratio(model, mlp((512,) * 3, norm, norm))
                extra = f"{bytes_:,} | {ratio:.2f}"
        low, high = min(found), max(found)
        yield f"| {label} | {rate} | {np.mean(found):.4f} | {low:.4f} to {high:.4f} | {extra} |\n"


def net_rows(train, test, arguments):
    for name, (epochs, *rates) in NETS.items():
        start = mlp((300, 100), True, True) if name == "lenet300" else None
        start = start or load_or_train(name, arguments.nets, train)
        for way, rate in zip(("layers", "ProxNewton"), rates, strict=True):
            for seed in range(arguments.net_seeds):
                keras.utils.set_random_seed(seed)
                model = trained(name, start, way, rate, epochs, train)
                bytes_, ratio, small, right = size_and_ratio(model, start, test)
                cells = f"{right:.4f} | {bytes_:,} | {ratio:.2f} | {small:,}"
                yield f"| {name} | {way} | {rate} | {seed} | {cells} |\n"


def trained(name, start, way, rate, epochs, train):
    """The net with discrete weights, trained, and its other large kernels in 8 bits."""
    fresh = name == "lenet300"
    if fresh:  # other initial weights for each seed
        start = mlp((300, 100), True, True)
    names = {"lenet300": ["fc1", "fc2", "out"], "resnet": inner_layers(start)}
    names = names.get(name, ["fc1", "fc2"])
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train[0]) // BATCH))
    if way == "layers":
        dense = tfc.layers.BinaryDense if fresh else tfc.layers.TernaryDense
        conv = tfc.layers.TernaryConv2D
        model = tfc.swap(
            start, {n: dense if start.get_layer(n).kernel.ndim == 2 else conv for n in names}
        )
        optimizer = keras.optimizers.Adam(falling)
    else:
        model = tfc.swap(start, {})
        kernels = [f"{n}/kernel" for n in names]
        optimizer = ProxNewton(falling, Binary() if fresh else Ternary(), kernels)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*train, BATCH, epochs, verbose=0)
    rest = {} if fresh else {"out": tfc.layers.QuantizedDense.using(bits=8)}
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
    parser.add_argument("--epochs", type=int, default=5, help="of the deep MLP")
    parser.add_argument("--seeds", type=int, default=3, help="of the deep MLP")
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
        lines.append(TEXTS[part].format(**values) + HEADS[part])
        print(lines[-1], flush=True)
        for row in makers[part]():
            print(row, end="", flush=True)
            lines.append(row)
        lines.append("\n")
        pathlib.Path(arguments.output).write_text("".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
