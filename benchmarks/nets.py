"""The three float networks that the benchmarks compress, and their training recipe."""

import pathlib

import keras
import numpy as np
from keras import layers

from tfcompress import models

EPOCHS = {"mlp": 12, "lenet": 10, "resnet": 6}
BUILDERS = {
    "mlp": models.lenet_300_100,
    "lenet": models.lenet5,
    "resnet": models.small_resnet,
}


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
