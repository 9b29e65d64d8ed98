"""One budget for a whole network: plan, swap, train on with itself as the teacher, export.

    python examples/compress_to_a_budget.py [--quick]

Trains a small CNN on Fashion-MNIST and compresses it to a tenth of its `.tflite` file. `plan`,
`swap`, `Distiller` and `to_tflite` do the same in steps.
"""

import argparse

import keras

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", help="few images and one epoch")
quick = parser.parse_args().quick

images, epochs = (3000, 1) if quick else (60_000, 5)
(x, y), test, _ = fashion_mnist()
x, y = x[:images], y[:images]

keras.utils.set_random_seed(0)
model = tfc.models.lenet5()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
model.fit(x, y, batch_size=128, epochs=epochs, verbose=2)

made = tfc.compress(
    model,
    (x, y),
    budget=0.1,
    fine_tune=epochs,
    validation_data=test,
)
print(made)
print(f"{len(made.tflite):,} bytes; write them with `path=...`, or as they are: `made.tflite`")
