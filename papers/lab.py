"""Loss-aware binarization and quantization (LAB, LAQ) on MNIST.

python papers/lab.py [--quick] [--data FOLDER]

Hou et al., "Loss-aware Binarization of Deep Networks", 2017; Hou, Kwok, "Loss-aware Weight
Quantization of Deep Networks", 2018. Three hidden layers as in `binary_connect.py`, of 512 units
where the papers have 2,048; Adam, whose rate falls exponentially; one scale per layer. LAB and BWN
(equal curvature) start from the same weights and see the same batches. The control is a float net
of about as many bits as the binary one.
"""

import keras
import numpy as np
from binary_connect import net
from keras import layers
from results import accuracy, each, load, read_arguments

import tfcompress as tfc

WIDTH, EQUAL_WIDTH = 512, 34  # the narrow float net has 29,308 weights of 32 bits
RATE = 3e-3, 3e-6  # of the first and the last step
FORMS = {
    "LAB": (tfc.project.Binary(axis=None), True),
    "BWN": (tfc.project.Binary(axis=None), False),
    "LAQ ternary": (tfc.project.Ternary(axis=None), True),
    "LAQ 3 bits": (tfc.project.Linear(3, axis=None), True),
    "float": None,
    "equal-size": None,
}


def run(row, seed, epochs, data, test, width):
    x, y = data
    first, last = RATE
    steps = epochs * -(-len(x) // 100)
    rate = keras.optimizers.schedules.ExponentialDecay(first, steps, last / first)
    model = net(EQUAL_WIDTH if row == "equal-size" else width, layers.Dense)
    optimizer = keras.optimizers.Adam(rate)
    if FORMS[row]:
        form, weighted = FORMS[row]
        optimizer = tfc.optimizers.ProxNewton(rate, form, weighted=weighted)
    model.compile(optimizer, "squared_hinge")
    model.fit(x, 2.0 * np.eye(10)[y] - 1, 100, epochs, verbose=0)
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    values = max(len(np.unique(w)) for w in kernels)
    return {
        "accuracy": accuracy(model, test),
        "weights": sum(w.size for w in kernels),
        "values of a weight": values if FORMS[row] else None,
    }


def main():
    given = read_arguments(__doc__, epochs=20)
    data, test = load(given, "mnist.npz", tfc.datasets.mnist)
    width = 64 if given.quick else WIDTH
    each(given, __file__, FORMS, lambda row, s: run(row, s, given.epochs, data, test, width))


if __name__ == "__main__":
    main()
