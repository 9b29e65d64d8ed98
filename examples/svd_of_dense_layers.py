"""Cut the Dense layers of a VGG-like network down by SVD, where most of its weights are.

python examples/svd_of_dense_layers.py [--quick]
"""

import sys

import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS, UNITS = (3_000, 1, 128) if QUICK else (60_000, 4, 1024)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def convolutions(filters):
    return [layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(2)]


# 1. Blocks of convolutions, then wide Dense layers: nearly all of the weights are in fc1 and fc2.
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        *convolutions(16),
        layers.MaxPooling2D(),
        *convolutions(32),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(UNITS, activation="relu", name="fc1"),
        layers.Dense(UNITS, activation="relu", name="fc2"),
        layers.Dense(10, name="out"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)


def accuracy(model):
    return np.mean(model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test)


print(f"float32: accuracy {accuracy(model):.4f}, {model.count_params():,} parameters")

# 2. A share of the parameters, without and with the metric: data tell which directions of a
#    kernel matter. No labels and no training in either.
images = x[:2_000]
for share in (0.2, 0.05, 0.02):
    rules = {"fc?": tfc.layers.LowRankDense.using(rank=share)}
    plain, measured = tfc.swap(model, rules), tfc.swap(model, rules, data=images)
    ranks = [measured.get_layer(name).rank for name in ("fc1", "fc2")]
    print(
        f"{share:.0%} of fc1 and fc2, ranks {ranks}: accuracy {accuracy(plain):.4f} plain, "
        f"{accuracy(measured):.4f} in the metric"
    )

# 3. Or let the kernels choose: 90% of the energy, or variational Bayes with a floor.
for rank in ("auto", "evbmf"):
    small = tfc.swap(model, {"fc?": tfc.layers.LowRankDense.using(rank=rank)}, data=images)
    ranks = [small.get_layer(name).rank for name in ("fc1", "fc2")]
    print(f"{rank}: ranks {ranks}, accuracy {accuracy(small):.4f}")
print(tfc.report(small, baseline=model))
