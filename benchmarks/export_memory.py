"""Memory and time of an export beside the model and its file.

    python benchmarks/export_memory.py            writes docs/export-memory-benchmark.md

Four Dense layers of 4096 units, 218 MB of float32 weights, 67 MB the largest one, in a process of
its own for each row. "Above" is the highest memory during `to_tflite` above the model and the file
that it returns: of all pages, and of those that the process owns, so without the pages of mapped
files, which the system takes back when it needs them. "Writing" is the same without the
verification, in which LiteRT holds the weights of the float32 file once more, in its own order.
"""

import argparse
import pathlib
import threading
import time

import keras
import numpy as np
from export import machine
from networks import apart
from pages import write_page

import tfcompress as tfc
from tfcompress.export.exporter import file_bytes

FORMS = {
    "float32": None,
    "binary": tfc.layers.BinaryDense.using(),
    "4 bits": tfc.layers.QuantizedDense.using(bits=4),
    "low rank 256, 8 bits": tfc.layers.LowRankDense.using(rank=256).then(
        tfc.layers.QuantizedDense.using(bits=8)
    ),
}
HEAD = """# Memory of an export

Written by `benchmarks/export_memory.py`: {machine}.

{protocol}

| model | file, MB | above, MB | owned, MB | writing, above, MB | owned, MB | seconds |
|---|---|---|---|---|---|---|
"""


def memory() -> np.ndarray:
    """Megabytes of all pages and of the owned ones."""
    text = pathlib.Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return np.array([int(fields[name].split()[0]) / 1e3 for name in ("VmRSS", "RssAnon")])


class Peak:
    """The highest memory inside a `with` block, above that before it."""

    def __enter__(self):
        self.start = self.peak = memory()
        self.running = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.running:
            self.peak = np.maximum(self.peak, memory())
            time.sleep(0.01)

    def __exit__(self, *error):
        self.running = False
        self.thread.join()
        self.above = self.peak - self.start


def measure(name):
    keras.utils.set_random_seed(0)
    wide = [keras.layers.Dense(4096, "relu", name=f"fc{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((4096,)), *wide, keras.layers.Dense(1000)])
    if FORMS[name]:
        model = tfc.swap(model, {"fc*": FORMS[name]})
    small = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    tfc.to_tflite(small)  # loads what there is to load
    with Peak() as writing:
        file_bytes(model)
    begin = time.time()
    with Peak() as whole:
        blob = tfc.to_tflite(model)
    size, seconds = len(blob) / 1e6, time.time() - begin
    above = [*(whole.above - size), *(writing.above - size)]
    return f"| {name} | {size:.0f} | {' | '.join(f'{v:.0f}' for v in above)} | {seconds:.1f} |\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/export-memory-benchmark.md")
    arguments = parser.parse_args()
    text = HEAD.format(machine=machine(), protocol=__doc__.split("\n\n")[2])
    for name in FORMS:
        text += apart(measure, name)
        print(text.splitlines()[-1], flush=True)
    write_page(arguments.out, text)


if __name__ == "__main__":
    main()
