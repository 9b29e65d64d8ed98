"""The peer of pruning.py: tensorflow_model_optimization from the same float weights.

Runs in an environment of its own: pip install tensorflow-model-optimization tf-keras.
Arguments: net, weights.npz, sparsity, epochs, rate. Prints the test accuracies at a constant and
at a cosine rate as a JSON list.
"""

import json
import os
import pathlib
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tfcompress"))
from datasets import fashion_mnist

keras = tf.keras
K = keras.layers


def mlp():
    return keras.Sequential(
        [
            *(keras.Input((28, 28, 1)), K.Flatten(), K.Dense(300), K.ReLU(), K.Dense(100)),
            *(K.ReLU(), K.Dense(10)),
        ]
    )


def lenet():
    return keras.Sequential(
        [
            *(keras.Input((28, 28, 1)), K.Conv2D(6, 5, padding="same"), K.ReLU()),
            *(K.MaxPooling2D(2), K.Conv2D(16, 5), K.ReLU(), K.MaxPooling2D(2), K.Flatten()),
            *(K.Dense(120), K.ReLU(), K.Dense(84), K.ReLU(), K.Dense(10)),
        ]
    )


def resnet():
    def conv_norm(x, filters, size, stride):
        x = K.Conv2D(filters, size, stride, "same", use_bias=False)(x)
        return K.BatchNormalization()(x)

    def block(x, filters, stride):
        y = conv_norm(K.ReLU()(conv_norm(x, filters, 3, stride)), filters, 3, 1)
        if stride > 1:
            x = conv_norm(x, filters, 1, stride)
        return K.ReLU()(K.Add()([x, y]))

    inputs = keras.Input((28, 28, 1))
    x = K.ReLU()(conv_norm(inputs, 32, 3, 2))
    for filters, stride in ((32, 1), (64, 2), (96, 2)):
        x = block(x, filters, stride)
    return keras.Model(inputs, K.Dense(10)(K.GlobalAveragePooling2D()(x)))


def main():
    name, path, sparsity, epochs, rate = sys.argv[1:]
    (x, y), (x_test, y_test), _ = fashion_mnist()
    epochs, rate, steps = int(epochs), float(rate), int(epochs) * -(-len(x) // 128)
    found = []
    for cosine in (False, True):
        keras.utils.set_random_seed(0)
        model = {"mlp": mlp, "lenet": lenet, "resnet": resnet}[name]()
        with np.load(path) as weights:
            place(model, list(weights.values()))
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.3, float(sparsity), 0, steps * 6 // 10)
        pruned = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
        decay = keras.optimizers.schedules.CosineDecay(rate, steps) if cosine else rate
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        pruned.compile(keras.optimizers.Adam(decay), loss)
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
        pruned.fit(x, y, batch_size=128, epochs=epochs, verbose=0, callbacks=callbacks)
        logits = pruned.predict(x_test, batch_size=500, verbose=0)
        found.append(float(np.mean(logits.argmax(-1) == y_test)))
    print(json.dumps(found))


def place(model, arrays):
    """Sets the weights, which the two Keras versions list in other orders, by layer."""
    counted = [len(layer.weights) for layer in model.layers]
    if sum(counted) != len(arrays):
        raise SystemExit(f"The net has {sum(counted)} arrays. Received: {len(arrays)}")
    model.set_weights(arrays)


if __name__ == "__main__":
    main()
