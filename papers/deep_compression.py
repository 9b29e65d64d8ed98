"""Deep Compression of LeNet-300-100 and LeNet-5 on MNIST: prune, share weights, code them.

python papers/deep_compression.py [--quick] [--data FOLDER]

Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization
and Huffman Coding", 2016. LeNet-5 is the one of Caffe, with 431,080 parameters, and takes half the
epochs. Pruning is gradual and by Optimal Brain Damage, and the codebooks are trained on. The size
is that of the whole file that `tfc.archive` writes, with the graph and the biases. The control is a
narrow net in a file of about that size, in float16.
"""

import functools
import math
import pathlib
import tempfile

import keras
from keras import layers
from results import accuracy, each, fit, load, read_arguments

import tfcompress as tfc

ZEROS = {"LeNet-300-100": 0.957, "LeNet-5": 0.97}
ENTRIES = 16  # of each codebook
PARTS = 0.3, 0.5, 0.2  # of the epochs: the float net, pruning, codebooks


def perceptron(*units, dropout=0.0):
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
    for count in units:
        model.add(layers.Dense(count, "relu"))
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10))
    return model


def lenet5(first, second, units, dropout=0.0):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(first, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(second, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(units, "relu"),
            layers.Dropout(dropout),
            layers.Dense(10),
        ]
    )


NETS = {
    "LeNet-300-100": functools.partial(perceptron, 300, 100),
    "LeNet-300-100 equal-size": functools.partial(perceptron, 10),
    "LeNet-5": functools.partial(lenet5, 20, 50, 500),
    "LeNet-5 equal-size": functools.partial(lenet5, 6, 12, 38),
}
DROPOUT = {"LeNet-300-100": 0.2, "LeNet-5": 0.5}  # of the float net alone: few weights need none


def compressed(model, zeros, train, epochs):
    """Prunes a trained net, gives its kernels codebooks and trains these."""
    prune, share = (epochs * part for part in PARTS[1:])
    steps = math.ceil(prune) * math.ceil(len(train[0]) / 128)
    schedule = tfc.schedules.Polynomial(0.0, zeros, max(1, steps * 2 // 3))
    data = train[0][:4000], train[1][:4000]
    callback = tfc.callbacks.Prune(schedule, "obd", data, every=max(1, steps // 60))
    fit(model, train, math.ceil(prune), callbacks=[callback])
    forms = {
        layers.Dense: tfc.layers.CodebookDense.using(size=ENTRIES),
        layers.Conv2D: tfc.layers.CodebookConv2D.using(size=ENTRIES),
    }
    small = tfc.swap(model, {one.name: forms[type(one)] for one in model.layers if one.weights})
    return fit(small, train, math.ceil(share), 3e-4)


def archive_bytes(model):
    with tempfile.TemporaryDirectory() as folder:
        return tfc.archive.save(model, pathlib.Path(folder) / "net.tfc", half=True)


def run(row, seed, epochs, train, test):
    epochs = epochs / 2 if row.startswith("LeNet-5") else epochs
    if row not in ZEROS:
        model = fit(NETS[row](), train, math.ceil(epochs))
        return {"accuracy": accuracy(model, test), "bytes": archive_bytes(model)}
    whole = fit(NETS[row](dropout=DROPOUT[row]), train, math.ceil(epochs * PARTS[0]))
    before = {
        "accuracy of the float net": accuracy(whole, test),
        "bytes of the float net": 4 * whole.count_params(),
    }
    model = NETS[row]()
    model.set_weights(whole.get_weights())
    small = compressed(model, ZEROS[row], train, epochs)
    return {"accuracy": accuracy(small, test), "bytes": archive_bytes(small)} | before


def main():
    given = read_arguments(__doc__, epochs=50)
    train, test = load(given, "mnist.npz", tfc.datasets.mnist)
    each(given, __file__, NETS, lambda row, s: run(row, s, given.epochs, train, test))


if __name__ == "__main__":
    main()
