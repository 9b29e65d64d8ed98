"""Training steps on the device at hand: layers, callbacks, optimizers against the ordinary net.

    python benchmarks/gpu.py                     on a GPU if there is one: docs/gpu-benchmark.md
    python benchmarks/gpu.py --quick             small, on a CPU too: printed, to see that it runs

The page says on what it ran; what was not run on a GPU says nothing about GPUs. Times are medians
over steps of one batch that is on the device already, so they are those of the layers and not of
the input pipeline. Each is divided by that of the ordinary net under the same settings.
"""

import argparse
import platform
import time

import keras
import numpy as np
import tensorflow as tf
from pages import write_page

import tfcompress as tfc

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
L = tfc.layers
HEAD = """# Training on a GPU

Written by `benchmarks/gpu.py` on {device}; TensorFlow {tensorflow}, Keras {keras}.

Median of {steps} training steps of a batch of {batch} images ({side} x {side} x 3), divided by the
ordinary net's under the same settings, whose milliseconds the first row has. The net is three
convolutions of {width} channels and two Dense layers; what is in the first column stands in the
place of its inner layers, or trains it.

| | plain | XLA | mixed float16 | mixed float16, XLA |
|---|---|---|---|---|
"""
VERBS = """
## Without training

Seconds, and passes: the time divided by that of one `predict` of the same images.

| work | images | seconds | passes |
|---|---|---|---|
"""
SETTINGS = [(xla, policy) for policy in ("float32", "mixed_float16") for xla in (False, True)]
QUICK_XLA = ("ordinary", "hashed 1/16", "`Prune` at each step", "`Distiller` with a hint")
FORMS = {
    "binary": (L.BinaryConv2D.using(), L.BinaryDense.using()),
    "ternary": (L.TernaryConv2D.using(), L.TernaryDense.using()),
    "8 bits": (L.QuantizedConv2D.using(bits=8), L.QuantizedDense.using(bits=8)),
    "4 bits": (L.QuantizedConv2D.using(bits=4), L.QuantizedDense.using(bits=4)),
    "codebook of 16": (L.CodebookConv2D.using(size=16), L.CodebookDense.using(size=16)),
    "hashed 1/16": (L.HashedConv2D.using(ratio=16), L.HashedDense.using(ratio=16)),
    "tile-hashed": (None, L.TileHashedDense.using(tile=16, tiles=4)),
    "circulant": (L.CirculantConv2D.using(block=16), L.CirculantDense.using(block=64)),
    "low rank 1/4": (L.LowRankConv2D.using(rank=0.25), L.LowRankDense.using(rank=0.25)),
    "k x 1, 1 x k 1/4": (L.SpatialConv2D.using(rank=0.25), None),
    "Tucker 1/4": (L.TuckerConv2D.using(rank=0.25), None),
    "CP 1/4": (L.CPConv2D.using(rank=0.25), None),
}


def net(width, side):
    """Three convolutions and two Dense layers; the classifier stays float32."""
    layers, options = keras.layers, {"padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            layers.Conv2D(width, 3, name="conv1", **options),
            layers.Conv2D(width, 3, strides=2, name="conv2", **options),
            layers.Conv2D(width, 3, strides=2, name="conv3", **options),
            layers.Flatten(),
            layers.Dense(8 * width, "relu", name="fc"),
            layers.Dense(10, name="out", dtype="float32"),
        ]
    )


def with_form(model, form):
    conv, dense = form
    rules = {} if conv is None else {"conv[23]": conv}
    return tfc.swap(model, rules | ({} if dense is None else {"fc": dense}), verbose=0)


def pruned(model, data):
    """A callback that scores and prunes at every step, the most that it can cost."""
    schedule = tfc.schedules.Constant(0.5)
    return [tfc.callbacks.Prune(schedule, layers=["conv[23]", "fc"], every=1)]


def trainings(model, data):
    """`{name: function that gives (what trains, its optimizer, callbacks)}`."""
    adam = keras.optimizers.Adam
    rows = {"ordinary": lambda: (tfc.swap(model, {}), adam(), [])}
    for name, form in FORMS.items():
        rows[name] = lambda form=form: (with_form(model, form), adam(), [])
    rows["`Prune` at each step"] = lambda: (tfc.swap(model, {}), adam(), pruned(model, data))
    for name, project in {
        "ternary": tfc.project.Ternary(),
        "codebook of 16": tfc.project.Codebook(16),
    }.items():
        optimizer = tfc.optimizers.ProxNewton
        rows[f"`ProxNewton`, {name}"] = lambda optimizer=optimizer, project=project: (
            tfc.swap(model, {}),
            optimizer(1e-3, project, variables="*kernel"),
            [],
        )

    def distiller():
        hints = [tfc.Hint(student="fc", teacher="fc")]
        return tfc.Distiller(student=tfc.swap(model, {}), teacher=model, hints=hints), adam(), []

    return rows | {"`Distiller` with a hint": distiller}


class Clock(keras.callbacks.Callback):
    """The time of each step, with all that callbacks do before and after its batch."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        # the loss is there when the step is done, on whatever device
        float(logs["loss"])
        self.times.append(time.perf_counter())


def step_ms(made, data, steps, xla):
    """Median milliseconds of a training step."""
    learner, optimizer, callbacks = made
    learner.compile(optimizer, LOSS, jit_compile=xla)
    clock = Clock()
    batch = tf.data.Dataset.from_tensors(data).repeat(steps + 5)
    learner.fit(batch, epochs=1, verbose=0, shuffle=False, callbacks=[*callbacks, clock])
    return 1000 * float(np.median(np.diff(clock.times)[4:]))


def step_rows(args, x, y):
    """`{row: [a cell for each setting]}`: milliseconds of the first row, then ratios."""
    table = {}
    for xla, policy in args.settings:
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(policy)
        model = net(args.width, args.side)
        model.compile(loss=LOSS)
        data, ordinary = (x[: args.batch], y[: args.batch]), None
        for name, make in trainings(model, data).items():
            if args.quick and xla and name not in QUICK_XLA:
                continue
            try:
                ms = step_ms(make(), data, args.steps, xla)
                cell = f"{ms:.2f} ms" if ordinary is None else f"{ms / ordinary:.2f}"
                ordinary = ordinary or ms
            except Exception as error:  # XLA takes no operation whose sizes depend on values
                cell = f"no: {type(error).__name__}"
            table.setdefault(name, []).append(cell)
            print(f"{policy}, XLA {xla}: {name}: {cell}", flush=True)
    keras.config.set_dtype_policy("float32")
    return table


def seconds_of(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def verb_rows(args, x, y):
    """Rows `(work, images, seconds, passes)`."""
    keras.utils.set_random_seed(0)
    model = net(args.width, args.side)
    model.compile(loss=LOSS)
    x, y = x[: args.images], y[: args.images]
    seconds_of(lambda: model.predict(x, batch_size=256, verbose=0))  # traces
    unit = seconds_of(lambda: model.predict(x, batch_size=256, verbose=0))
    works = {
        "`swap(data=)`, 4 bits": lambda: tfc.swap(model, L.rounding(4), data=x, verbose=0),
        "`plan`, 10% of the bits": lambda: tfc.plan(model, (x, y), 0.1, verbose=0),
    }
    for name, work in works.items():
        seconds = seconds_of(work)
        print(f"{name}: {seconds:.1f} s, {seconds / unit:.1f} passes", flush=True)
        yield name, f"{len(x):,}", f"{seconds:.1f}", f"{seconds / unit:.1f}"


def device():
    """What it runs on, as the system names it."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus]
        return "GPU: " + ", ".join(names)
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):  # another system
        pass
    return f"no GPU, a CPU ({name}): it runs, and says nothing about GPUs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small net, printed only")
    parser.add_argument("--out", default="docs/gpu-benchmark.md", help="the page; - prints only")
    args = parser.parse_args()
    out = "-" if args.quick else args.out
    args.settings = [SETTINGS[0], SETTINGS[3]] if args.quick else SETTINGS
    sizes = (8, 16, 16, 4, 200) if args.quick else (256, 128, 32, 30, 2000)
    args.batch, args.width, args.side, args.steps, args.images = sizes
    rng = np.random.default_rng(0)
    count = max(args.batch, args.images)
    x = rng.standard_normal((count, args.side, args.side, 3), "float32")
    y = rng.integers(0, 10, count)
    print(device(), flush=True)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    text = HEAD.format(device=device(), **versions, **vars(args))
    for name, cells in step_rows(args, x, y).items():
        text += f"| {name} | {' | '.join(cells)} |\n"
    text += VERBS
    for row in verb_rows(args, x, y):
        text += f"| {' | '.join(row)} |\n"
    if out != "-":
        write_page(out, text)


if __name__ == "__main__":
    main()
