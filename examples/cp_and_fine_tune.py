"""CP convolutions at a quarter of the MACs: decompose, recalibrate, fine-tune, export, time.

python examples/cp_and_fine_tune.py [--quick]
"""

import sys

import keras
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (3_000, 1) if QUICK else (60_000, 5)

keras.utils.set_random_seed(0)
(x, y), test, source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def conv(filters, strides, name):
    return [
        layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=name),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


def train(model, rate, epochs):
    steps = epochs * -(-len(x) // 128)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)


def show(what, model):
    print(f"{what}: accuracy {model.evaluate(*test, batch_size=500, verbose=0)[1]:.4f}")


# 1. A trained CNN with batch normalization.
parts = [*conv(24, 2, "c1"), *conv(48, 2, "c2"), *conv(64, 1, "c3")]
parts += [layers.Flatten(), layers.Dropout(0.3), layers.Dense(10, name="out")]
model = keras.Sequential([keras.Input((28, 28, 1)), *parts])
train(model, 2e-3, EPOCHS)
show("float32", model)

# 2. Two of its convolutions as 1x1, depthwise 3x3 and 1x1 ones, at a quarter of the MACs. With
#    `data`, what counts is the error of a layer's outputs on these images, not of its kernel.
small = tfc.swap(model, {"c[23]": tfc.layers.CPConv2D.using(macs=0.25)}, data=x[:2_000])
print("ranks:", [small.get_layer(name).rank for name in ("c2", "c3")])
small.compile(loss=model.loss, metrics=["accuracy"])
show("swapped", small)

# 3. Batch normalization still has the statistics of the float network. No labels are needed.
tfc.recalibrate_batch_norm(small, x[:2_000])
show("recalibrated", small)

# 4. Fine-tune with a small rate: CP factors that nearly cancel diverge with a large one.
train(small, 5e-4, 1 if QUICK else 2)
show("fine-tuned", small)

# 5. What the files take and how long they run.
files = {"float32": tfc.to_tflite(model), "CP": tfc.to_tflite(small)}
print(tfc.bench(files, rounds=5 if QUICK else 61))
