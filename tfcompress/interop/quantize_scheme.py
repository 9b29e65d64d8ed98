"""The quantize scheme of tensorflow_model_optimization with which `quantize` treats each layer.

It is that package's default scheme for 8 bits with three changes. Each layer keeps the zeros and
clusters of its kernel, where the original has one scheme for either in the whole model. Kernels
before a ReLU layer are rounded, where the original leaves them. Compressed layers take part.
"""

from typing import Any

import numpy as np

from tfcompress.interop.adapter import adapter_class
from tfcompress.interop.packages import load

MOST_CLUSTERS = 256  # a kernel with more distinct values counts as not clustered


class Scheme:
    def get_layout_transformer(self) -> Any:
        return Layout()

    def get_quantize_registry(self) -> Any:
        return Registry()


class Layout:
    """The default transformation, which also finds layers whose outputs are not rounded."""

    def apply(self, model: Any, configs: Any) -> Any:
        from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

        found = default_8bit.default_8bit_quantize_layout_transform
        model, configs = found.Default8BitQuantizeLayoutTransform().apply(model, configs)
        layers = load().tf_keras.layers
        for layer in model.layers:
            kind = type(configs.get(layer.name, {}).get("quantize_config")).__name__
            kernels = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
            if kind == "NoOpQuantizeConfig" and isinstance(layer, kernels):
                configs[layer.name]["quantize_config"] = Registry().get_quantize_config(layer)
                configs[layer.name]["quantize_config"].activation_attrs = []
        return model, configs


class Registry:
    """Gives each layer its config."""

    def __init__(self) -> None:
        from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

        self.default_8bit = default_8bit
        self.norm = load().tf_keras.layers.BatchNormalization

    @property
    def default(self) -> Any:
        """A new default registry: the layers of a class share the configs of one registry."""
        return self.default_8bit.default_8bit_quantize_registry.Default8BitQuantizeRegistry()

    def supports(self, layer: Any) -> Any:
        return isinstance(layer, (adapter_class(), self.norm)) or self.default.supports(layer)

    def get_quantize_config(self, layer: Any) -> Any:
        registry = self.default_8bit.default_8bit_quantize_registry
        if isinstance(layer, self.norm):
            configs = self.default_8bit.default_8bit_quantize_configs
            return configs.Default8BitOutputQuantizeConfig(not _is_fused_by_litert(layer))
        if isinstance(layer, adapter_class()):
            config = registry.Default8BitQuantizeConfig(
                layer.offered, [], not _is_fused_by_litert(layer)
            )
        else:
            config = self.default.get_quantize_config(layer)
        quantizer = _keeping_quantizer(layer, config)
        if quantizer is not None:
            config.weight_quantizer = quantizer
        return config


def _is_fused_by_litert(layer):
    """Whether only a batch normalization or a ReLU reads the outputs: LiteRT fuses these."""
    layers = load().tf_keras.layers
    readers = [node.layer for node in layer._outbound_nodes]
    if len(readers) != 1:
        return False
    activation = getattr(getattr(readers[0], "activation", None), "__name__", None)
    plain_relu = isinstance(readers[0], layers.Activation) and activation == "relu"
    return plain_relu or isinstance(readers[0], (layers.ReLU, layers.BatchNormalization))


def _keeping_quantizer(layer, config):
    """A quantizer that keeps the zeros or clusters of the weights; None if they have neither."""
    layers = load().tf_keras.layers
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense, adapter_class())
    if not isinstance(layer, kinds) or isinstance(layer, layers.Conv2DTranspose):
        return None
    weights = [np.asarray(weight) for weight, _ in config.get_weights_and_quantizers(layer)]
    counts = [len(np.unique(weight)) for weight in weights]
    zeros = any((weight == 0).any() for weight in weights)
    pairs = list(zip(counts, weights, strict=True))
    few = bool(pairs) and all(2 < count <= min(MOST_CLUSTERS, w.size // 4) for count, w in pairs)
    conv = isinstance(layer, layers.Conv2D)
    if few:
        return _cluster_quantizer(conv, zeros)
    return _prune_quantizer(conv) if zeros else None


def _cluster_quantizer(conv, zeros):
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
        cluster_preserve_quantize_registry as cluster,
    )

    if conv:
        return cluster.ClusterPreserveDefault8BitConvWeightsQuantizer(zeros)
    return cluster.ClusterPreserveDefault8BitWeightsQuantizer(zeros)


def _prune_quantizer(conv):
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (  # noqa: E501
        prune_preserve_quantize_registry as prune,
    )

    if conv:
        return prune.PrunePreserveDefault8BitConvWeightsQuantizer()
    return prune.PrunePreserveDefault8BitWeightsQuantizer()
