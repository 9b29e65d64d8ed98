"""BinaryConnect: an MLP trained with one bit per weight, deterministic and stochastic.

python examples/binary_connect_mlp.py [--quick]
"""

import argparse

import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", help="fewer images, one epoch")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
images, epochs, width = (4000, 1, 128) if arguments.quick else (60000, 5, 512)

(x_train, y_train), (x_test, y_test), data = fashion_mnist()
print("Images:", data)
x_train, y_train = (x_train[:images] - 0.286) / 0.353, y_train[:images]
x_test = (x_test - 0.286) / 0.353
targets = 2.0 * np.eye(10)[y_train] - 1  # for the squared hinge, as in the paper


def mlp(dense):
    """Three hidden layers; batch normalization behind every layer, the last one too."""
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
    for _ in range(3):
        model.add(dense(width, use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(dense(10, use_bias=False))
    model.add(layers.BatchNormalization())
    return model


def train(model, rate, callbacks=()):
    steps = epochs * -(-images // 128)
    schedule = keras.optimizers.schedules.ExponentialDecay(rate, steps, 1e-5 / rate)
    model.compile(keras.optimizers.Adam(schedule), "squared_hinge")
    model.fit(x_train, targets, 128, epochs, callbacks=list(callbacks), verbose=0)


def show(name, model):
    accuracy = np.mean(model.predict(x_test, 500, verbose=0).argmax(-1) == y_test)
    bits = sum(getattr(layer, "bits", 32 * np.size(layer.kernel)) for layer in kernels(model))
    print(f"{name:42} {accuracy:.4f} {bits / 8192:9.1f} KiB of kernels", flush=True)


def kernels(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


keras.utils.set_random_seed(arguments.seed)
model = mlp(layers.Dense)
train(model, 1e-3)
show("float32", model)

keras.utils.set_random_seed(arguments.seed)
model = mlp(tfc.layers.BinaryDense)
train(model, 1e-3)
show("binary, deterministic", model)

keras.utils.set_random_seed(arguments.seed)
model = mlp(lambda *args, **kwargs: tfc.layers.BinaryDense(*args, stochastic=True, **kwargs))
train(model, 5e-3)  # a higher rate: the latents must reach their bounds
show("stochastic, real weights", model)
tfc.recalibrate_batch_norm(model, x_train)  # RecalibrateBatchNorm(x_train) does it within `fit`
show("stochastic, real weights, recalibrated", model)
for layer in kernels(model):
    layer.binarize()
tfc.recalibrate_batch_norm(model, x_train)
show("stochastic, signs fixed, recalibrated", model)
