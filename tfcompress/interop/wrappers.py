"""Converts layers of tf_keras to Keras 3 and strips tensorflow_model_optimization's wrappers."""

import keras

from tfcompress.interop.adapter import adapter_class
from tfcompress.interop.configs import translate
from tfcompress.interop.packages import load
from tfcompress.layers.discrete.fake_quant import FakeQuant


def layers_from_tf_keras(layer: keras.layers.Layer) -> list:
    """The Keras 3 layers in place of a layer, with their weights; None for weights they have."""
    packages = load()
    if isinstance(layer, packages.QuantizeLayer):
        if layer.quantizer is None:
            return [(keras.layers.Identity(name=layer.name), None)]
        return [(_fake_quant(layer.quantizer_vars, layer.name), None)]
    if isinstance(layer, packages.QuantizeWrapper):
        return _quantized(layer)
    if isinstance(layer, packages.ClusterWeights):
        return _clustered(layer)
    if isinstance(layer, packages.PruneLowMagnitude):
        for weight, mask, _ in layer.pruning_vars:
            weight.assign(weight * mask)
        return _plain(layer.layer)
    if isinstance(layer, packages.QuantizeAnnotate):
        return _plain(layer.layer)
    return _plain(layer)


def _plain(layer, weights=None, parts=(), **changes):
    if isinstance(layer, adapter_class()):
        return [(layer.restored(parts), None)]
    weights = layer.get_weights() if weights is None else weights
    return [(translate(layer, keras, **changes), weights or None)]


def _clustered(wrapper):
    wrapper.update_clustered_weights_associations()  # with the latest weights
    layer = wrapper.layer
    if isinstance(layer, adapter_class()):
        return _plain(layer)  # its attributes hold the clustered values
    weights = layer.get_weights()
    for place, name in sorted(wrapper.position_original_weights.items()):
        weights.insert(place, wrapper.get_weight_from_layer(name).numpy())
    return _plain(layer, weights)


def _quantized(wrapper):
    """The layer with weights on int8 levels, and the layers that round its activations."""
    packages, layer = load(), wrapper.layer
    kernels = [
        quantizer(weight, False, weights=ranges).numpy()
        for weight, quantizer, ranges in wrapper._weight_vars
    ]
    activation, before, after, changes = getattr(layer, "activation", None), None, None, {}
    if isinstance(activation, packages.QuantizeAwareActivation):
        before = getattr(activation, "_pre_activation_vars", None)
        after = getattr(activation, "_post_activation_vars", None)
        activation = activation.activation
        changes["activation"] = "linear" if before else getattr(activation, "__name__", None)
    if isinstance(activation, packages.NoOpActivation):
        changes["activation"] = "linear"
    parts = zip(getattr(wrapper.quantize_config, "weight_attrs", []), kernels, strict=True)
    weights = None if isinstance(layer, adapter_class()) else [*kernels, *layer.get_weights()]
    chain = _plain(layer, weights, parts, **changes)
    if before:
        chain.append((_fake_quant(before, f"{layer.name}_before"), None))
        name = f"{layer.name}_activation"
        chain.append((keras.layers.Activation(activation.__name__, name=name), None))
    if wrapper._output_quantizers:
        after = wrapper._output_quantizer_vars
    if after:
        chain.append((_fake_quant(after, f"{layer.name}_fake_quant"), None))
    return chain


def _fake_quant(variables, name):
    low, high = float(variables["min_var"]), float(variables["max_var"])
    if low == high:
        raise ValueError("its range is not learned yet: call `fit` first")
    return FakeQuant(low, high, name=name)
