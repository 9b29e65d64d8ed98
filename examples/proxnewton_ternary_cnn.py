"""Ternary weights for a CNN, by the optimizer alone: any model, no other layers.

python examples/proxnewton_ternary_cnn.py [--quick]
"""

import sys

import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (2_000, 1) if QUICK else (60_000, 4)
STEPS = EPOCHS * -(-IMAGES // 128)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
if QUICK:
    x_test, y_test = x_test[:1000], y_test[:1000]
print("Images:", source)


def conv_norm(filters, strides, name):
    return [
        layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=name),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        *conv_norm(16, 1, "stem"),
        *conv_norm(32, 2, "conv1"),
        *conv_norm(64, 2, "conv2"),
        layers.Flatten(),
        layers.Dense(64, "relu", name="fc"),
        layers.Dense(10, name="out"),
    ]
)


def train(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=2)
    return model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]


rate = keras.optimizers.schedules.CosineDecay(2e-3, STEPS)
accuracy = {"float32": train(model, keras.optimizers.Adam(rate))}
blobs = {"float32": tfc.to_tflite(model)}

# From here on each kernel but the first and the last holds -a, 0 and a only (a scale `a` for each
# output channel). The optimizer keeps the float weights that move, and after each step gives the
# model the ternary ones that are nearest in Adam's estimate of the curvature.
rate = keras.optimizers.schedules.CosineDecay(1e-3, STEPS)
optimizer = tfc.optimizers.ProxNewton(
    rate, tfc.project.Ternary(), variables=["conv?/kernel", "fc/kernel"]
)
accuracy["ternary"] = train(model, optimizer)
blobs["ternary"] = tfc.to_tflite(model, check=x_test[:8])

for name in ("conv1", "conv2", "fc"):
    kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
    levels = max(len(np.unique(column)) for column in kernel.reshape(-1, kernel.shape[-1]).T)
    print(f"{name}: {levels} levels in a channel, {np.mean(kernel == 0):.0%} zeros")
for name, blob in blobs.items():
    print(f"{name}: accuracy {accuracy[name]:.4f}, .tflite {len(blob):,} bytes")
print(tfc.bench(blobs, rounds=5 if QUICK else 41, memory=False))
