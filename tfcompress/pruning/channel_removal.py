"""A model without some of its channels: smaller layers with the weights that are left."""

from typing import Any

import keras
import numpy as np

from tfcompress.graph.private_keras import layers_in
from tfcompress.graph.private_training import strategy_scope
from tfcompress.measure.attention import with_heads
from tfcompress.pruning.channel_ties import DEPTHWISE, TRANSPOSED
from tfcompress.rewriting.replace import with_replacements


def shrink(model: keras.Model, channels: Any, gone: Any) -> keras.Model:
    """A copy of a model without some of its channels; its class stays.

    Args:
        model: the model.
        channels: the `Channels` of this model.
        gone: the numbers of the channels to remove, out of `channels.groups()`.

    Returns:
        A new model of ordinary layers with the remaining weights.
    """
    with strategy_scope(model):
        return with_replacements(model, _replacements(model, channels, gone))


def _replacements(model, channels, gone) -> dict:
    replacements = {}
    for layer in layers_in(model):
        key = id(layer)
        inputs = channels.reads.get(key, channels.carries.get(key))
        if inputs is not None:
            rows = channels.kept(inputs, gone)
            columns = channels.kept(channels.writes[key], gone) if key in channels.writes else None
            if not (rows.all() and (columns is None or columns.all())):
                replacements[layer] = [_smaller(layer, rows, columns)]
        if key in channels.heads:
            kept = channels.kept(channels.heads[key], gone)
            if not kept.all():
                replacements[layer] = [with_heads(layer, kept)]
    return replacements


def _smaller(layer, rows, columns):
    """A layer with only some of its inputs (`rows`) and outputs (`columns`)."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.InputLayer):
        config["batch_shape"] = (*config["batch_shape"][:-1], int(rows.sum()))
        return keras.layers.InputLayer.from_config(config)
    if columns is not None:
        config["units" if "units" in config else "filters"] = int(columns.sum())
    new = type(layer).from_config(config)
    new.build((*layer.get_build_config()["input_shape"][:-1], int(rows.sum())))
    for old, variable in zip(layer.weights, new.weights, strict=True):
        array = keras.ops.convert_to_numpy(old)
        for axis, kept in _axes(layer, old.name, rows, columns).items():
            array = np.compress(kept, array, axis)
        variable.assign(array)
        if not old.trainable:
            variable.trainable = False
    return new


def _axes(layer, name, rows, columns):
    """`{axis of a weight: which of its entries are left}`."""
    if isinstance(layer, DEPTHWISE):
        return {-2: rows} if name == "kernel" else {-1: np.repeat(rows, layer.depth_multiplier)}
    if columns is None:
        return {-1: rows}
    if name != "kernel":
        return {-1: columns}
    return {input_axis(layer): rows, output_axis(layer): columns}


def input_axis(layer: keras.layers.Layer) -> int:
    """The axis of a kernel that counts the inputs."""
    return -1 if isinstance(layer, TRANSPOSED) else -2


def output_axis(layer: keras.layers.Layer) -> int:
    """The axis of a kernel that counts the outputs."""
    return -3 - input_axis(layer)
