"""The three float networks that the benchmarks compress, and their training recipe."""

import pathlib

import keras
import numpy as np
from keras import layers

EPOCHS = {"mlp": 12, "lenet": 10, "resnet": 6}


def mlp():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, name="fc1"),
            layers.ReLU(),
            layers.Dense(100, name="fc2"),
            layers.ReLU(),
            layers.Dense(10, name="out"),
        ],
        name="mlp",
    )


def lenet():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", name="c1"),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, name="c2"),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(120, name="fc1"),
            layers.ReLU(),
            layers.Dense(84, name="fc2"),
            layers.ReLU(),
            layers.Dense(10, name="out"),
        ],
        name="lenet",
    )


def resnet():
    def conv_norm(x, filters, size, stride, name):
        x = layers.Conv2D(filters, size, stride, "same", use_bias=False, name=name)(x)
        return layers.BatchNormalization()(x)

    def block(x, filters, stride, first):
        y = layers.ReLU()(conv_norm(x, filters, 3, stride, f"conv{first}"))
        y = conv_norm(y, filters, 3, 1, f"conv{first + 1}")
        if stride > 1:
            x = conv_norm(x, filters, 1, stride, f"conv{first + 2}")
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv_norm(inputs, 32, 3, 2, "conv1"))
    x = block(x, 32, 1, 2)
    x = block(x, 64, 2, 4)
    x = block(x, 96, 2, 7)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="out")(x), name="resnet")


BUILDERS = {"mlp": mlp, "lenet": lenet, "resnet": resnet}


def load_or_train(name, folder, train):
    """The float network: from `folder/name.keras`, or trained now and saved there.

    Recipe: Adam, cosine from 2e-3, batches of 128, seed 0, `EPOCHS` epochs.
    """
    path = pathlib.Path(folder, f"{name}.keras")
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model, (x, y) = BUILDERS[name](), train
    steps = EPOCHS[name] * -(-len(x) // 128)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), loss)
    model.fit(x, y, batch_size=128, epochs=EPOCHS[name], verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def accuracy(model, x, y) -> float:
    return float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(-1) == y))


def inner_layers(model) -> list[str]:
    """Names of the layers that are compressed: the first and last of a CNN stay float."""
    kinds = (layers.Dense, layers.Conv2D)
    names = [layer.name for layer in model.layers if isinstance(layer, kinds)]
    return names[1:-1] if isinstance(model.get_layer(names[0]), layers.Conv2D) else names[:-1]
