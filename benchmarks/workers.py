"""What workers save: `plan` by one and by two processes with one thread each, the same plan.

    python benchmarks/workers.py              writes docs/workers-benchmark.md
    python benchmarks/workers.py --small      the small net alone

The workers are those of a `ProcessPoolExecutor`; they are started, and have imported TensorFlow,
before the clock runs. The program itself, which measures the inputs of the layers and carries out
the plan, has the threads that it is given. Each time is the least of the rounds: others may use the
machine.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
from pages import write_page

import tfcompress as tfc

THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
HEAD = """# Workers

Written by `benchmarks/workers.py` on {cores} cores, on which about {load} processes were at work at
the end: `plan` by the workers of a `ProcessPoolExecutor`, one thread each. The plans are the same
to the bit. The processor seconds are those of the run with one worker: of the program itself, and
of the worker, which two share.

| work | one worker, s | two workers, s | times faster | processor seconds here | of the worker |
|---|---|---|---|---|---|
"""


def works(small):
    """`{name: (model, shape, images, target)}`."""
    net, shape = tfc.models.small_resnet(), (28, 28, 1)
    found = {
        "small ResNet, 200 images, 10% of the bits": (net, shape, 200, "bits"),
        "the same, 30% of the .tflite bytes": (net, shape, 200, "tflite"),
    }
    if not small:
        resnet, shape = tfc.models.resnet18((32, 32, 3), 10), (32, 32, 3)
        found["ResNet-18, 1,000 images, 10% of the bits"] = resnet, shape, 1000, "bits"
    return found


def ready(seconds):
    """Imports what tasks need, and keeps its worker so that another one gets the next call."""
    import tfcompress  # noqa: F401

    time.sleep(seconds)


def planned(model, data, target, workers):
    """A plan, the seconds that it took, and those of processors, here and in a worker."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ |= dict.fromkeys(THREADS, "1")  # of the processes that start now
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(ready, 3.0) for _ in range(workers)]:
            future.result()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs = pool.submit(time.process_time).result()
        begin, here = time.perf_counter(), time.process_time()
        budget = 0.3 if target == "tflite" else 0.1
        plan = tfc.plan(model, data, budget, target, executor=pool, verbose=0)
        seconds, here = time.perf_counter() - begin, time.process_time() - here
        theirs = pool.submit(time.process_time).result() - theirs  # of the one, if it is one
    return plan, seconds, here, theirs


def check_same(one, other):
    for path, row in one.options.items():
        for a, b in zip(row, other.options[path], strict=True):
            numbers = [(o.name, o.cost, o.predicted, o.measured) for o in (a, b)]
            assert numbers[0] == numbers[1], (path, numbers)
    pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the small net alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", default="docs/workers-benchmark.md")
    args = parser.parse_args()
    text = ""
    for name, (model, shape, images, target) in works(args.small).items():
        rng = np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        x = rng.standard_normal((images, *shape), "float32")
        data = x, rng.integers(0, 10, images)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        least = {}
        for _ in range(args.rounds):
            plans = {}
            for workers in (1, 2):
                plans[workers], *seconds = planned(model, data, target, workers)
                least[workers] = min(seconds, least.get(workers, seconds))
                print(f"{name}: {workers} workers, {seconds[0]:.1f} s", flush=True)
            check_same(*plans.values())
        (one, here, theirs), two = least[1], least[2][0]
        row = f"{one:.1f} | {two:.1f} | {one / two:.2f} | {here:.1f} | {theirs:.1f}"
        print(f"{name}: {row}", flush=True)
        text += f"| {name} | {row} |\n"
    load = f"{os.getloadavg()[0]:.0f}"
    write_page(args.out, HEAD.format(cores=os.cpu_count(), load=load) + text)


if __name__ == "__main__":
    main()
