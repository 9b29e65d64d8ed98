"""Time, processor time and memory of real sizes, beside one forward pass of the same data.

    python benchmarks/scale.py                      writes docs/scale-benchmark.md
    python benchmarks/scale.py --row mobilenet      one row, printed; several of them as well
    python benchmarks/scale.py --growth             the growth with images, width and layers
    python benchmarks/scale.py --before folder      beside the code of a checkout of before

Each row runs in a process of its own. First the work, then `predict` on the same data, twice, of
which the second counts. Memory is the most that the operating system counted for the process while
it worked, above what it took when the model and the data were there. Weights and data are random.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
import warnings

import numpy as np

HEAD = """# Real sizes: time and memory

Written by `benchmarks/scale.py`: {machine}.

{method}

"Passes": the time of the work divided by that of one forward pass of the same data by `predict`;
first by the clock, then by the time of the processors, which a busy machine does not change.

| work | at most | passes | passes, processors | seconds | processor seconds | MB | at most |
|---|---|---|---|---|---|---|---|
"""
GROWTH = """
## Growth

The exponent `k` of `amount^k` between the smallest and the largest amount.

| what grows | amounts | processor time | memory |
|---|---|---|---|
"""


def images(count, side, channels=3):
    return np.random.default_rng(0).standard_normal((count, side, side, channels), "float32")


def four_bits(model, x):
    import tfcompress as tfc

    tfc.swap(model, tfc.layers.rounding(4), data=x)


def planned(budget, target):
    def work(model, x):
        import tfcompress as tfc

        tfc.plan(model, x, budget, target=target)

    return work


def mobilenet(count=500, side=96):
    import keras

    model = keras.applications.MobileNetV2((side, side, 3), weights=None, classes=100)
    return model, images(count, side), four_bits


def vgg16(count=256, side=224):
    import tfcompress as tfc

    return tfc.models.vgg16((side, side, 3)), images(count, side), four_bits


def resnet50(count=256, side=224):
    import keras

    model = keras.applications.ResNet50(weights=None, input_shape=(side, side, 3))
    return model, images(count, side), planned(0.12, "tflite")


def resnet18(count=1000, side=32):
    import tfcompress as tfc

    model = tfc.models.resnet18((side, side, 3), 10, stem="small")
    return model, images(count, side), planned(0.1, "bits")


def recipe(builder):
    """The rules of `networks.py`, without data; the pass is of eight images."""

    def row():
        import networks

        import tfcompress as tfc

        return (
            networks.BUILDERS[builder](),
            images(8, 224),
            lambda m, _: tfc.swap(m, networks.recipe(m)),
        )

    return row


def canonical():
    import keras

    model = keras.Sequential([keras.Input((14, 14, 512)), keras.layers.Conv2D(512, 3)])

    def work(model, x):
        import tfcompress as tfc

        tfc.swap(model, {keras.layers.Conv2D: tfc.layers.CPConv2D.using(rank=256)})

    return model, images(8, 14, 512), work


def surgeon(count=2000, inputs=5408):
    import keras

    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(64)])

    def work(model, x):
        import tfcompress as tfc

        tfc.prune(model, 0.5, x, score="obs")

    random = np.random.default_rng(0)
    mixed = random.standard_normal((count, 200), "float32") @ random.standard_normal(
        (200, inputs), "float32"
    )
    return model, mixed + random.standard_normal(mixed.shape, "float32"), work


def transformer(count=512, depth=6, width=512):
    import keras
    from keras import layers

    ids = keras.Input((64,), dtype="int32")
    x = layers.Embedding(8000, width)(ids)
    for _ in range(depth):
        attention = layers.MultiHeadAttention(8, width // 8)
        x = layers.LayerNormalization()(x + attention(x, x))
        hidden = layers.Dense(4 * width, "gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(width)(hidden))
    model = keras.Model(ids, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    return model, np.random.default_rng(0).integers(0, 8000, (count, 64), "int32"), four_bits


def stream(count=200_000, side=32):
    """`compress` on images that are made while they are read."""
    import keras
    import tensorflow as tf
    from keras import layers

    model = keras.Sequential(
        [
            *[keras.Input((side, side, 3)), layers.Conv2D(16, 3, 2, activation="relu")],
            *[layers.Conv2D(32, 3, 2, activation="relu"), layers.GlobalAveragePooling2D()],
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])

    def made(index):
        seed = tf.stack([index, index + 1])
        x = tf.random.stateless_normal((100, side, side, 3), seed)
        return x, tf.random.stateless_uniform((100,), seed, 0, 10, "int64")

    data = tf.data.Dataset.range(count // 100).map(made)

    def work(model, data):
        import tfcompress as tfc

        tfc.compress(model, data, budget=0.3, fine_tune=1)

    return model, data, work


ROWS = {  # what, passes and MB at most
    "mobilenet": ("MobileNetV2 at 96, 4 bits, 500 images", mobilenet, 8, 1500),
    "vgg16": ("VGG-16 at 224, 4 bits, 256 images", vgg16, 8, 2500),
    "resnet50": ("ResNet-50 at 224, plan to 12% of the file, 256 images", resnet50, 15, 2500),
    "resnet18": ("ResNet-18 at 32, plan to 10% of the bits, 1,000 images", resnet18, 10, 1500),
    "surgeon": ("OBS 50% on Dense 5408 x 64, 2,000 examples", surgeon, 50, None),
    "transformer": ("transformer, 6 layers of 512, 4 bits, 512 x 64", transformer, 6, 1500),
    "stream": ("`compress` on a stream of 200,000 images", stream, None, 1500),
    "recipe-vgg16": ("VGG-16, recipe without data", recipe("vgg16"), None, None),
    "recipe-resnet18": ("ResNet-18, recipe without data", recipe("resnet18"), None, None),
    "cp": ("CP of 3 x 3 x 512 x 512 at rank 256", canonical, None, None),
}
GROWING = {  # what grows: how it is called, and the amounts
    "images of MobileNetV2 at 96": ("mobilenet", "count", [64, 128, 256, 512]),
    "side of MobileNetV2's images, 64 images": ("mobilenet", "side", [64, 96, 128, 192]),
    "width of a transformer of 6 layers, 64 sequences": ("transformer", "width", [128, 256, 512]),
    "layers of a transformer of 512, 64 sequences": ("transformer", "depth", [2, 4, 8]),
}
FIXED = {"side": {"count": 64}, "width": {"count": 64}, "depth": {"count": 64}}


def memory():
    """Bytes of this process: now, and at most so far."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE"), most


def timed(function, *arguments):
    begin, used = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - begin, time.process_time() - used


def measured(name, arguments):
    """In a process of its own: the facts of a row, as JSON."""
    import keras

    import tfcompress  # noqa: F401, whose import is no part of the work

    warnings.simplefilter("ignore")
    keras.utils.set_random_seed(0)
    model, x, work = ROWS[name][1](**arguments)
    model.predict(x[:1] if hasattr(x, "shape") else x.take(1), verbose=0)
    before, highest = memory()
    seconds, used = timed(work, model, x)
    peak = memory()[1]
    facts = {"seconds": seconds, "used": used, "mb": (peak - before) / 1e6}
    facts["hidden"] = (highest - before) / 1e6  # memory of building that the work could use again
    for _ in range(2):
        facts["pass"], facts["pass_used"] = timed(lambda: model.predict(x, verbose=0))
    print(json.dumps(facts))


def in_child(name, arguments=None, before=None):
    environment = dict(os.environ)
    if before is not None:
        environment["PYTHONPATH"] = str(before)
    child = [sys.executable, __file__, "--measure", name, json.dumps(arguments or {})]
    done = subprocess.run(child, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row_text(name, before=None):
    what, _, passes, mb = ROWS[name]
    f = in_child(name)
    limit = "" if passes is None else f"{passes} passes"
    if before is not None:
        old = in_child(name, before=before)
        limit = f"a third of {old['seconds']:.1f} s ({old['used']:.1f} s of processors)"
    relative = f["seconds"] / f["pass"], f["used"] / f["pass_used"]
    return (
        f"| {what} | {limit} | {relative[0]:.1f} | {relative[1]:.1f} | {f['seconds']:.1f} "
        f"| {f['used']:.1f} | {f['mb']:.0f} | {mb or ''} |\n"
    )


def growth_text(what):
    name, argument, amounts = GROWING[what]
    facts = [in_child(name, {**FIXED.get(argument, {}), argument: n}) for n in amounts]
    ratio = np.log(amounts[-1] / amounts[0])
    exponents = [np.log(facts[-1][key] / facts[0][key]) / ratio for key in ("used", "mb")]
    used, mb = (", ".join(f"{one[key]:.0f}" for one in facts) for key in ("used", "mb"))
    return (
        f"| {what} | {', '.join(map(str, amounts))} | {used} s, {exponents[0]:.2f} "
        f"| {mb} MB, {exponents[1]:.2f} |\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="docs/scale-benchmark.md")
    parser.add_argument("--row", nargs="*", choices=list(ROWS), help="print these rows alone")
    parser.add_argument("--growth", action="store_true", help="print the growth alone")
    parser.add_argument("--before", type=pathlib.Path, help="a checkout of the code of before")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measured(arguments.measure[0], json.loads(arguments.measure[1]))
    rows, growing = arguments.row or list(ROWS), list(GROWING)
    if arguments.row or arguments.growth:
        rows, growing = (arguments.row or []), (growing if arguments.growth else [])
    text = ""
    for part in (*rows, *growing):
        line = row_text(part, arguments.before) if part in ROWS else growth_text(part)
        print(line, end="", flush=True)
        text += (GROWTH if [part] == growing[:1] else "") + line
    if not (arguments.row or arguments.growth):
        from export import machine
        from pages import write_page

        method = __doc__.split("\n\n")[2]
        write_page(arguments.out, HEAD.format(machine=machine(), method=method) + text)


if __name__ == "__main__":
    main()
