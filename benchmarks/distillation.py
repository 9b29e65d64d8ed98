"""What the teacher adds, beside the same student without it at the same number of updates.

    python benchmarks/distillation.py --nets folder        trains the float ResNet there if missing
    python benchmarks/distillation.py --only few steps     leaves out the long part

Fashion-MNIST. Writes docs/distillation-benchmark.md.
"""

import argparse
import math
import pathlib
import time

import keras
import numpy as np
from keras import layers
from nets import accuracy, load_or_train

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.rewrite import copy
from tfcompress.teacher import TeacherCache

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small_teacher(folder, train):
    """70,000 parameters, 7 epochs on all images."""
    path = pathlib.Path(folder, "distillation-teacher.keras")
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(100)
    inputs = x = keras.Input((28, 28, 1))
    for k, (filters, stride) in enumerate(((24, 2), (48, 2), (64, 1))):
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU(name=f"h{k}")(layers.BatchNormalization()(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(10)(x), name="teacher")
    model.compile(keras.optimizers.Adam(2e-3), LOSS)
    model.fit(*train, batch_size=128, epochs=5, verbose=0)
    model.optimizer.learning_rate = 2e-4
    model.fit(*train, batch_size=128, epochs=2, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def thin_deep(seed):
    """11 convolutions of 8 channels, 7,500 parameters."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((28, 28, 1))
    for k, stride in enumerate((2, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1)):
        x = layers.Conv2D(8, 3, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.ReLU(name=f"s{k}")(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)), name="thin-deep")


def student(seed):
    """7 convolutions, 20,902 parameters: a tenth of the ResNet."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((28, 28, 1))
    plan = ((12, 2), (16, 1), (16, 1), (20, 2), (20, 1), (24, 2), (24, 1))
    for k, (filters, stride) in enumerate(plan):
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU(name=f"r{k}")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="student")


class Flipped(keras.utils.PyDataset):
    """Mirrors half of the images of a `TeacherCache`, and the teacher's maps with them.

    The logits are those of the image as it was: this teacher has never seen a mirrored one.
    """

    def __init__(self, cache):
        super().__init__()
        self.cache, self.random = cache, np.random.default_rng(0)

    def __len__(self):
        return len(self.cache)

    def __getitem__(self, index):
        x, y = self.cache[index]
        flip = self.random.random(len(y)) < 0.5

        def mirror(a):
            return np.where(flip[:, None, None, None], a[:, :, ::-1], a) if a.ndim == 4 else a

        return keras.tree.map_structure(mirror, x), y

    def on_epoch_end(self):
        self.cache.on_epoch_end()


FEW_HINT = tfc.Hint(student="s5", teacher="h1")


# Few labels: 20,000 images, of which some have labels; 5 epochs of 313 updates in every arm.
def few_labels(told, train, test, count, seed, teacher):
    """Yields (arm, accuracy); `told`: the teacher's logits and hint features of the images."""
    x, y = (a[: len(told[0])] for a in train)
    labelled = np.random.default_rng(0).permutation(len(x))[:count]
    mixed = np.full_like(y, -1)
    mixed[labelled] = y[labelled]
    again = np.resize(np.random.default_rng(seed).permutation(labelled), len(x))

    def run(rows, y, alpha, hint_epochs=0, epochs=5):
        net = thin_deep(seed)
        if hint_epochs:
            stage = tfc.Distiller(student=net, teacher=teacher, hints=[FEW_HINT])
            data = {"inputs": x[rows], "teacher": tuple(a[rows] for a in told)}
            optimizer = keras.optimizers.Adam(2e-3)
            stage.fit_hints(data, optimizer, batch_size=64, epochs=hint_epochs, verbose=0)
        distiller = tfc.Distiller(student=net, teacher=teacher, temperature=4.0, alpha=alpha)
        updates = (epochs - hint_epochs) * math.ceil(len(x) / 64)
        rate = keras.optimizers.schedules.PolynomialDecay(2e-3, updates, end_learning_rate=1e-4)
        distiller.compile(keras.optimizers.Adam(rate), LOSS)
        data = {"inputs": x[rows], "teacher": (told[0][rows],)}
        distiller.fit(data, y, batch_size=64, epochs=epochs - hint_epochs, verbose=0)
        return accuracy(net, *test)

    every = np.arange(len(x))
    yield "labels alone", run(again, y[again], alpha=0.0)
    yield "teacher, on the labelled images", run(again, y[again], alpha=0.5)
    yield "teacher, on all images", run(every, mixed, alpha=0.5)
    yield "hint 2 epochs, then teacher, on all images", run(every, mixed, 0.5, hint_epochs=2)


# All labels: Adam, cosine from 4e-3 after half an epoch of warm-up, batches of 128, mirrored.
ALL_HINT = tfc.Hint(student="r4", teacher="brelu6")
ARMS = {
    "no teacher": {"alpha": 0.0},
    "hint 2 epochs, then no teacher": {"alpha": 0.0, "hint_epochs": 2},
    "no teacher, restarted after 2 epochs": {"alpha": 0.0, "restart": 2},
    "teacher T 2, alpha 0.9": {"alpha": 0.9, "temperature": 2.0},
    "teacher T 2, alpha from 0.9 to 0": {"alpha": 0.9, "temperature": 2.0, "end": 0.0},
    "hint 2 epochs, then teacher T 2, alpha 0.9": {
        "alpha": 0.9,
        "temperature": 2.0,
        "hint_epochs": 2,
    },
}


def all_labels(
    caches, test, teacher, seed, epochs, alpha, temperature=1.0, end=None, hint_epochs=0, restart=0
):
    net = student(seed)
    plain, hinted = caches
    plain = TeacherCache(plain.x, plain.y, batch_size=128, seed=seed)
    if hint_epochs:
        stage = tfc.Distiller(student=net, teacher=teacher, hints=[ALL_HINT])
        hinted = TeacherCache(hinted.x, hinted.y, batch_size=128, seed=seed + 1000)
        optimizer = _optimizer(hint_epochs, len(hinted))
        stage.fit_hints(Flipped(hinted), optimizer, epochs=hint_epochs, verbose=0)
    distiller = tfc.Distiller(student=net, teacher=teacher, alpha=alpha, temperature=temperature)
    for part in [restart, epochs - hint_epochs - restart]:
        if part:
            distiller.compile(_optimizer(part, len(plain)), LOSS)
            schedule = tfc.schedules.Linear(alpha, alpha if end is None else end, part * len(plain))
            anneal = tfc.callbacks.Anneal(distiller, "alpha", schedule)
            distiller.fit(Flipped(plain), epochs=part, verbose=0, callbacks=[anneal])
    return accuracy(net, *test)


def _optimizer(epochs, steps):
    warm = steps // 2
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, epochs * steps - warm, warmup_target=4e-3, warmup_steps=warm
    )
    return keras.optimizers.Adam(rate)


# The price of a step, in turns in one process.
def step_times(teacher, x, y, rounds, batches=60, size=64):
    x, y = x[: size * batches], y[: size * batches]
    slim, wide = student(0), _equal_shapes()
    runs = {}

    def add(name, model, x=x):
        model.compile(keras.optimizers.Adam(), LOSS)
        runs[name] = lambda: model.fit(x, y, batch_size=size, verbose=0, shuffle=False)

    def ours(net, hints=()):
        return tfc.Distiller(student=copy(net), teacher=teacher, hints=hints)

    stored = ours(slim)
    add("student alone", copy(slim))
    add("Distiller, logits from the cache", stored, stored.cache_teacher(x).x)
    add("Distiller, logits", ours(slim))
    add("keras.distillation, logits", _peer(slim, teacher))
    add("Distiller, logits and a hint through a regressor", ours(slim, [ALL_HINT]))
    add("Distiller, logits and a hint of equal shape", ours(wide, [ALL_HINT]))
    add("keras.distillation, logits and a feature of equal shape", _peer(wide, teacher, ALL_HINT))
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:  # the first one compiles
                took = time.perf_counter() - wall, time.process_time() - cpu
                seconds[name].append(np.array(took) / batches)
    return seconds


def _equal_shapes():
    """The student with 64 channels at its hint, as the peer needs it."""
    inputs = x = keras.Input((28, 28, 1))
    plan = ((12, 2), (16, 1), (16, 1), (20, 2), (64, 1), (24, 2), (24, 1))
    for k, (filters, stride) in enumerate(plan):
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU(name=f"r{k}")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _peer(net, teacher, hint=None):
    from keras import distillation

    terms = [distillation.LogitsDistillation(temperature=2.0)]
    if hint:
        terms.append(distillation.FeatureDistillation("mse", hint.teacher, hint.student))
    # It freezes the teacher that it is given, so it gets one of its own.
    return distillation.Distiller(copy(teacher), copy(net), terms)


HEAD = """# Distillation: what the teacher adds

Written by `benchmarks/distillation.py` on {data}, keras {version}. Test accuracy, 10,000 images:
one figure has a standard error of 0.28 points. Each arm has the student's control without the
teacher at the same number of updates, epochs of hints counted in; seeds are of weights and order.
"""
TABLE = "\n| arm | {seeds} | mean | over the control, paired |\n|---|{rule}---|---|\n"


def table(results, seeds) -> str:
    """`results`: `{arm: [accuracy for each seed]}`, the control first."""
    control = np.array(next(iter(results.values())))
    text = TABLE.format(
        seeds=" | ".join(f"seed {seed}" for seed in seeds), rule="---|" * len(seeds)
    )
    for arm, values in results.items():
        cells = " | ".join(f"{value:.4f}" for value in values)
        gain = 100 * (np.mean(values) - control[: len(values)].mean())
        text += f"| {arm} | {cells} | {np.mean(values):.4f} | {gain:+.2f} points |\n"
    return text


def few_part(arguments, train, test):
    teacher = small_teacher(arguments.nets, train)
    stage = tfc.Distiller(student=thin_deep(0), teacher=teacher, hints=[FEW_HINT])
    told = stage.cache_teacher(train[0][:20_000]).x["teacher"]
    yield (
        f"\n## Few labels\n\nTeacher: {teacher.count_params():,} parameters, "
        f"{accuracy(teacher, *test):.4f}. Student: 11 convolutions of 8 channels, "
        f"{thin_deep(0).count_params():,} parameters. 20,000 images, of which some have labels; "
        "T 4, alpha 0.5; 5 epochs, batches of 64, Adam from 2e-3.\n"
    )
    for count in (600, 3000):
        results = {}
        for seed in arguments.seeds:
            for arm, value in few_labels(told, train, test, count, seed, teacher):
                results.setdefault(arm, []).append(value)
                print(count, seed, arm, value, flush=True)
        yield f"\n{count:,} labels:\n" + table(results, arguments.seeds)


def all_part(arguments, train, test):
    teacher = load_or_train("resnet", arguments.nets, train)
    plain = tfc.Distiller(student=student(0), teacher=teacher).cache_teacher(train)
    stage = tfc.Distiller(student=student(0), teacher=teacher, hints=[ALL_HINT])
    caches = plain, stage.cache_teacher(train)
    yield (
        f"\n## All labels, {arguments.epochs} epochs\n\nTeacher: the ResNet, "
        f"{teacher.count_params():,} parameters, {accuracy(teacher, *test):.4f}. Student: 7 "
        f"convolutions, {student(0).count_params():,} parameters. Adam, cosine from 4e-3 after "
        "half an epoch of warm-up, batches of 128, mirrored images paired with the logits of the "
        "image as it was.\n"
    )
    results = {}
    for seed in arguments.seeds:
        for arm in list(ARMS)[: arguments.arms]:
            value = all_labels(caches, test, teacher, seed, arguments.epochs, **ARMS[arm])
            results.setdefault(arm, []).append(value)
            print(arguments.epochs, seed, arm, value, flush=True)
    yield table(results, arguments.seeds)


def steps_part(arguments, train, test):
    teacher = load_or_train("resnet", arguments.nets, train)
    seconds = step_times(teacher, *train, arguments.rounds)
    names = list(seconds)
    yield (
        "\n## Price of a training step\n\nThe student and the ResNet above, batches of 64, on "
        f"CPU; medians of {arguments.rounds} rounds, in turns in one process. First the wall time, "
        "then the processor time of all threads, which other programs of the machine disturb less."
        "\n\n| | ms, wall | ms, processor | times the student alone | times keras.distillation |\n"
        "|---|---|---|---|---|\n"
    )
    peers = {names[2]: names[3], names[4]: names[6], names[5]: names[6]}

    def ratios(name, other):
        pair = np.median(np.divide(seconds[name], seconds[other]), axis=0)
        return " and ".join(f"{value:.2f}" for value in pair)

    for name, values in seconds.items():
        wall, cpu = 1000 * np.median(values, axis=0)
        beside = ratios(name, peers[name]) if name in peers else ""
        yield f"| {name} | {wall:.1f} | {cpu:.1f} | {ratios(name, names[0])} | {beside} |\n"


PARTS = {"few": few_part, "all": all_part, "steps": steps_part}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="with all labels")
    parser.add_argument("--arms", type=int, default=len(ARMS), help="with all labels: the first n")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", default="docs/distillation-benchmark.md")
    arguments = parser.parse_args()
    train, test, data = fashion_mnist()
    text = HEAD.format(data=data, version=keras.__version__)
    for name in arguments.only:
        for part in PARTS[name](arguments, train, test):
            print(part, flush=True)
            text += part
    pathlib.Path(arguments.output).write_text(text)


if __name__ == "__main__":
    main()
