"""The networks that papers on compression use, as ordinary Functional models.

Layers have the names of torchvision with `_` in place of `.`, so that `load_torch_state` needs no
table of names. Inputs are images with channels last; outputs are logits.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.utils.types import Shape


def alexnet(
    input_shape: Shape = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    width: float = 1.0,
) -> keras.Model:
    """AlexNet as in torchvision, 61,100,840 parameters at full size.

    Args:
        input_shape: `(height, width, channels)`.
        classes: number of logits.
        stem: `"imagenet"`, or `"small"` for images of about 32 x 32: then the first convolution is
            3 x 3 with stride 2, and pooling is by 2.
        width: factor by which the numbers of filters and units are multiplied.

    >>> alexnet((32, 32, 1), 10, "small", width=0.125).output_shape
    (None, 10)

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """
    small, scaled = _check(stem, width)
    image = keras.Input(input_shape, name="image")
    pool = 2 if small else 3
    if small:
        x = _conv(image, scaled(64), 3, 2, 1, "features_0")
    else:
        x = _conv(image, scaled(64), 11, 4, 2, "features_0")
    x = layers.MaxPooling2D(pool, 2)(x)
    x = layers.MaxPooling2D(pool, 2)(_conv(x, scaled(192), 5, 1, 2, "features_3"))
    x = _conv(x, scaled(384), 3, 1, 1, "features_6")
    x = _conv(x, scaled(256), 3, 1, 1, "features_8")
    x = _conv(x, scaled(256), 3, 1, 1, "features_10")
    x = layers.Flatten()(layers.MaxPooling2D(pool, 2)(x))
    for number in (1, 4):  # dropout and activations are the numbers between
        x = layers.Dropout(0.5)(x)
        x = layers.Dense(scaled(4096), "relu", name=f"classifier_{number}")(x)
    return keras.Model(image, layers.Dense(classes, name="classifier_6")(x), name="alexnet")


def vgg16(
    input_shape: Shape = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    width: float = 1.0,
) -> keras.Model:
    """VGG-16, 138,357,544 parameters at full size; see `alexnet` for the arguments.

    Both stems are the same here, and images must be at least 32 x 32.

    >>> vgg16((32, 32, 1), 10, "small", width=0.125).output_shape
    (None, 10)

    Reference: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015.
    """
    _, scaled = _check(stem, width)
    image = x = keras.Input(input_shape, name="image")
    number = 0  # torchvision counts convolutions, activations and poolings
    for count, filters in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            x = _conv(x, scaled(filters), 3, 1, 1, f"features_{number}")
            number += 2
        x = layers.MaxPooling2D(2)(x)
        number += 1
    x = layers.Flatten()(x)
    for number in (0, 3):
        x = layers.Dense(scaled(4096), "relu", name=f"classifier_{number}")(x)
        x = layers.Dropout(0.5)(x)
    return keras.Model(image, layers.Dense(classes, name="classifier_6")(x), name="vgg16")


def resnet18(
    input_shape: Shape = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    width: float = 1.0,
) -> keras.Model:
    """ResNet-18, 11,689,512 trainable parameters at full size; see `alexnet` for the arguments.

    With `stem="small"` the first convolution is 3 x 3 without stride, and no pooling follows it.

    >>> resnet18((32, 32, 1), 10, "small", width=0.125).output_shape
    (None, 10)

    Reference: He et al., "Deep Residual Learning for Image Recognition", 2016.
    """
    small, scaled = _check(stem, width)
    image = keras.Input(input_shape, name="image")
    x = _conv_norm(image, scaled(64), *((3, 1, 1) if small else (7, 2, 3)), "conv1", "bn1")
    x = layers.ReLU()(x)
    if not small:
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))  # after a ReLU, 0 is no maximum
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _residual(x, scaled(filters), stride, f"layer{stage}_{block}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, name="fc")(x), name="resnet18")


def lenet_300_100(input_shape: Shape = (28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-300-100, a perceptron with two hidden layers, 266,610 parameters.

    >>> lenet_300_100().count_params()
    266610

    Reference: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Dense(300, "relu", name="fc1")(layers.Flatten()(image))
    x = layers.Dense(100, "relu", name="fc2")(x)
    return keras.Model(image, layers.Dense(classes, name="out")(x), name="lenet_300_100")


def lenet5(input_shape: Shape = (28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-5 with ReLU and max pooling, 61,706 parameters.

    >>> lenet5().count_params()
    61706

    Reference: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(6, 5, padding="same", activation="relu", name="c1")(image)
    x = layers.Conv2D(16, 5, activation="relu", name="c2")(layers.MaxPooling2D(2)(x))
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    x = layers.Dense(120, "relu", name="fc1")(x)
    x = layers.Dense(84, "relu", name="fc2")(x)
    return keras.Model(image, layers.Dense(classes, name="out")(x), name="lenet5")


def small_resnet(
    input_shape: Shape = (28, 28, 1), classes: int = 10, filters: tuple[int, ...] = (32, 64, 96)
) -> keras.Model:
    """A network of three residual blocks, 223,722 parameters (1,152 are moving statistics).

    >>> small_resnet().count_params()
    223722
    """

    def conv_norm(x, filters, size, stride, number):
        name = f"conv{number}"
        x = layers.Conv2D(filters, size, stride, "same", use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f"bn{number}")(x)

    image = keras.Input(input_shape, name="image")
    x = layers.ReLU()(conv_norm(image, filters[0], 3, 2, 1))
    number = 2
    for block, size in enumerate(filters):
        stride = 1 if block == 0 else 2
        y = layers.ReLU()(conv_norm(x, size, 3, stride, number))
        y = conv_norm(y, size, 3, 1, number + 1)
        if stride > 1:
            x = conv_norm(x, size, 1, stride, number + 2)
        x = layers.ReLU()(layers.Add()([x, y]))
        number += 2 + (stride > 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, name="out")(x), name="small_resnet")


def load_torch_state(model: keras.Model, state_dict: Mapping[str, Any]) -> None:
    """Sets the weights of `alexnet`, `vgg16` or `resnet18` from torchvision's, in place.

    Args:
        model: a model of this module.
        state_dict: `{"features.0.weight": array, ...}`, arrays or tensors on the CPU, as
            `torchvision.models.vgg16(weights=...).state_dict()` gives them.

    Raises:
        ValueError: an array is missing, is left over, or has another shape; the model is then
            unchanged.

    The images must be prepared as for torchvision: RGB in [0, 1], minus the means
    (0.485, 0.456, 0.406), divided by the standard deviations (0.229, 0.224, 0.225).
    """
    left = {k: np.asarray(v) for k, v in state_dict.items() if "num_batches_tracked" not in k}
    assigned = []
    for layer in model.layers:
        for name, variable in _torch_names(layer).items():
            if name not in left:
                raise ValueError(f"`state_dict` has no {name!r}. It has: {sorted(left)[:10]} ...")
            array = _from_torch(model, layer, left.pop(name))
            if array.shape != tuple(variable.shape):
                raise ValueError(
                    f"{name!r} has shape {array.shape} in Keras' order, and the model's weight is "
                    f"{tuple(variable.shape)}."
                )
            assigned.append((variable, array))
    if left:
        raise ValueError(f"`state_dict` has arrays that fit no layer: {sorted(left)[:10]}")
    for variable, array in assigned:
        variable.assign(array)


def _torch_names(layer):
    """`{name in torch: variable}` of a layer."""
    prefix = layer.name.replace("_", ".")
    if isinstance(layer, layers.BatchNormalization):
        names = ("weight", "bias", "running_mean", "running_var")
        variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    elif layer.weights:
        names, variables = ("weight", "bias"), (layer.kernel, layer.bias)
    else:
        return {}
    pairs = zip(names, variables, strict=True)
    return {f"{prefix}.{name}": variable for name, variable in pairs if variable is not None}


def _from_torch(model, layer, array):
    """The array in Keras' order: (out, in, h, w) becomes (h, w, in, out), and so on."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim < 2:
        return array
    array = array.T
    # Behind a Flatten, torch has counted (c, h, w), and Keras counts (h, w, c).
    for flatten in model.layers:
        if isinstance(flatten, layers.Flatten):
            h, w, c = flatten.input.shape[1:]
            if array.shape[0] == h * w * c and layer.name in ("classifier_0", "classifier_1"):
                array = array.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(h * w * c, -1)
    return array


def _check(stem, width):
    if stem not in ("imagenet", "small"):
        raise ValueError(f"Expected stem 'imagenet' or 'small'. Received: stem={stem!r}")
    if not width > 0:
        raise ValueError(f"Expected `width` > 0. Received: width={width!r}")
    return stem == "small", lambda size: max(1, round(width * size))


def _conv(x, filters, size, stride, pad, name):
    """A convolution and ReLU, with torch's padding: the same on both sides."""
    x, padding = _padded(x, size, stride, pad)
    return layers.Conv2D(filters, size, stride, padding, activation="relu", name=name)(x)


def _conv_norm(x, filters, size, stride, pad, name, norm):
    x, padding = _padded(x, size, stride, pad)
    x = layers.Conv2D(filters, size, stride, padding, use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(x)


def _padded(x, size, stride, pad):
    if stride == 1 and 2 * pad == size - 1:
        return x, "same"
    return (layers.ZeroPadding2D(pad)(x) if pad else x), "valid"


def _residual(x, filters, stride, name):
    y = _conv_norm(x, filters, 3, stride, 1, f"{name}_conv1", f"{name}_bn1")
    y = _conv_norm(layers.ReLU()(y), filters, 3, 1, 1, f"{name}_conv2", f"{name}_bn2")
    if stride > 1:
        norm = f"{name}_downsample_1"
        x = _conv_norm(x, filters, 1, stride, 0, f"{name}_downsample_0", norm)
    return layers.ReLU()(layers.Add()([y, x]))
