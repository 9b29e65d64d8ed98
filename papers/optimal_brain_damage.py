"""Optimal Brain Damage on USPS: how many weights can go, with retraining, at no rise of the error?

python papers/optimal_brain_damage.py [--quick] [--data FOLDER]

LeCun, Denker, Solla, "Optimal Brain Damage", 1990, with the net of LeCun et al., "Backpropagation
Applied to Handwritten Zip Code Recognition", 1989: two convolutions of 12 maps and stride 2, 30
units, 10 outputs. Here each map sees all maps before it and each place has the same bias.
"""

import functools
import math

import keras
import numpy as np
from keras import layers
from results import accuracy, each, fit, load, read_arguments

import tfcompress as tfc

SPARSITIES = 0.65, 0.7, 0.8, 0.9
EVERY = 57  # batches from one deletion to the next, about an epoch


def net():
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(12, 5, 2, "same", activation="tanh", name="h1"),
            layers.Conv2D(12, 5, 2, "same", activation="tanh", name="h2"),
            layers.Flatten(),
            layers.Dense(30, "tanh", name="h3"),
            layers.Dense(10, name="out"),
        ]
    )


def run(row, seed, epochs, whole, train, test):
    """A trained net is trained as long again, and pruned in the first half of it, or not."""
    model = net()
    model.set_weights(whole)
    before = accuracy(model, test)
    callbacks, steps = [], epochs * math.ceil(len(train[0]) / 128)
    if row != "no weights deleted":
        score, share = row.split()[0], int(row.split()[1][:-1]) / 100
        schedule = tfc.schedules.Polynomial(0.0, share, max(1, steps // 2))
        data = (train[0][:2000], train[1][:2000]) if score == "obd" else None
        callbacks = [tfc.callbacks.Prune(schedule, score, data, every=EVERY)]
    fit(model, train, epochs, 1e-3, callbacks=callbacks)
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    return {
        "accuracy": accuracy(model, test),
        "accuracy before": before,
        "weights": int(sum(np.count_nonzero(w) for w in kernels)),
        "weights of the whole net": sum(w.size for w in kernels),
    }


def main():
    given = read_arguments(__doc__, epochs=30)
    train, test = load(given, "usps.h5", tfc.datasets.usps)

    @functools.cache
    def whole(seed):
        keras.utils.set_random_seed(seed)
        weights = fit(net(), train, given.epochs, 2e-3).get_weights()
        keras.utils.set_random_seed(seed)
        return weights

    names = [f"{score} {share:.0%}" for share in SPARSITIES for score in ("obd", "magnitude")]
    rows = ["no weights deleted", *names]
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, whole(s), train, test))


if __name__ == "__main__":
    main()
