"""Remove channels of a residual network: a smaller model of ordinary layers, faster anywhere.

python examples/prune_channels.py [--quick]
"""

import sys

import keras
from keras import layers

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (3_000, 1) if QUICK else (60_000, 6)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
print("Images:", source)
x, y = x[:IMAGES], y[:IMAGES]


def conv_norm(x, filters, stride=1, name=None):
    x = layers.Conv2D(filters, 3, stride, "same", use_bias=False, name=name)(x)
    return layers.BatchNormalization()(x)


image = keras.Input((28, 28, 1))
h = layers.ReLU()(conv_norm(image, 32, 2, "stem"))
for number, (filters, stride) in enumerate([(32, 1), (64, 2), (96, 2)]):
    inner = layers.ReLU()(conv_norm(h, filters, stride, f"inner{number}"))
    inner = conv_norm(inner, filters, 1, f"last{number}")
    short = h if stride == 1 else conv_norm(h, filters, stride, f"short{number}")
    h = layers.ReLU()(layers.Add()([short, inner]))
model = keras.Model(image, layers.Dense(10, name="out")(layers.GlobalAveragePooling2D()(h)))


def train(model, epochs, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = epochs * -(-IMAGES // 128)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(schedule), loss)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)


def accuracy(model):
    return (model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test).mean()


train(model, EPOCHS, 2e-3)
print(f"float: accuracy {accuracy(model):.4f}, {model.count_params():,} parameters")

# 30% of the channels, those that the layers which read them can do without best; the layers that
# are left are fitted to what they gave before. The sums tie `stem` and `last0`, so they go alike.
sample = x[: 500 if QUICK else 2_000]
small = tfc.prune_channels(model, 0.3, score="obs", data=sample)
tfc.recalibrate_batch_norm(small, sample)
print(f"pruned: accuracy {accuracy(small):.4f}, {small.count_params():,} parameters")

train(small, max(1, EPOCHS // 3), 1e-3)
print(f"trained again: accuracy {accuracy(small):.4f}")

files = {"float": tfc.to_tflite(model), "pruned": tfc.to_tflite(small)}
timed = tfc.bench(files, memory=False)
for name, blob in files.items():
    print(f"{name}: {len(blob):,} bytes, {timed[name].ratio:.2f} times as fast as the float file")
