"""Swap layers of a trained model for compressed ones, fine-tune, save, and see what it takes.

python examples/swap_layers.py [--quick]
"""

import sys
import tempfile
from pathlib import Path

import keras

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (4_000, 1) if QUICK else (60_000, 5)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def train(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)
    return model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]


# 1. A trained model, from wherever it comes.
model = keras.Sequential(
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
print(f"float32: accuracy {train(model, 2e-3):.4f}")

# 2. Rules say which layer becomes what: by name, glob, class or predicate. The first match wins.
#    The new layers start from the trained kernels; `model` itself stays as it is.
small = tfc.swap(
    model,
    {
        "fc": tfc.layers.HashedDense.using(ratio=16),
        "conv2": tfc.layers.BinaryConv2D.using(),
    },
)

# 3. A little training repairs what the swap has cost.
print(f"swapped: accuracy {train(small, 1e-3):.4f}")

# 4. What each layer takes now, beside the model it was made from.
print(tfc.report(small, baseline=model))

# 5. It is an ordinary Keras model: save it, load it, go on.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.keras"
    small.save(path)
    again = keras.models.load_model(path)
print("loaded again:", type(again.get_layer("fc")).__name__)
