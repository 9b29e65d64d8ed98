"""A trained network rounded to 16, 8 and 4 bits, each in one line.

python examples/round_to_int8.py [--quick]
"""

import argparse

import keras
import numpy as np
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
    x_train, y_train, x_test, y_test = x_train[:4000], y_train[:4000], x_test[:1000], y_test[:1000]

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(16, 5, strides=2, activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, strides=2, activation="relu", name="depthwise"),
        layers.Conv2D(64, 1, activation="relu", name="pointwise"),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="fc"),
        layers.Dense(10, name="out"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss)
model.fit(x_train, y_train, batch_size=64, epochs=1 if quick else 4, verbose=2)


def show(name, model):
    accuracy = np.mean(model.predict(x_test, 500, verbose=0).argmax(-1) == y_test)
    blob = tfc.to_tflite(model, check=x_test[:64])
    print(f"{name:22} accuracy {accuracy:.4f}, .tflite {len(blob):9,} bytes", flush=True)


show("float32", model)
show("float16", tfc.swap(model, tfc.layers.rounding(bits=16)))
int8 = tfc.swap(model, tfc.layers.rounding(bits=8))  # the one line
show("8 bits", int8)
show("4 bits", tfc.swap(model, tfc.layers.rounding(bits=4)))
show("4 bits, fitted on data", tfc.swap(model, tfc.layers.rounding(bits=4), data=x_train[:1000]))
print(tfc.report(int8))
