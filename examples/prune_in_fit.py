"""Prune a CNN while it is fine-tuned: a callback, no wrapper layers, nothing to strip.

python examples/prune_in_fit.py [--quick]
"""

import gzip
import sys

import keras

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (4_000, 2) if QUICK else (60_000, 6)
STEPS = EPOCHS * -(-IMAGES // 128)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def train(model, rate, callbacks=()):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0, callbacks=list(callbacks))
    accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]
    zipped = len(gzip.compress(tfc.to_tflite(model), 9))
    print(f"accuracy {accuracy:.4f}, .tflite gzipped {zipped:,} bytes")
    return history.history


model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="conv1"),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="conv2"),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu", name="fc"),
        keras.layers.Dense(10, name="out"),
    ]
)
print("float32:")
train(model, 2e-3)

# The share of zeros rises from 50% to 90% in the first half of the training, fast at first; then
# the weights that are left adapt. One ranking goes over all kernels, and each keeps at least 2%.
prune = tfc.callbacks.Prune(
    tfc.schedules.Polynomial(0.5, 0.9, steps=STEPS // 2),
    score="magnitude",
    layers=["conv*", "fc", "out"],
    floor=0.02,
    every=STEPS // 20,
)
print("90% pruned:")
history = train(model, 1e-3, [prune])
print("zeros after each epoch:", ", ".join(f"{share:.1%}" for share in history["sparsity"]))

# The zeros are in the model itself.
for row in tfc.report(model).rows:
    print(f"{row.path}: {row.nonzero:.1%} of the weights are left")
