"""Measures whether `tfc.explain` finds faults, and writes docs/explain-benchmark.md.

Ten kinds of faults are injected into one layer of five nets trained on digits: eight into the
compressed Keras model, two into its .tflite file. Half of the models are in 8 bits elsewhere. What
is injected where, and how strongly, is drawn by a seed; the rules were written on seeds 1 and 2.

    python benchmarks/explain.py --seed 3
"""

import argparse
import pathlib
import time
import warnings

import keras
import numpy as np
from explain_faults import FAULTS, NETS, OTHERS, digits, trained
from pages import write_page

import tfcompress as tfc

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "explain-benchmark.md"
COMPRESSED = {
    "4 bits": lambda: tfc.layers.rounding(4),
    "2 bits, low rank": lambda: {
        "fc*": tfc.layers.LowRankDense.using(rank=4),
        **tfc.layers.rounding(2),
    },
}


def inject(models, faults, seed, data):
    """A row for each net and kind: whether the layer is first, and the kind of cause the right one.

    Yields:
        (net, kind, layer, layer is right, cause is right, cause, seconds)
    """
    for place, (name, model) in enumerate(models.items()):
        for kind, fault in enumerate(faults):
            random = np.random.default_rng([seed, place, kind])
            small, path, causes, *file = fault(model, random)
            start = time.perf_counter()
            found = tfc.explain(model, small, data, tflite=file[0] if file else None, seconds=1)
            seconds = time.perf_counter() - start
            row = next((row for row in found.layers if row.path == path), None)
            cause = row.cause.name if row is not None and row.cause is not None else "none"
            first = found.layers[0].path == path
            yield name, fault.__name__, path, first, cause in causes, cause, seconds


def sums(models, data):
    """`(net, form, rise, sum of the shares)` of compressed nets, with batch norms recalibrated."""
    for name, model in models.items():
        for form, rules in COMPRESSED.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                paths = [path.rpartition("/")[2] for path in tfc.walk(model)]
                chosen = {
                    key: maker
                    for key, maker in rules().items()
                    if callable(key) or any(p.startswith("fc") for p in paths)
                }
                small = tfc.swap(model, chosen)
            tfc.recalibrate_batch_norm(small, data[0])
            found = tfc.explain(model, small, data, seconds=1)
            yield name, form, found.rise, sum(row.share for row in found.layers)


def times(models, data):
    """`(net, seconds of sensitivity, of explain)` of nets in 4 bits; both run once before."""
    for name, model in models.items():
        small = tfc.swap(model, tfc.layers.rounding(4))
        runs = (lambda: tfc.sensitivity(model, data), lambda: tfc.explain(model, small, data))  # noqa: B023
        tfc.explain(model, small, data, seconds=0)
        taken = []
        for run in runs:
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        yield name, *taken


def table(names, rows):
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def tally(rows):
    """For each kind, how many layers and causes of how many are right."""
    kinds = dict.fromkeys(row[1] for row in rows)
    for kind in kinds:
        some = [row for row in rows if row[1] == kind]
        yield kind, len(some), sum(row[3] for row in some), sum(row[4] for row in some)
    yield "all", len(rows), sum(row[3] for row in rows), sum(row[4] for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--nets", default="benchmarks/nets", help="A folder to keep the nets in.")
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    train, test = digits()
    models = {net.__name__: kept(net, train, given) for net in NETS}
    header = ["kind", "faults", "layer named first", "kind of cause"]
    injected = list(inject(models, FAULTS, given.seed, test))
    others = list(inject(models, OTHERS, given.seed, test))
    for row in (row for row in (*injected, *others) if not (row[3] and row[4])):
        print("missed:", *row)
    added = [
        (net, form, f"{rise:.4f}", f"{total:.4f}", f"{abs(total - rise) / abs(rise):.1%}")
        for net, form, rise, total in sums(models, test)
    ]
    taken = [
        (net, f"{before:.1f}", f"{now:.1f}", f"{now / before:.2f}")
        for net, before, now in times(models, test)
    ]
    text = f"""# Finding faults

Five nets (an MLP, a CNN with batch normalization, a residual net with a depthwise convolution, an
LSTM, a transformer) are trained on the digits of scikit-learn. Each fault is in one layer, which is
drawn with its strength by seed {given.seed}; `explain` gets {len(test[0])} examples.

{table(header, tally(injected))}

Further kinds:

{table(header, tally(others))}

The shares of all layers and the rise of the loss, of compressed nets:

{table(["net", "form", "rise of the loss", "sum of the shares", "off by"], added)}

Seconds on the same data, with all candidates of `sensitivity`:

{table(["net", "sensitivity", "explain", "ratio"], taken)}
"""
    write_page(PAGE, text)
    print(text)


def kept(net, train, given):
    """The trained net, from the folder if it is there."""
    path = pathlib.Path(given.nets, f"explain-{net.__name__}.keras")
    if path.exists():
        return keras.saving.load_model(path)
    model = trained(net, train, given.epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


if __name__ == "__main__":
    main()
