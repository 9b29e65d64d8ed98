"""The networks of `mobile.py`, for pictures of 32 x 32, and the data that they learn from."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfcompress import datasets

SIDE, CLASSES, SHAPES = 32, 10, 3  # SHAPES: nothing, a disc, a square
HELD_OUT = 5000  # of the training pictures: settings are chosen on these
# Of each stage of MobileNetV2: expansion, channels at width 1, blocks, stride.
STAGES = [
    *[(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)],
    *[(6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1)],
]
# Of each block of MobileNetV3: size of the filters, channels inside, channels, squeeze and
# excitation, activation, stride.
BLOCKS = [
    *[(3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1)],
    *[(5, 96, 40, True, "hard_swish", 2), (5, 120, 48, True, "hard_swish", 1)],
    (5, 288, 96, True, "hard_swish", 1),
]


def norm(x, activation=None):
    x = layers.BatchNormalization(momentum=0.9)(x)
    return x if activation is None else layers.Activation(activation)(x)


def conv(x, filters, size=1, strides=1, activation=None):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return norm(x, activation)


def depthwise(x, size, strides, activation):
    x = layers.DepthwiseConv2D(size, strides, padding="same", use_bias=False)(x)
    return norm(x, activation)


def classifier(image, x):
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(CLASSES)(x))


def mobilenet_v2(width):
    """MobileNetV2 (Sandler et al., 2018) whose first convolution has stride 1."""

    def channels(count):  # a multiple of 8, at most a tenth fewer
        whole = max(8, int(count * width + 4) // 8 * 8)
        return whole if whole >= 0.9 * count * width else whole + 8

    x = image = keras.Input((SIDE, SIDE, 3))
    x = conv(x, channels(32), 3, activation="relu6")
    for expansion, count, blocks, strides in STAGES:
        for stride in [strides] + [1] * (blocks - 1):
            start = x
            if expansion > 1:
                x = conv(x, expansion * x.shape[-1], activation="relu6")
            x = conv(depthwise(x, 3, stride, "relu6"), channels(count))
            if start.shape == x.shape:
                x = layers.Add()([start, x])
    return classifier(image, conv(x, 640, activation="relu6"))


def mobilenet_v3():
    """A net like the small MobileNetV3 (Howard et al., 2019), with half of its last blocks."""
    x = image = keras.Input((SIDE, SIDE, 3))
    x = conv(x, 16, 3, activation="hard_swish")
    for size, inside, count, squeezed, activation, stride in BLOCKS:
        start = x
        x = depthwise(conv(x, inside, activation=activation), size, stride, activation)
        if squeezed:
            gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
            gate = layers.Conv2D(inside // 4, 1, activation="relu")(gate)
            x = layers.Multiply()([x, layers.Conv2D(inside, 1, activation="hard_sigmoid")(gate)])
        x = conv(x, count)
        if start.shape == x.shape:
            x = layers.Add()([start, x])
    return classifier(image, conv(x, 288, activation="hard_swish"))


def resnet20():
    """ResNet-20 (He et al., 2016), whose shortcuts between stages are 1 x 1 convolutions."""
    x = image = keras.Input((SIDE, SIDE, 3))
    x = conv(x, 16, 3, activation="relu")
    for filters, first in ((16, 1), (32, 2), (64, 2)):
        for stride in (first, 1, 1):
            start = x if x.shape[-1] == filters else conv(x, filters, 1, stride)
            y = conv(conv(x, filters, 3, stride, "relu"), filters, 3)
            x = layers.ReLU()(layers.Add()([start, y]))
    return classifier(image, x)


def unet():
    """A U-Net (Ronneberger et al., 2015) of three sizes, with transposed convolutions."""
    x = image = keras.Input((SIDE, SIDE, 3))
    passed = []
    for filters in (16, 32):
        x = conv(conv(x, filters, 3, activation="relu"), filters, 3, activation="relu")
        passed.append(x)
        x = layers.MaxPooling2D()(x)
    x = conv(conv(x, 64, 3, activation="relu"), 64, 3, activation="relu")
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 2, 2, padding="same")(x)
        x = layers.Concatenate()([passed.pop(), x])
        x = conv(conv(x, filters, 3, activation="relu"), filters, 3, activation="relu")
    return keras.Model(image, layers.Conv2D(SHAPES, 1)(x))


def pictures(path, seed=0):
    """CIFAR-10 as `(train, held out, test)`, each `(x, y)`."""
    (x, y), test = datasets.cifar10(path)
    order = np.random.default_rng(seed).permutation(len(x))
    out, train = order[:HELD_OUT], order[HELD_OUT:]
    return (x[train], y[train]), (x[out], y[out]), test


def segmented(x, seed):
    """A disc and a square, either in the plain colour of a random place, over each picture.

    Returns:
        The pictures and the class of each pixel, `(n, SIDE, SIDE)`: 0, 1 in the disc, 2 in the
        square, which lies above.
    """
    random = np.random.default_rng(seed)
    x, labels = x.copy(), np.zeros(x.shape[:3], "int32")
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for picture, label in zip(x, labels, strict=True):
        for kind in (1, 2):
            centre, half = random.uniform(6, SIDE - 6, (2, 1, 1)), random.uniform(3, 8)
            away = np.abs(np.stack([rows, columns]) - centre)
            inside = np.hypot(*away) < half if kind == 1 else away.max(0) < half
            colour = picture[tuple(random.integers(0, SIDE, 2))]
            picture[inside] = 0.7 * colour + 0.3 * random.uniform(0, 1, 3)
            label[inside] = kind
    return x, labels


def varied(data, batch, seed):
    """Batches in another order each epoch, half of them mirrored, moved by up to 4 pixels."""
    x, y = data

    def vary(x, y):
        padded = tf.pad(tf.image.random_flip_left_right(x), [(0, 0), (4, 4), (4, 4), (0, 0)])
        return tf.image.random_crop(padded, tf.shape(x)), y

    rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed)
    return rows.batch(batch).map(vary if y.ndim == 1 else lambda x, y: (x, y)).prefetch(2)
