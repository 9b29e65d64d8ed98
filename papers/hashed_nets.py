"""HashedNets at 1/8 and 1/64 against nets of equal size: MNIST and four variants of such images.

python papers/hashed_nets.py [--quick] [--data FOLDER]

Chen et al., "Compressing Neural Networks with the Hashing Trick", 2015. Hidden layer of 1,000
units; both layers are hashed. The control is an ordinary net with so few hidden units that it
stores as many numbers. Of the sets with 12,000 training examples 10,000 test examples are made,
where the paper has 50,000.
"""

import functools

import keras
from keras import layers
from results import accuracy, each, file_of, fit, load, read_arguments, split

import tfcompress as tfc

UNITS, RATIOS = 1000, (64, 8)
SETS = {
    "MNIST": lambda digits: digits,
    "ROT": lambda digits: tfc.datasets.mnist_rotated(digits, test=10_000),
    "BG-RAND": lambda digits: tfc.datasets.mnist_random_background(digits, test=10_000),
    "RECT": lambda digits: tfc.datasets.rectangles(test=10_000),
    "CONVEX": lambda digits: tfc.datasets.convex(test=10_000),
}


def net(hidden, out):
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), hidden, out])


def hashed(ratio, classes, seed):
    dense = tfc.layers.HashedDense
    hidden = dense(UNITS, ratio=ratio, seed=2 * seed, activation="relu")
    return net(hidden, dense(classes, ratio=ratio, seed=2 * seed + 1))


def equal_size(numbers, classes):
    units = round((numbers - classes) / (784 + 1 + classes))
    return net(layers.Dense(units, "relu"), layers.Dense(classes))


def run(row, seed, epochs, data):
    _, ratio, kind = row.split()
    train, test = data
    classes = int(train[1].max()) + 1
    model = hashed(int(ratio[2:]), classes, seed)
    if kind == "equal-size":
        model = equal_size(model.count_params(), classes)
    fit(model, train, epochs, 2e-3)
    return {"accuracy": accuracy(model, test), "numbers": model.count_params()}


def main():
    given = read_arguments(__doc__, epochs=20)

    @functools.cache
    def data(name):
        if given.quick:
            return load(given, "mnist.npz", tfc.datasets.mnist)
        digits = tfc.datasets.mnist(file_of(given, "mnist.npz"))
        return split(given, SETS[name](digits))

    kinds = "hashed", "equal-size"
    rows = [f"{name} 1/{ratio} {kind}" for ratio in RATIOS for name in SETS for kind in kinds]
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, data(row.split()[0])))


if __name__ == "__main__":
    main()
