"""How well curvature estimators rank weights, what they cost, and which form predicts damage.

    python benchmarks/curvature.py                          writes docs/curvature-benchmark.md
    python benchmarks/curvature.py --net resnet.keras       adds the ranking of layer changes

Fashion-MNIST; three small nets for which the exact diagonal is affordable.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from pages import write_page

from tfcompress.datasets import fashion_mnist
from tfcompress.measure import curvature
from tfcompress.numerics.metric import Diagonal
from tfcompress.utils.batches import batches

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = """# Curvature: ranks, cost, and damage predicted

Written by `benchmarks/curvature.py` on {data}, {examples} examples.

Spearman: rank correlation with `exact`, all kernels together. Cost: CPU time of one pass over the
data in batches of 32, without the tracing, as a multiple of an ordinary gradient pass.

| net | estimator | Spearman | cost of a pass |
|---|---|---|---|
"""
DAMAGE = """
## Which form ranks damage

{count} changes of one layer each (`{net}`: truncated SVD, binary, 4/3/2 bits, magnitude 80% and
90%, diagonal OBD 90%) against the measured increase of the loss on {examples} examples.

| predictor | Spearman | Pearson of logarithms |
|---|---|---|
"""


def small_nets():
    """`{name: (pooling, model)}`: a ReLU net, a tanh net and a residual one with BatchNorm."""
    relu = [layers.Flatten(), layers.Dense(20, activation="relu"), layers.Dense(10)]
    tanh = [
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
        layers.Dense(12, activation="tanh"),
        layers.Dense(10),
    ]
    x = keras.Input((14, 14, 1))
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, 2, "same")(x)))
    r = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(h))
    h = layers.MaxPooling2D(2, padding="same")(layers.ReLU()(h + r))
    residual = keras.Model(x, layers.Dense(10)(layers.Flatten()(h)))
    return {
        "ReLU": (4, keras.Sequential([keras.Input((7, 7, 1)), *relu])),
        "tanh": (4, keras.Sequential([keras.Input((7, 7, 1)), *tanh])),
        "residual, BatchNorm": (2, residual),
    }


def pooled(x, size):
    side = 28 // size
    return x.reshape(-1, side, size, side, size, 1).mean((2, 4))


def spearman(a, b):
    from scipy.stats import spearmanr

    return spearmanr(a, b)[0]


def flat(found):
    return np.concatenate([np.ravel(array) for array in found.values()])


def gradient_pass(model, data):
    """Returns a function that goes once through the data as plain training would."""
    variables = [v.value for v in model.trainable_variables]

    @tf.function(reduce_retracing=True)
    def gradient(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=False))
        return tape.gradient(loss, variables)

    def run():
        for x, y, _ in batches(model, data, 32):
            gradient(x, y)

    run()
    return run


def cpu_time(function, rounds=5):
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return np.median(times)


def pass_cost(estimator, unit):
    """CPU time per pass without the tracing: of many passes less that of one."""
    many = 41
    longer = cpu_time(lambda: estimator(many), 3)
    return (longer - cpu_time(lambda: estimator(1), 3)) / (many - 1) / unit


def rank_estimators(model, data):
    """Rows of the table: name, Spearman, cost."""
    reference = flat(curvature.exact(model, data, LOSS))
    unit = cpu_time(gradient_pass(model, data), 15)
    for passes in (1, 10):
        found = curvature.gauss_newton(model, data, LOSS, passes=passes)
        cost = pass_cost(lambda n: curvature.gauss_newton(model, data, LOSS, passes=n), unit)
        yield f"gauss_newton, passes={passes}", spearman(flat(found), reference), f"{cost:.2f}"
    for name in ("gauss_newton_exact", "fisher"):
        found = getattr(curvature, name)(model, data, LOSS)
        yield name, spearman(flat(found), reference), ""
    for passes in (1, 100):
        found = curvature.hutchinson(model, data, LOSS, passes=passes)
        yield f"hutchinson, passes={passes}", spearman(flat(found), reference), ""
    if isinstance(model, keras.Sequential):
        found = curvature.obd_recursion(model, data, LOSS)
        yield "obd_recursion", spearman(flat(found), reference), ""


def changes(w, d):
    """Forms of one kernel, each with an error of its own kind."""
    matrix = w.reshape(-1, w.shape[-1])
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    for share in (0.5, 0.25):
        rank = max(1, int(share * len(s)))
        yield ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(w.shape)
    yield np.where(w >= 0, 1, -1) * np.abs(w).mean(tuple(range(w.ndim - 1)))
    for bits in (4, 3, 2):
        scale = np.abs(w).max(tuple(range(w.ndim - 1))) / (2 ** (bits - 1) - 1)
        yield np.round(w / scale) * scale
    for scores, share in ((np.abs(w), 0.8), (np.abs(w), 0.9), (d * w**2, 0.9)):
        yield np.where(scores > np.quantile(scores, share), w, 0)


def rank_damage(model, x, y):
    """Rows of predicted and measured increases of the loss."""
    metrics = curvature.kronecker(model, x, LOSS)
    diagonals = curvature.gauss_newton(model, x, LOSS, passes=2)
    base = float(LOSS(y, model.predict(x, verbose=0)))
    rows = []
    for layer in (layer for layer in model.layers if isinstance(layer, layers.Conv2D)):
        w = layer.kernel.numpy()
        for form in changes(w, diagonals[layer.name]):
            e = w - form
            layer.kernel.assign(form)
            measured = float(LOSS(y, model.predict(x, verbose=0))) - base
            diagonal = Diagonal(diagonals[layer.name]).quadratic(e)
            relative = np.linalg.norm(e) / np.linalg.norm(w)
            rows.append((relative, diagonal, metrics[layer.name].quadratic(e), measured))
        layer.kernel.assign(w)
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", help="a trained `.keras` net of 28 x 28 images in [0, 1], logits")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--out", default="docs/curvature-benchmark.md")
    args = parser.parse_args()
    (x, y), _, name = fashion_mnist()
    keras.utils.set_random_seed(0)
    text = HEAD.format(data=name, examples=args.examples)
    for kind, (size, model) in small_nets().items():
        images = pooled(x[:20000], size)
        model.compile(keras.optimizers.Adam(3e-3), LOSS)
        model.fit(images, y[:20000], batch_size=64, epochs=15, verbose=0)
        for row in rank_estimators(model, (images[: args.examples], y[: args.examples])):
            text += f"| {kind} | {row[0]} | {row[1]:.3f} | {row[2]} |\n"
            print(kind, *row, flush=True)
    if args.net:
        model = keras.models.load_model(args.net, compile=False)
        rows = rank_damage(model, x[: args.examples], y[: args.examples])
        text += DAMAGE.format(
            count=len(rows), net=pathlib.Path(args.net).name, examples=args.examples
        )
        for column, predictor in enumerate(("relative weight error", "diagonal", "Kronecker")):
            rank = spearman(rows[:, column], rows[:, 3])
            logs = [np.log(np.abs(rows[:, at]) + 1e-6) for at in (column, 3)]
            line = f"| {predictor} | {rank:.3f} | {np.corrcoef(*logs)[0, 1]:.3f} |"
            text += line + "\n"
            print(line, flush=True)
    write_page(args.out, text)


if __name__ == "__main__":
    main()
