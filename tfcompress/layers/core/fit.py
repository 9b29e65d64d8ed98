"""A kernel fitted where its layer is not: in a worker, which has arrays and plain options alone."""

from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import kernel_of, take_over
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Config, Metric

UNSEEN = ("_initializer", "_regularizer", "_constraint", "activation")  # by a fit: ends of names


class StandIn(NamedTuple):
    """What a fit sees of a layer.

    Attributes:
        layer_class, config: the ordinary layer, without what may be code of the user's.
        build_config: its input shape.
        kernel: to approximate.
    """

    layer_class: type
    config: Config
    build_config: Config
    kernel: np.ndarray


class Fit(NamedTuple):
    """A fitted kernel: the class, options and variables of the layer that stores it."""

    layer_class: type
    options: Config
    values: list[np.ndarray]


def stand_in(layer: keras.layers.Layer, kernel: np.ndarray | None = None) -> StandIn:
    """A built layer as a fit sees it; `kernel` in place of its own."""
    ordinary, config = type(layer), layer.get_config()
    if isinstance(layer, CompressedLayer):
        ordinary = layer.ordinary
        config = ordinary(**layer.ordinary_arguments(), dtype=layer.dtype_policy).get_config()
    for name in config:
        if name.endswith(UNSEEN):
            config[name] = "zeros" if name.endswith("_initializer") else None
    config["name"] = layer.name
    w = to_numpy(kernel_of(layer)) if kernel is None else kernel
    return StandIn(ordinary, config, layer.get_build_config(), w)


def fit(shared: None, maker: Maker, given: StandIn, metric: Metric) -> Fit:
    """Fits the kernel of a layer that a maker takes; `ValueError` if it cannot.

    Args:
        shared: with other tasks: nothing.
        maker: of one step.
        given: the layer.
        metric: see `CompressedLayer.fit_kernel`.
    """
    layer = given.layer_class.from_config(given.config)
    layer.build_from_config(given.build_config)
    new = maker(layer, metric, given.kernel)
    return Fit(type(new), new.method_options(), [to_numpy(v) for v in _variables(new)])


def fitted_layer(layer: keras.layers.Layer, fit: Fit) -> CompressedLayer:
    """The compressed layer of a layer whose kernel was fitted: what `from_layer` makes."""
    new = fit.layer_class(**fit.layer_class.arguments_from(layer), **fit.options)
    new.build((layer.get_build_config() or {}).get("input_shape"))
    for variable, value in zip(_variables(new), fit.values, strict=True):
        variable.assign(value)
    take_over(layer, new)
    return new


def _variables(layer: Any) -> list[keras.Variable]:
    return [variable for variable in layer.variables if variable is not layer.bias]
