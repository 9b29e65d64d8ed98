"""Fashion-MNIST: accuracy against bytes of `compress`, beside what other tools give.

    python benchmarks/pareto.py --nets folder [--only mlp] [--seeds 0 1 2]
    python benchmarks/pareto.py --nets another-folder --choose

Starts from the float nets of `nets.py` (trained and saved in the folder if missing). For each
budget `compress` plans, swaps, trains on for at most 10 epochs, and exports. The teacher is the
float ResNet, of itself too; rows "own teacher" have the net itself instead. The accuracy is that of
the file in LiteRT on all 10,000 test images. Teachers and stores are chosen by `--choose`, which
holds the last 5,000 training images out of everything, the training of the float nets too, and
compares on them. Writes docs/pareto-benchmark.md and a picture of each net beside it.
"""

import argparse
import functools
import itertools
import pathlib

import keras
import numpy as np
from export import machine
from nets import load_or_train
from pages import write_page
from pictures import draw_pareto

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist
from tfcompress.tflite.runner import Runner

EPOCHS = {"mlp": 10, "lenet": 10, "resnet": 4}
# Budget in bytes, the way of storing, the teacher, and what the accuracy should be, where asked.
BUDGETS = {
    "mlp": [
        (76_000, "fast", "resnet", 0.8970),
        (76_000, "fast", "mlp", None),
        (48_000, "small", "resnet", 0.8950),
    ],
    "lenet": [
        (26_000, "fast", "resnet", 0.9060),
        (26_000, "fast", "lenet", None),
        (18_000, "fast", "resnet", None),
    ],
    "resnet": [(85_000, "fast", "resnet", 0.9220)],
}
# Accuracy, bytes and time over float32 of files of other tools, from the same float nets, on the
# same data; the rows were measured once, with one seed.
OTHERS = {
    "mlp": {
        "float32": (0.8960, 1_069_236, 1.0),
        "TFLite dynamic int8": (0.8967, 278_512, 0.15),
        "ai-edge-quantizer 4 bits": (0.8907, 142_464, 0.11),
        "Keras quantize, 4 bits": (0.8920, 1_601_340, 19.6),
        "tfmot prune 80%, int8": (0.8937, 277_744, 0.13),
        "tfmot cluster 16, int8": (0.8831, 277_744, 0.13),
        "tfmot QAT": (0.8989, 280_400, 0.12),
        "larq signs, 2 bits": (0.8975, 75_536, 0.15),
        "prune 80%, 4 bits": (0.8921, 141_720, 0.10),
    },
    "lenet": {
        "float32": (0.9069, 251_092, 1.0),
        "TFLite dynamic int8": (0.9066, 72_400, 0.72),
        "ai-edge-quantizer 4 bits": (0.8766, 38_776, 2.64),
        "Keras quantize, 4 bits": (0.9047, 368_996, 2.65),
        "tfmot prune 80%, int8": (0.8918, 71_560, 0.70),
        "tfmot cluster 16, int8": (0.9076, 71_568, 0.70),
        "tfmot QAT": (0.9082, 72_680, 0.78),
        "larq signs, 2 bits": (0.8924, 26_184, 1.03),
        "prune 80%, 4 bits": (0.8908, 37_968, 2.6),
    },
    "resnet": {
        "float32": (0.9252, 894_680, 1.0),
        "TFLite dynamic int8": (0.9251, 240_920, 0.31),
        "ai-edge-quantizer 4 bits": (0.9215, 126_824, 1.70),
        "Keras quantize, 4 bits": (0.9252, 894_676, 1.0),
        "tfmot prune 80%, int8": (0.9088, 240_000, 0.31),
        "tfmot cluster 16, int8": (0.9161, 240_000, 0.32),
        "tfmot QAT": (0.9255, 246_000, 0.31),
        "larq signs, convolutions in 4 bits": (0.9066, 126_056, 1.70),
        "prune 80%, 4 bits": (0.9079, 125_904, 1.7),
    },
}
HELD_OUT = 5000
HEAD = """# Accuracy against bytes

Written by `benchmarks/pareto.py`: {machine}. Seeds {seeds}.

{protocol}

`.tflite` bytes. "Times faster" is against the float32 file, batch 1, one thread, median of
interleaved rounds; below 1 is slower. Rows of other tools: one run each, from the same float nets
(4 epochs of fine-tuning, 2 for the ResNet; quantization-aware training and clustering with a
falling rate).

| net | method | accuracy, mean (each seed) | at least | bytes | times faster |
|---|---|---|---|---|---|
"""


def right(blob, x, y, batch=500):
    run = Runner(blob)
    found = [run([x[i : i + batch]])[0].argmax(-1) for i in range(0, len(x), batch)]
    return float(np.mean(np.concatenate(found) == y))


def compressed(name, nets, train, budget, store, teacher, seed):
    """The file of one run."""
    return tfc.compress(
        nets[name],
        train,
        budget,
        fine_tune=EPOCHS[name],
        validation_data=tuple(array[:1000] for array in train),  # so that nothing is held out
        teacher=nets[teacher],
        store=store,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        seed=seed,
    ).tflite


def loaded(name, folder, train):
    """The float net, and the ResNet, which teaches it."""
    return {one: load_or_train(one, folder, train) for one in (name, "resnet")}


def choose(train, given):
    """Prints what each store and teacher gives for each budget, on images held out of training."""
    kept, held_out = slice(-HELD_OUT), slice(-HELD_OUT, None)
    train, held_out = (tuple(part[k] for part in train) for k in (kept, held_out))
    for name in given.only:
        nets = loaded(name, given.nets, train)
        for budget in dict.fromkeys(budget for budget, *_ in BUDGETS[name]):
            for store, teacher in itertools.product(("fast", "small"), nets):
                run = functools.partial(compressed, name, nets, train, budget, store, teacher)
                found = [run(seed) for seed in given.seeds]
                values = [f"{right(blob, *held_out):.4f}" for blob in found]
                print(name, budget, store, teacher, *values, max(map(len, found)), flush=True)


def rows_of(name, nets, train, test, seeds):
    stock = tfc.to_tflite(nets[name], check=test[0][:32])
    rows, points = [], {}
    for budget, store, teacher, least in BUDGETS[name]:
        run = functools.partial(compressed, name, nets, train, budget, store, teacher)
        found = [run(seed) for seed in seeds]
        values = [right(blob, *test) for blob in found]
        ratio = tfc.bench({"float32": stock, "ours": found[0]}, memory=False)["ours"].ratio
        mean, size = np.mean(values), max(map(len, found))
        each = ", ".join(f"{value:.4f}" for value in values)
        wanted = "" if least is None else f"{least:.4f}"
        own = ", own teacher" if teacher == name != "resnet" else ""
        label = f"compress to {budget:,}, {store}{own}"
        row = f"| {name} | {label} | **{mean:.4f}** ({each}) | {wanted} | {size:,} |"
        rows.append(f"{row} {ratio:.2f} |\n")
        points[label] = size, mean
        print(rows[-1], end="", flush=True)
    for label, (value, size, time) in OTHERS[name].items():
        rows.append(f"| {name} | {label} | {value:.4f} | | {size:,} | {1 / time:.2g} |\n")
        points[label] = size, value
    return rows, points


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--only", nargs="*", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="compare on held-out images alone")
    parser.add_argument("--out", type=pathlib.Path, default="docs/pareto-benchmark.md")
    arguments = parser.parse_args()
    train, test, _ = fashion_mnist()
    if arguments.choose:
        return choose(train, arguments)
    protocol, seeds = __doc__.split("\n\n")[2], ", ".join(map(str, arguments.seeds))
    text = HEAD.format(machine=machine(), seeds=seeds, protocol=protocol)
    for name in arguments.only:
        nets = loaded(name, arguments.nets, train)
        rows, points = rows_of(name, nets, train, test, arguments.seeds)
        picture = arguments.out.with_name(f"pareto-{name}.png")
        draw_pareto(points, picture, f"{name}, Fashion-MNIST")
        text += "".join(rows)
    write_page(arguments.out, text)


if __name__ == "__main__":
    main()
