"""Which layer can be cut how far? The loss with one layer compressed, measured and predicted.

python examples/sensitivity_picture.py [--quick]

Writes sensitivity.png; with --quick, into a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import keras
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (2_000, 1) if QUICK else (60_000, 4)

keras.utils.set_random_seed(0)
(x, y), _, source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def conv(filters, strides, name):
    return [
        layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=name),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


parts = [*conv(16, 2, "c1"), *conv(32, 1, "c2"), *conv(48, 2, "c3"), *conv(64, 1, "c4")]
parts += [layers.GlobalAveragePooling2D(), layers.Dense(10, name="out")]
model = keras.Sequential([keras.Input((28, 28, 1)), *parts])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss)
model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)

# Each of the inner convolutions alone, as two thin convolutions of several ranks and in few bits.
shares = (0.25, 0.5) if QUICK else (0.1, 0.2, 0.3, 0.5, 0.7)
candidates = {f"SVD {share:.0%}": tfc.layers.LowRankConv2D.using(rank=share) for share in shares}
candidates |= {f"CP {share:.0%}": tfc.layers.CPConv2D.using(rank=share) for share in shares}
candidates |= {f"{bits} bits": tfc.layers.QuantizedConv2D.using(bits=bits) for bits in (2, 3, 4)}

found = tfc.sensitivity(model, (x[:2_000], y[:2_000]), ["c2", "c3", "c4"], candidates)
print(found)

# What the second-order form is worth as a predictor: how well it ranks layers and candidates.
rows = sorted(found.rows, key=lambda row: row.predicted)
ranked = sorted(found.rows, key=lambda row: row.measured)
places = [abs(rows.index(row) - ranked.index(row)) for row in rows]
correlation = 1 - 6 * sum(d * d for d in places) / (len(rows) * (len(rows) ** 2 - 1))
print(f"Rank correlation of predicted and measured: {correlation:.2f}")

if QUICK:
    with tempfile.TemporaryDirectory() as folder:
        found.plot(Path(folder, "sensitivity.png"))
else:
    found.plot("sensitivity.png")
    print("Wrote sensitivity.png")
