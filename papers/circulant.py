"""Circulant projections in place of a wide Dense layer: MNIST and CIFAR-10.

python papers/circulant.py [--quick] [--data FOLDER]

Cheng et al., "An Exploration of Parameter Redundancy in Deep Networks with Circulant Projections",
2015. Convolutions with strides in front, one wide hidden layer behind them, which is dense, or one
circulant matrix, or as narrow a dense one that the net stores as many numbers as the circulant.
"""

import functools

import keras
from keras import layers
from results import accuracy, each, fit, load, read_arguments

import tfcompress as tfc

CONVOLUTIONS = {"MNIST": (16, 16), "CIFAR": (32, 32, 64)}  # filters, 5 x 5 with stride 2
UNITS = {"MNIST": 784, "CIFAR": 1024}  # as many as there are inputs
READ = {
    "MNIST": ("mnist.npz", tfc.datasets.mnist),
    "CIFAR": ("cifar10_jpeg.npz", tfc.datasets.cifar10),
}


def net(name, shape, hidden):
    model = keras.Sequential([keras.Input(shape)])
    for filters in CONVOLUTIONS[name]:
        model.add(layers.Conv2D(filters, 5, 2, "same", activation="relu"))
    model.add(layers.Flatten())
    model.add(hidden)
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10))
    return model


def hidden(name, kind):
    units = UNITS[name]
    if kind == "circulant":
        return tfc.layers.CirculantDense(units, activation="relu")
    if kind == "equal-size":  # the circulant and the last layer have 12 weights and biases a unit
        units = round((12 * units + 10) / (units + 11))
    return layers.Dense(units, "relu")


def run(row, seed, epochs, train, test):
    name, kind = row.split()
    model = fit(net(name, train[0].shape[1:], hidden(name, kind)), train, epochs)
    return {"accuracy": accuracy(model, test), "numbers": model.count_params()}


def main():
    given = read_arguments(__doc__, epochs=10)
    data = functools.cache(lambda name: load(given, *READ[name]))
    rows = [f"{name} {kind}" for name in READ for kind in ("dense", "circulant", "equal-size")]
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, *data(row.split()[0])))


if __name__ == "__main__":
    main()
