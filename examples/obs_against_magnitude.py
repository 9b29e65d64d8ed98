"""Pruning in one shot, without labels or training: Optimal Brain Surgeon against magnitude.

python examples/obs_against_magnitude.py [--quick]
"""

import argparse

import keras
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", help="fewer images, one epoch")
quick = parser.parse_args().quick

keras.utils.set_random_seed(0)
(x_train, y_train), (x_test, y_test), data = fashion_mnist()
print("Images:", data)
if quick:
    x_train, y_train, x_test, y_test = x_train[:6000], y_train[:6000], x_test[:1000], y_test[:1000]

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Flatten(),
        layers.Dense(300, activation="relu", name="fc1"),
        layers.Dense(100, activation="relu", name="fc2"),
        layers.Dense(10, name="out"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=64, epochs=2 if quick else 8, verbose=2)
print(f"float32: {model.evaluate(x_test, y_test, verbose=0)[1]:.4f}")

images = x_train[: 500 if quick else 2000]
for sparsity in (0.9,) if quick else (0.5, 0.8, 0.9):
    results = []
    for score, scope in (("magnitude", "layer"), ("magnitude", "global"), ("obs", "global")):
        pruned = tfc.prune(model, sparsity, images, score=score, scope=scope, layers="fc?")
        pruned.compile(loss=loss, metrics=["accuracy"])
        accuracy = pruned.evaluate(x_test, y_test, verbose=0)[1]
        results.append(f"{score} per {scope}: {accuracy:.4f}".replace("per global", "over all"))
    print(f"{sparsity:.0%} zeros   " + "   ".join(results))
