"""Ternary weights for a trained ResNet: no labels, no training, a few seconds.

python examples/ternary_without_labels.py [--quick]
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
    x_train, y_train, x_test, y_test = x_train[:4000], y_train[:4000], x_test[:1000], y_test[:1000]


def conv_norm(x, filters, strides, name):
    x = layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=name)(x)
    return layers.BatchNormalization()(x)


inputs = keras.Input((28, 28, 1))
x = layers.ReLU()(conv_norm(inputs, 16, 2, "stem"))
for k, (filters, strides) in enumerate([(16, 1), (32, 2), (64, 2)]):
    y = layers.ReLU()(conv_norm(x, filters, strides, f"conv{k}a"))
    y = conv_norm(y, filters, 1, f"conv{k}b")
    x = layers.ReLU()(x + y if strides == 1 else y)
outputs = layers.Dense(10, name="out")(layers.GlobalAveragePooling2D()(x))
model = keras.Model(inputs, outputs)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=64, epochs=1 if quick else 4, verbose=2)


def accuracy(model):
    model.compile(loss=loss, metrics=["accuracy"])
    return model.evaluate(x_test, y_test, verbose=0)[1]


images = x_train[: 200 if quick else 2000]  # no labels from here on
rules = {"conv*": tfc.layers.TernaryConv2D}
plain = tfc.swap(model, rules)
measured = tfc.swap(model, rules, data=images)
print(f"float32                      {accuracy(model):.4f}")
print(f"ternary, nearest values      {accuracy(plain):.4f}")
tfc.recalibrate_batch_norm(plain, images)
print(f"... BatchNorm recalibrated   {accuracy(plain):.4f}")
tfc.recalibrate_batch_norm(measured, images)
print(f"ternary, fitted on data      {accuracy(measured):.4f}")
print(tfc.report(measured))
