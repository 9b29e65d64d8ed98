"""Equalized channels of a small depthwise network on CIFAR-10, without training.

    python benchmarks/equalization.py --data cifar10.npz --nets folder

The data are read by `tfcompress.datasets.cifar10`; without `--data` they are downloaded. The float
net is trained in the folder if it is missing (some minutes), on 20,000 images with flips. Accuracy
is that on 2,000 images that were held out of the training data, in a full-integer file on 1,000 of
them. In the second net factors up to e^2 were moved between a depthwise layer's normalization and
the kernel behind it, which changes nothing in float32. Prints a line for each net.
"""

import argparse
import pathlib

import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.export.lower.lower import lower
from tfcompress.graph.copy import copied
from tfcompress.tflite.runner import Runner

TRAINED, BATCH, EPOCHS, RATE = 20_000, 128, 7, 4e-3
BLOCKS = [(32, 1), (64, 2), (64, 1), (96, 1), (128, 2), (128, 1)]  # channels, stride
MEAN, DEVIATION = np.float32([0.49, 0.48, 0.45]), np.float32(0.25)
SPREAD = 2.0  # of the logarithm of the factors


def net() -> keras.Model:
    image = x = keras.Input((32, 32, 3), name="image")

    def normalized(x, name):
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    x = normalized(layers.Conv2D(16, 3, 2, "same", use_bias=False, name="stem")(x), "stem")
    for i, (channels, stride) in enumerate(BLOCKS):
        depthwise = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"dw{i}")
        x = normalized(depthwise(x), f"dw{i}")
        x = normalized(layers.Conv2D(channels, 1, use_bias=False, name=f"pw{i}")(x), f"pw{i}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="out")(x), name="mobile")


def trained(folder, x, y) -> keras.Model:
    import tensorflow as tf

    path = pathlib.Path(folder, "mobile.keras")
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    model = net()
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(BATCH)
    data = data.map(lambda x, y: (tf.image.random_flip_left_right(x), y)).prefetch(2)
    rate = keras.optimizers.schedules.CosineDecay(RATE, EPOCHS * -(-len(x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(data, epochs=EPOCHS, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def unequal(model) -> keras.Model:
    """A copy that computes the same, with factors on the channels of its depthwise layers."""
    new, random = copied(model), np.random.default_rng(0)
    for i in range(len(BLOCKS)):
        norm, point = new.get_layer(f"dw{i}_bn"), new.get_layer(f"pw{i}")
        factors = np.exp(random.uniform(-SPREAD, SPREAD, norm.gamma.shape)).astype("float32")
        for variable in (norm.gamma, norm.beta):
            variable.assign(variable.numpy() * factors)
        point.kernel.assign(point.kernel.numpy() / factors[:, None])
    return new


def accuracy(model, x, y) -> float:
    return float(np.mean(model.predict(x, batch_size=250, verbose=0).argmax(-1) == y))


def file_accuracy(model, inputs, x, y) -> float:
    try:
        runner = Runner(tfc.to_tflite(model, activations="static_int8", check=inputs))
    except tfc.ExportError:  # its outputs have little to do with the model's
        return float("nan")
    found = [runner([x[i : i + 250]])[0].argmax(-1) for i in range(0, 1000, 250)]
    return float(np.mean(np.concatenate(found) == y[:1000]))


def row(model, inputs, x, y) -> dict[str, float]:
    found = {"float": accuracy(model, x, y), "full integer": file_accuracy(model, inputs, x, y)}
    for bits in (8, 4):
        rules = {"stem": None, **tfc.layers.rounding(bits)}
        for name, data in (("plain", None), ("data", inputs)):
            small = tfc.swap(model, rules, data=data)
            found[f"{bits} bits, {name}"] = accuracy(small, x, y)
            tfc.recalibrate_batch_norm(small, inputs)
            found[f"{bits} bits, {name}, recalibrated"] = accuracy(small, x, y)
    return found


def corrected(model, inputs, x, y, bits) -> dict[str, float]:
    """With the normalizations folded into the kernels, before and after `correct_biases`."""
    whole, found = lower(model), {}
    for name, data in (("plain", None), ("data", inputs)):
        small = tfc.swap(whole, {"stem": None, **tfc.layers.rounding(bits)}, data=data)
        right = tfc.correct_biases(small, whole, inputs)
        found[name] = accuracy(small, x, y)
        found[f"{name}, corrected"] = accuracy(right, x, y)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="a file as of `datasets.cifar10`")
    parser.add_argument("--nets", default="nets", help="the folder of the float net")
    options = parser.parse_args()
    (x, y), _ = tfc.datasets.cifar10(options.data)
    x = (x - MEAN) / DEVIATION
    model = trained(options.nets, x[:TRAINED], y[:TRAINED])
    inputs, held_out = x[:2000], (x[45_000:47_000], y[45_000:47_000])
    for name, one in (("as trained", model), ("made unequal", unequal(model))):
        for how, whole in (("as it is", one), ("equalized", tfc.equalize(one))):
            print(f"{name}, {how}: {row(whole, inputs, *held_out)}", flush=True)
    for bits in (4, 3):
        print(f"folded, {bits} bits: {corrected(model, inputs, *held_out, bits)}", flush=True)


if __name__ == "__main__":
    main()
