"""Train wide layers from few numbers: hashed and circulant weights, from nothing and from a net.

python examples/hashed_and_circulant.py [--quick]
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS, UNITS = (2_000, 1, 256) if QUICK else (60_000, 5, 1000)

(x, y), (x_test, y_test), source = fashion_mnist()
mean, std = x.mean(), x.std()
x, y, x_test = (x[:IMAGES] - mean) / std, y[:IMAGES], (x_test - mean) / std
print("Images:", source)


def train(hidden, epochs=EPOCHS, rate=1e-3):
    """A net of one hidden layer, from random weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), hidden, layers.Dense(10, name="out")]
    )
    return fit(model, epochs, rate)


def fit(model, epochs, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model


def show(name, model):
    right = model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        saved = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(
        f"{name:35} accuracy {np.mean(right):.4f}, {model.count_params():,} parameters, "
        f"SavedModel {saved / 1e3:,.0f} kB"
    )


# 1. From random weights. 1 in 64 weights is real, and the hash tells which of them stands where.
#    `blocks`: runs of weights share a hash, which is faster.
options = {"activation": "relu", "name": "fc"}
float_model = train(layers.Dense(UNITS, **options))
show("Dense", float_model)
show("narrow Dense", train(layers.Dense(max(UNITS // 64, 1), **options)))
show("hashed 1/64", train(tfc.layers.HashedDense(UNITS, ratio=64, **options)))
show(
    "hashed 1/64, blocks of 8", train(tfc.layers.HashedDense(UNITS, ratio=64, blocks=8, **options))
)
show("circulant", train(tfc.layers.CirculantDense(UNITS, **options)))
show("circulant, blocks of 16", train(tfc.layers.CirculantDense(UNITS, block=16, **options)))

# 2. From the trained net: the nearest kernel in the metric of the data is far from the trained one,
#    so it is where training starts.
for name, maker in (
    ("hashed 1/16", tfc.layers.HashedDense.using(ratio=16)),
    ("circulant, blocks of 16", tfc.layers.CirculantDense.using(block=16)),
):
    small = tfc.swap(float_model, {"fc": maker}, data=x[:1_000])
    show(f"{name}, swapped", small)
    show(f"{name}, fine-tuned", fit(small, 1 if QUICK else 2, 1e-3))

# 3. Files: the .tflite of `small` holds the circulants, and transforms of builtin operators.
for store in ("fast", "small"):
    blob = tfc.to_tflite(small, store=store, check=x_test[:8])
    print(f'.tflite, store="{store}": {len(blob) / 1e3:,.0f} kB')
print(tfc.report(small, baseline=float_model, tflite=blob))
