"""Distil a float32 network into its own binary form, and export it.

python examples/distil_into_binary.py [--quick]
"""

import sys

import keras
import numpy as np

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (2_000, 1) if QUICK else (60_000, 3)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def accuracy(model):
    return np.mean(model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test)


def train(model, rate):
    model.compile(keras.optimizers.Adam(rate), LOSS)
    model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)


teacher = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 5, activation="relu", name="conv1"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 5, activation="relu", name="conv2"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu", name="fc"),
        keras.layers.Dense(10, name="out"),
    ]
)
train(teacher, 2e-3)
print(f"float32: accuracy {accuracy(teacher):.4f}")

RULES = {"conv2": tfc.layers.BinaryConv2D.using(), "fc": tfc.layers.BinaryDense.using()}

# The binary form, fine-tuned on the labels alone.
alone = tfc.swap(teacher, RULES)
print(f"binary, before training: {accuracy(alone):.4f}")
train(alone, 1e-3)
print(f"binary, fine-tuned on labels: {accuracy(alone):.4f}")

# The same with the float32 network as the teacher: its logits, and the maps of the layer that
# became binary. Their shapes are equal, so the hint needs no regressor.
student = tfc.swap(teacher, RULES)
hint = tfc.Hint(student="conv2", teacher="conv2", weight=0.1)
distiller = tfc.Distiller(student=student, teacher=teacher, temperature=2.0, hints=[hint])
train(distiller, 1e-3)
print(f"binary, fine-tuned on labels and teacher: {accuracy(student):.4f}")

blob = tfc.to_tflite(student, check=x[:16])
print(tfc.report(student, baseline=teacher, tflite=blob))
