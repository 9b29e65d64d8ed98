"""Which layers a compressed one cannot stand for."""

import keras

CONSTRAINTS = ("kernel_constraint", "depthwise_constraint", "embeddings_constraint")


def refuse(cls: type, layer: keras.layers.Layer) -> None:
    """Raises `ValueError` with the reason if the class cannot take the layer."""
    reason = None
    if not cls.takes(layer):
        reason = f"it takes {cls.ordinary.__name__} layers only, not {type(layer).__name__}"
        if isinstance(layer, cls.ordinary):
            reason += ", a subclass whose `call` may differ"
    elif any(getattr(layer, name, None) is not None for name in CONSTRAINTS):
        reason = "its kernel_constraint cannot hold on a compressed kernel"
    elif getattr(layer, "data_format", "channels_last") != "channels_last":
        reason = "it has data_format='channels_first'"
    elif getattr(layer, "quantization_mode", None) is not None:
        reason = f"Keras has already quantized it ({layer.quantization_mode})"
    elif getattr(layer, "groups", 1) > 1 and not cls.takes_groups:
        reason = f"it is a grouped convolution (groups={layer.groups})"
    if reason:
        raise ValueError(f"{cls.__name__} cannot take layer {layer.name!r}: {reason}.")
