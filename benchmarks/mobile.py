"""Small nets as people ship them, on CIFAR-10: files of `compress` beside those of other tools.

    python benchmarks/mobile.py --data cifar10_jpeg.npz --nets FOLDER [--only resnet20] [--seeds 0]

`--data` is a file with the pictures as JPEG, see `tfcompress.datasets.cifar10`. Float nets, files
and results are kept in the folder, so that a run goes on where the last one ended. Rows of
`ai-edge-quantizer` need `--other-python`, a Python that has it, and those of quantization-aware
training the extra "tfmot". Writes docs/mobile-benchmark.md and a picture of each net beside it.
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
BATCH, RATE, TUNE_RATE = 128, 2e-3, 5e-4
SHARES = 0.15, 0.12, 0.08  # of the bytes of the float32 file
SAMPLES = 500  # training pictures that other tools calibrate on
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = """# Small nets on CIFAR-10

Written by `benchmarks/mobile.py`: {machine}. {epochs} epochs of the float nets (Adam, a cosine from
{rate}, pictures mirrored and moved), {tune} of `compress` and of quantization-aware training, which
begins at {tune_rate}. The pictures are JPEG files, which are lossy: compare with the float nets of
this page only. {held} of the training pictures are held out: `compress` keeps its best epochs by
them. "U-Net" finds a disc and a square that lie over the pictures, and its measure is the mean
intersection over union of the three classes; of the others it is the accuracy. All measures are
those of the files, under the default resolver, on the 10,000 test pictures.

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


def compressed(model, share, epochs, train, held_out, seed):
    made = tfc.compress(
        model,
        train,
        share,
        fine_tune=epochs,
        validation_data=held_out,
        train=nets.varied(train, BATCH, seed),
        seed=seed,
    )
    print(made)
    return made.tflite


def ways_of(model, train, held_out, seed, given):
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
    for share in SHARES:
        make = functools.partial(compressed, model, share, given.tune, train, held_out, seed)
        ways[f"compress to {share:.0%}"] = make
    if given.qat:
        ways["tfmot, trained for int8"] = lambda: trained_for_int8(model, given.tune, train, seed)
    return ways


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
    path = given.nets / f"{name}-{seed}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    train, held_out, test = pictures(given, name)
    model = float_net(name, seed, given, train)
    for way, make in ways_of(model, train, held_out, seed, given).items():
        if way in results:
            continue
        begin = time.perf_counter()
        blob = make()
        file = given.nets / f"{name}-{seed}-{way.replace(' ', '_')}.tflite"
        file.write_bytes(blob)
        results[way] = {
            "measure": measure(blob, test),
            "bytes": len(blob),
            "seconds": round(time.perf_counter() - begin),
            "file": file.name,
        }
        print(name, seed, way, results[way], flush=True)
        path.write_text(json.dumps(results, indent=1))


def rows_of(name, given):
    """The rows of a net and the points of its picture, of the seeds that have results."""
    paths = [given.nets / f"{name}-{seed}.json" for seed in given.seeds]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not found:
        return [], {}
    files = {way: given.nets / one["file"] for way, one in found[0].items()}
    times = bench({way: path for way, path in files.items() if path.exists()}, memory=False)
    rows, points = [], {}
    start = np.mean([one["float32"]["measure"] for one in found])
    for way in found[0]:
        measures = [one[way]["measure"] for one in found if way in one]
        size = max(one[way]["bytes"] for one in found if way in one)
        mean, each = np.mean(measures), ", ".join(f"{value:.4f}" for value in measures)
        cells = [name, way, f"**{mean:.4f}** ({each})", f"{100 * (start - mean):.2f}"]
        rows.append(f"| {' | '.join(cells)} | {size:,} | {times[way].ratio:.2f} |\n")
        points[way] = size, mean
    return rows, points


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
    parser.add_argument("--quick", action="store_true", help="512 pictures: does it run?")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("docs/mobile-benchmark.md")
    )
    given = parser.parse_args()
    given.nets.mkdir(parents=True, exist_ok=True)
    settings = {"rate": RATE, "tune_rate": TUNE_RATE, "held": f"{nets.HELD_OUT:,}"}
    text = HEAD.format(machine=machine(), epochs=given.epochs, tune=given.tune, **settings)
    for name in given.only:
        for seed in given.seeds:
            run(name, seed, given)
        rows, points = rows_of(name, given)
        text += "".join(rows)
        if points:
            draw_pareto(points, given.out.with_name(f"mobile-{name}.png"), f"{name}, CIFAR-10")
    write_page(given.out, text)


if __name__ == "__main__":
    main()
