"""Small nets as people ship them, on CIFAR-10: files of `compress` beside those of other tools.

    python benchmarks/mobile.py --data cifar10_jpeg.npz --nets FOLDER [--only resnet20] [--seeds 0]

`--data` is a file with the pictures as JPEG, see `tfcompress.datasets.cifar10`. What was measured
is kept in mobile.json, float nets and files in the folder, so that a run goes on where the last one
ended, and nets can be run one by one. Rows of `ai-edge-quantizer` need `--other-python`, a Python
that has it, and those of quantization-aware training the extra "tfmot". Writes
docs/mobile-benchmark.md and a picture of each net beside it from all that is kept.
"""

import argparse
import functools
import json
import pathlib
import time

import keras
import mobile_nets as nets
import numpy as np
import tensorflow as tf
from any_model_files import of_other_tool, stock
from export import machine
from pages import write_page
from pictures import draw_pareto

import tfcompress as tfc
from tfcompress.interop.packages import load
from tfcompress.reporting.benchmark import bench
from tfcompress.tflite.runner import Runner

NETS = {
    "mobilenet-v2-035": functools.partial(nets.mobilenet_v2, 0.35),
    "mobilenet-v2-050": functools.partial(nets.mobilenet_v2, 0.5),
    "mobilenet-v3": nets.mobilenet_v3,
    "resnet20": nets.resnet20,
    "unet": nets.unet,
}
NO_TRAINING_FOR_INT8 = ("mobilenet-v3",)  # tf_keras has no `hard_silu`
BATCH, RATE, TUNE_RATE = 128, 2e-3, 5e-4
COMPRESSED = {  # the share of the float32 file's bytes, and how the file is made
    "compress to 20%": (0.2, {}),
    "compress to 20%, full integer": (0.2, {"activations": "static_int8"}),
    "compress to 12%": (0.12, {}),
    "compress to 12%, full integer": (0.12, {"activations": "static_int8"}),
    "compress to 12%, store small": (0.12, {"store": "small"}),
}
SAMPLES = 500  # training pictures that other tools calibrate on
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
KEPT = pathlib.Path(__file__).with_suffix(".json")
HEAD = """# Small nets on CIFAR-10

Written by `benchmarks/mobile.py`. The pictures are JPEG files, which are lossy: compare with the
float nets of this page only. Those were trained with Adam, a cosine from {rate} and pictures
mirrored and moved; quantization-aware training begins at {tune_rate}, `compress` as it does by
itself, on pictures varied in the same way. {held} of the training pictures are held out: `compress`
keeps its best epochs by them. "U-Net" finds a disc and a square that lie over the pictures, and its
measure is the mean intersection over union of the three classes; of the others it is the accuracy.
All measures are those of the files, under the default resolver, on the 10,000 test pictures.

"Times faster" is against the stock float32 file, batch 1, one thread, median of interleaved rounds;
below 1 is slower.

| net | file | measure, mean (each seed) | points lost | bytes | times faster |
|---|---|---|---|---|---|
"""


def pictures(given, name):
    """`(train, held out, test)` for a net."""
    found = nets.pictures(given.data)
    if given.quick:
        found = [(x[:512], y[:512]) for x, y in found]
    if name == "unet":
        found = [nets.segmented(x, seed) for seed, (x, _) in enumerate(found)]
    return found


def float_net(name, seed, given, train):
    """The float net: from the folder, or trained now and saved there.

    It is compiled without XLA, which takes minutes to compile a deep net on a CPU; `compress` then
    trains without it, too.
    """
    path = given.nets / f"{name}-{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model, data = NETS[name](), nets.varied(train, BATCH, seed)
    rate = keras.optimizers.schedules.CosineDecay(RATE, given.epochs * len(data))
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"], jit_compile=False)
    model.fit(data, epochs=given.epochs, verbose=2)
    model.save(path)
    return model


def full_integer(model, x):
    """The stock converter's file, all in int8 inside."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def trained_for_int8(model, epochs, train, seed):
    """The full-integer file after quantization-aware training by tfmot."""
    keras.utils.set_random_seed(seed)
    data = nets.varied(train, BATCH, seed)
    tf_keras = load().tf_keras
    rate = tf_keras.optimizers.schedules.CosineDecay(TUNE_RATE, epochs * len(data))
    training = tfc.interop.tfmot.quantize(model, tf_keras.optimizers.Adam(rate), LOSS)
    training.fit(data, epochs=epochs, verbose=2)
    return tfc.to_tflite(training.model(), activations="static_int8", check=train[0][:SAMPLES])


def compressed(model, share, terms, epochs, train, held_out, seed):
    made = tfc.compress(
        model,
        train,
        share,
        fine_tune=epochs,
        validation_data=held_out,
        train=nets.varied(train, BATCH, seed),
        seed=seed,
        **terms,
    )
    print(made)
    return made.tflite


def ways_of(name, model, train, held_out, seed, given):
    """`{what makes a file: a function that makes it}`, the float32 file first."""
    x = train[0][:SAMPLES]
    optimize = [tf.lite.Optimize.DEFAULT]
    ways = {
        "float32": lambda: stock(model),
        "dynamic range": lambda: stock(model, optimize),
        "full integer": lambda: full_integer(model, x),
    }
    if given.other_python:
        both = functools.cache(lambda: of_other_tool(given.other_python, stock(model)))
        ways |= {"ai-edge-quantizer, 8 bits": lambda: both()[0]}
        ways |= {"ai-edge-quantizer, 4 bits": lambda: both()[1]}
    if given.qat and name not in NO_TRAINING_FOR_INT8:
        ways["tfmot, trained for int8"] = lambda: trained_for_int8(model, given.tune, train, seed)
    for way, (share, terms) in COMPRESSED.items():
        made_of = model, share, terms, given.tune, train, held_out, seed
        ways[way] = functools.partial(compressed, *made_of)
    return {way: make for way, make in ways.items() if way in (given.ways or ways)}


def measure(blob, test, batch=200):
    """The accuracy of a file, or for classes of pixels the mean intersection over union."""
    run, (x, y) = Runner(blob), test
    found = [run([x[i : i + batch]])[0].argmax(-1) for i in range(0, len(x), batch)]
    found = np.concatenate(found)
    if y.ndim == 1:
        return float(np.mean(found == y))
    both = [(np.sum((found == k) & (y == k)), np.sum((found == k) | (y == k))) for k in range(3)]
    return float(np.mean([inner / outer for inner, outer in both]))


def run(name, seed, given):
    """Makes the files of one net that are missing; keeps what was measured of each."""
    found = read(given.kept).get(name, {}).get(str(seed), {"files": {}})
    train, held_out, test = pictures(given, name)
    model, files = float_net(name, seed, given, train), found["files"]
    ways = ways_of(name, model, train, held_out, seed, given)
    new = [way for way in ways if way not in files]
    for way in new:
        begin = time.perf_counter()
        blob = ways[way]()
        file_of(given, name, seed, way).write_bytes(blob)
        took = round(time.perf_counter() - begin)
        files[way] = {"measure": measure(blob, test), "bytes": len(blob), "seconds": took}
        print(name, seed, way, files[way], flush=True)
        keep(given.kept, name, seed, found)
    paths = {way: file_of(given, name, seed, way) for way in files}
    here = {way: path for way, path in paths.items() if path.exists()}
    if new and "float32" in here:
        times = bench(here, memory=False)
        for way in here:
            files[way]["ratio"] = round(times[way].ratio, 3)
        found |= {"machine": machine(), "epochs": given.epochs, "tune": given.tune}
        keep(given.kept, name, seed, found)


def file_of(given, name, seed, way):
    return given.nets / f"{name}-{seed}-{way.replace(' ', '_')}.tflite"


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def keep(path, name, seed, found):
    """Writes what one run has found beside what others have; a reader sees the old or the new."""
    kept = read(path)
    kept.setdefault(name, {})[str(seed)] = found
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1) + "\n")
    part.replace(path)


def rows_of(name, seeds):
    """The rows of a net, and the points of its picture."""
    found = [one["files"] for one in seeds.values()]
    rows, points = [], {}
    start = np.mean([files["float32"]["measure"] for files in found])
    for way in found[0]:
        those = [files[way] for files in found if way in files]
        measures = [one["measure"] for one in those]
        mean, each = np.mean(measures), ", ".join(f"{value:.4f}" for value in measures)
        size = max(one["bytes"] for one in those)
        times = ", ".join(f"{one['ratio']:.2f}" for one in those if "ratio" in one)
        cells = [name, way, f"**{mean:.4f}** ({each})", f"{100 * (start - mean):.2f}"]
        rows.append(f"| {' | '.join(cells)} | {size:,} | {times} |\n")
        points[way] = size, mean
    return rows, points


def write_all(given):
    """The page and its pictures, from all that is kept."""
    settings = {"rate": RATE, "tune_rate": TUNE_RATE, "held": f"{nets.HELD_OUT:,}"}
    text, runs = HEAD.format(**settings), []
    for name, seeds in read(given.kept).items():
        rows, points = rows_of(name, seeds)
        text += "".join(rows)
        picture = given.out.with_name(f"mobile-{name}.png")
        measure = "mean intersection over union" if name == "unet" else "accuracy"
        draw_pareto(points, picture, f"{name}, CIFAR-10", measure)
        runs += [
            f"- {name}, seed {seed}: {one['epochs']} epochs of the float net, {one['tune']} of "
            f"further training; timed on {one['machine']}.\n"
            for seed, one in seeds.items()
            if "machine" in one
        ]
    write_page(given.out, text + "\n" + "".join(runs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="cifar10_jpeg.npz; without it Keras downloads the originals")
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    parser.add_argument("--only", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--other-python", help="a Python with ai-edge-quantizer 0.10")
    parser.add_argument("--qat", action="store_true", help="also quantization-aware training")
    parser.add_argument("--epochs", type=int, default=10, help="of the float nets")
    parser.add_argument("--tune", type=int, default=10, help="epochs of all further training")
    parser.add_argument("--ways", nargs="*", help="only these rows, as 'compress to 20%%'")
    parser.add_argument("--quick", action="store_true", help="512 pictures: does it run?")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("docs/mobile-benchmark.md")
    )
    given = parser.parse_args()
    given.nets.mkdir(parents=True, exist_ok=True)
    given.kept = given.nets / "quick.json" if given.quick else KEPT
    for name in given.only:
        for seed in given.seeds:
            run(name, seed, given)
    if not given.quick:
        write_all(given)


if __name__ == "__main__":
    main()
