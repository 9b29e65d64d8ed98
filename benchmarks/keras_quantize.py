"""Fashion-MNIST: what Keras' own `model.quantize` gives, for the rows of benchmarks/pareto.py.

    python benchmarks/keras_quantize.py --nets folder

Quantizes the float nets of `nets.py`, without data or training, and converts them by the stock
converter. Keras 3 rounds the kernels of Dense, EinsumDense and Embedding layers and leaves
convolutions in float32. Prints accuracy and bytes, and the time over the float32 file's.
"""

import argparse
import pathlib
import tempfile

import tensorflow as tf
from nets import load_or_train
from pareto import right

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

NETS = ("mlp", "lenet", "resnet")


def stock_file(model):
    """The file of the stock converter, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        try:
            return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # the converter raises its own and plain ones
            return f"{type(error).__name__} of the converter"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=pathlib.Path, default=pathlib.Path("benchmark-nets"))
    arguments = parser.parse_args()
    train, (x, y), _ = fashion_mnist()
    for name in NETS:
        plain = tfc.to_tflite(load_or_train(name, arguments.nets, train), check=x[:32])
        for mode in ("int8", "int4"):
            model = load_or_train(name, arguments.nets, train)
            model.quantize(mode, filters=lambda layer: bool(layer.variables))
            accuracy = (model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean()
            blob = stock_file(model)
            if isinstance(blob, str):
                print(name, mode, f"in Keras {accuracy:.4f}, no file: {blob}", flush=True)
                continue
            ratio = tfc.bench({"float32": plain, mode: blob}, memory=False)[mode].ratio
            print(
                name, mode, f"{right(blob, x, y):.4f}, {len(blob):,}, {1 / ratio:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
