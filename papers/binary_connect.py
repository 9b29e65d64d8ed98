"""BinaryConnect on MNIST: a net of three hidden layers with one bit per weight.

python papers/binary_connect.py [--quick] [--data FOLDER]

Courbariaux et al., "BinaryConnect: Training Deep Neural Networks with binary weights during
propagations", 2015. Three hidden layers of 1,024 units, batch normalization behind every layer,
squared hinge, batches of 100 and a learning rate that falls exponentially, as there; no dropout, no
augmentation. The control is a float net of about as many bits.
"""

import functools

import keras
import numpy as np
from keras import layers
from results import accuracy, each, load, read_arguments

import tfcompress as tfc

WIDTH, EQUAL_WIDTH = 1024, 93  # the narrow float net has 91,140 weights of 32 bits
RATES = {"stochastic": (1e-2, 3e-5)}  # of the first and the last step; else:
RATE = 3e-3, 3e-6


def net(width, dense):
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
    for _ in range(3):
        model.add(dense(width, use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(dense(10, use_bias=False))
    model.add(layers.BatchNormalization())
    return model


def train(model, data, epochs, rates, jit="auto"):
    x, y = data
    first, last = rates
    schedule = keras.optimizers.schedules.ExponentialDecay(
        first, epochs * -(-len(x) // 100), last / first
    )
    model.compile(keras.optimizers.Adam(schedule), "squared_hinge", jit_compile=jit)
    model.fit(x, 2.0 * np.eye(10)[y] - 1, 100, epochs, verbose=0)
    return model


def run(row, seed, epochs, data, test, width):
    dense = layers.Dense
    if row == "deterministic":
        dense = functools.partial(tfc.layers.BinaryDense, scale=False)
    if row == "stochastic":
        dense = functools.partial(tfc.layers.BinaryDense, scale=False, stochastic=True)
    model = net(EQUAL_WIDTH if row == "equal-size" else width, dense)
    jit = False if row == "stochastic" else "auto"  # random numbers take long under XLA
    train(model, data, epochs, RATES.get(row, RATE), jit)
    if row == "stochastic":
        tfc.recalibrate_batch_norm(model, data[0])  # at the real weights, which are used in tests
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    bits = sum(getattr(layer, "bits", 32 * np.size(layer.kernel)) for layer in kernels)
    return {"accuracy": accuracy(model, test), "bits of the kernels": int(bits)}


def main():
    given = read_arguments(__doc__, epochs=30)
    data, test = load(given, "mnist.npz", tfc.datasets.mnist)
    width = 64 if given.quick else WIDTH
    rows = "deterministic", "stochastic", "float", "equal-size"
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, data, test, width))


if __name__ == "__main__":
    main()
