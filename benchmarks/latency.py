"""Predicted against measured time of .tflite files, and how well plans keep a budget of time.

    python benchmarks/latency.py                writes docs/latency-benchmark.md
    python benchmarks/latency.py --quick        one net, few files and budgets, to see that it runs

Run it on an idle machine. Three networks with random weights, on which their time does not depend:
LeNet-5, the small ResNet, MobileNetV2 (width 0.35, 96 x 96). For each, files in which each layer
has a form drawn at random from the candidates of `plan` for files (all but CP, which takes long to
fit), or stays float32: 40 in all. The prediction is that of `plan` before it has timed any file of
the network but the float32 one: the time of that one, less what each form saves in a file of its
own.

Then plans with random images and labels for some shares of the float32 file's time; their files
are timed once more, by `bench`.
"""

import argparse
import os
import pathlib
import tempfile

import keras
import numpy as np
from export import machine
from pages import write_page

import tfcompress as tfc
from tfcompress.graph.paths import walk
from tfcompress.planning.candidates import default_candidates
from tfcompress.planning.latency.clock import Clock
from tfcompress.planning.latency.layer_times import form_key
from tfcompress.planning.latency.measured import whole_files
from tfcompress.planning.latency.small_files import layer_uses
from tfcompress.planning.latency.timing import timer_here
from tfcompress.planning.options import has_kernel
from tfcompress.planning.plan_result import Option

FILES = 40
SHARES = 0.9, 0.75, 0.6, 0.5
HEAD = """# Predicted and measured time

Written by `benchmarks/latency.py`: {machine}.

"""
FORMS = {k: v for k, v in default_candidates("tflite").items() if not k.startswith("CP")}


def networks(quick):
    """`{name: network}`."""
    keras.utils.set_random_seed(0)
    nets = {"LeNet-5": tfc.models.lenet5()}
    if not quick:
        nets["small ResNet"] = tfc.models.small_resnet()
        nets["MobileNetV2 0.35"] = keras.applications.MobileNetV2(
            (96, 96, 3), alpha=0.35, weights=None, classes=10
        )
    return nets


def inputs_of(model, count):
    return np.random.default_rng(0).normal(size=(count, *model.inputs[0].shape[1:]))


def options_of(model, times):
    """`{path: [Option]}` of each layer, in all forms, with its own time."""
    layers = {path: layer for path, (layer, _) in walk(model).items() if has_kernel(layer)}
    uses, found = layer_uses(model, inputs_of(model, 1), layers.values()), {}
    for path, layer in layers.items():
        row = []
        for name, makers in FORMS.items():
            maker = next((one for one in makers if one.takes(layer)), None)
            if maker is None:
                continue
            try:
                made = maker(layer)
            except ValueError:  # it does not take this kernel, as one with groups
                continue
            chain = made if isinstance(made, list) else [made]
            if form_key(chain, uses[id(layer)][0], "fast") in times.milliseconds:
                own = times.of(chain, uses[id(layer)], "fast", "float32")
                row.append(Option(name, maker, own, milliseconds=own))
        whole = times.of([layer], uses[id(layer)], "fast", "float32")
        found[path] = [*row, Option("float32", None, whole, milliseconds=whole)]
    return found


def predictions(name, model, count, rng):
    """`[(predicted, measured, float32)]` in milliseconds, of some files."""
    with tempfile.TemporaryDirectory() as folder:
        times = tfc.time_layers(model, os.path.join(folder, "times.json"), candidates=FORMS)
    options, rows = options_of(model, times), []
    files = whole_files(model, "fast", ["float32"])
    for _ in range(count):
        clock = Clock(options, times, files, "fast", "float32", timer_here())  # has learned nothing
        chosen = {path: row[rng.integers(len(row))] for path, row in options.items()}
        rules = {path: option.maker for path, option in chosen.items() if option.maker}
        expected = clock.of(chosen)
        seen = clock.seen(tfc.swap(model, rules) if rules else model, chosen)
        rows.append((expected, seen, clock.float_milliseconds))
        print(f"{name}: {expected:.4f} predicted, {seen:.4f} measured, of {rows[-1][2]:.4f} ms")
    return rows


def errors(rows) -> np.ndarray:
    expected, seen, _ = np.array(rows).T
    return abs(expected / seen - 1)


def budgets(name, model, shares):
    """`[(share, what plan told, what bench told)]`, as shares of the float32 file."""
    x, found = inputs_of(model, 160), []
    y = np.random.default_rng(1).integers(0, 10, len(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for share in shares:
        try:
            plan = tfc.plan(model, (x, y), share, "milliseconds", loss, verbose=0)
        except ValueError as error:
            print(f"{name}, {share}: {error}")
            continue
        files = {"float32": tfc.to_tflite(model), "plan": tfc.to_tflite(plan.model)}
        again = 1 / tfc.bench(files, memory=False)["plan"].ratio
        found.append((share, plan.milliseconds / plan.float_milliseconds, again))
        print(f"{name}: budget {share}, {found[-1][1]:.3f} by the plan, {again:.3f} by bench")
    return found


def main(arguments):
    nets, rng = networks(arguments.quick), np.random.default_rng(0)
    count = 2 if arguments.quick else -(-FILES // len(nets))
    text = HEAD.format(machine=machine())
    text += (
        "| network | files | float32, ms | median error | largest error |\n|---|---|---|---|---|\n"
    )
    everything = []
    for name, model in nets.items():
        rows = predictions(name, model, count, rng)
        everything += rows
        e = errors(rows)
        whole = f"{rows[0][2]:.3g}"
        text += f"| {name} | {len(rows)} | {whole} | {np.median(e):.1%} | {e.max():.1%} |\n"
    e = errors(everything)
    text += f"| all | {len(everything)} | | {np.median(e):.1%} | {e.max():.1%} |\n\n"
    text += "Budgets, as shares of the float32 file's time:\n\n"
    text += (
        "| network | budget | the plan's file | measured again by `bench` |\n|---|---|---|---|\n"
    )
    for name, model in nets.items():
        for row in budgets(name, model, SHARES[:1] if arguments.quick else SHARES):
            text += f"| {name} | {' | '.join(f'{share:.3f}' for share in row)} |\n"
    print(text)
    if not arguments.quick:
        write_page(pathlib.Path(__file__).parents[1] / "docs/latency-benchmark.md", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args())
