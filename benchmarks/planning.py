"""One budget for a whole network against the best single method, without training; and its time.

    python benchmarks/planning.py --nets folder        writes docs/planning-benchmark.md
    python benchmarks/planning.py --only time          writes its part of the page anew

The float ResNet of `nets.py`, at 10% and 6% of the bits of its float32 kernels, and of the bytes of
its float32 file (plans for `target="tflite", store="small"`). `plan` gets 2,000 images, drawn anew
for each seed, and their labels; so does each single method of the plan's candidates, with the same
rule for all layers (`swap(data=)`), of which the best that fits the budget counts (its file in the
smaller of both stores). Norms are measured anew for all. Test accuracy on 10,000 images.

ResNet-18 at 32 x 32 (11.2 million weights, the stem for small images), 1,000 random images, 10% of
the bits. Weights are random and the norms measured on the images, so that each layer sees
inputs of a usual size. Without labels (64 images are held for the losses), and with labels, which
are the network's own answers (125 images).
"""

import argparse
import os
import pathlib
import time

import keras
import numpy as np
from export import machine
from keras import layers
from nets import accuracy, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.planning.candidates import default_candidates
from tfcompress.planning.planner import Planner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
UNITS = {"bits": "bits", "tflite": "file's bytes"}
KINDS = (layers.Dense, layers.Conv2D)
HEAD = """# One budget for a whole network

Written by `benchmarks/planning.py`: {machine}.

"""
QUALITY = """## Accuracy

{protocol} The float network has {float:.4f}: where 3 bits
alone come within half a point of that, no plan can be half a point better.

| budget | seed | plan | its size | best single method | its size | difference |
|---|---|---|---|---|---|---|
"""
TIME = """## Time

{protocol}

| labels | wall time, s | processor time, s |
|---|---|---|
"""


def bits(model) -> int:
    return tfc.report(model).bits


def file_bytes(model, check) -> int:
    return min(len(tfc.to_tflite(model, store=way, check=check)) for way in ("fast", "small"))


def singles(start, x, test, target, size):
    """`[(accuracy, size, name)]` of each method alone."""
    found = []
    for name, makers in default_candidates(target).items():
        if name.endswith(" bits") and "," not in name:
            rules = tfc.layers.rounding(int(name.split()[0]))
        else:
            of_kind = {getattr(maker.layer_class, "ordinary", None): maker for maker in makers}
            rules = {kind: of_kind[kind] for kind in KINDS if kind in of_kind}
        small = tfc.swap(start, rules, data=x)
        tfc.recalibrate_batch_norm(small, x)
        found.append((accuracy(small, *test), size(small), name))
    return found


def quality(protocol, arguments):
    train, test, _ = fashion_mnist()
    start = load_or_train("resnet", arguments.nets, train)
    text = QUALITY.format(protocol=protocol, float=accuracy(start, *test))
    for target, size in (("bits", bits), ("tflite", lambda net: file_bytes(net, test[0][:32]))):
        whole = size(start)
        for seed in arguments.seeds:
            rows = np.random.default_rng(seed).permutation(len(train[0]))[:2000]
            x, y = train[0][rows], train[1][rows]
            alone = singles(start, x, test, target, size)
            planner = Planner(start, (x, y), target, LOSS, store="small")  # `plan` for many budgets
            for budget in (0.10, 0.06):
                made, own = within(planner, budget * whole, size)
                right = accuracy(made.model, *test)
                fits = [one for one in alone if one[1] <= budget * whole]
                best, other, name = max(fits, default=(float("nan"), 0, "none fits"))
                row = (
                    f"| {budget:.0%} of the {UNITS[target]} | {seed} | {right:.4f} "
                    f"| {own / whole:.1%} | {best:.4f} ({name}) | {other / whole:.1%} "
                    f"| {right - best:+.4f} |\n"
                )
                print(row, end="", flush=True)
                text += row
    return text


def within(planner, most, size):
    """A plan that fits, and its size. Kernels in files of their own take a little more or less."""
    allowed, own = most, float("inf")
    while own > most:
        made = planner.plan_for(int(allowed))
        own = size(made.model)
        allowed -= own - most
    return made, own


def timing(protocol, arguments):
    keras.utils.set_random_seed(0)
    model = tfc.models.resnet18((32, 32, 3), 10, stem="small")
    x = np.random.default_rng(0).normal(size=(1000, 32, 32, 3)).astype("float32")
    tfc.recalibrate_batch_norm(model, x)
    y = model.predict(x, verbose=0).argmax(-1)
    text = TIME.format(protocol=protocol)
    for label, data in (("none", x), ("yes", (x, y))):
        begin = time.time(), time.process_time()
        made = tfc.plan(model, data, 0.1, loss=None if data is x else LOSS)
        wall, cpu = time.time() - begin[0], time.process_time() - begin[1]
        text += f"| {label} | {wall:.0f} | {cpu:.0f} |\n"
        print(made)
    text += f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.\n"
    print(text, flush=True)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--only", choices=["quality", "time"])
    parser.add_argument("--out", type=pathlib.Path, default="docs/planning-benchmark.md")
    arguments = parser.parse_args()
    _, _, *protocols = __doc__.rstrip().split("\n\n")
    page = arguments.out.read_text() if arguments.out.exists() else ""
    parts = dict(part.split("\n", 1) for part in page.split("## ")[2:])  # by title
    for title, part, protocol in zip(
        ("Accuracy", "Time"), (quality, timing), protocols, strict=True
    ):
        if arguments.only in (None, part.__name__.replace("timing", "time")):
            parts[title] = part(protocol, arguments).split("\n", 1)[1].rstrip() + "\n"
    page = "\n".join(f"## {title}\n{part}" for title, part in parts.items())
    write_page(arguments.out, HEAD.format(machine=machine()) + page)


if __name__ == "__main__":
    main()
