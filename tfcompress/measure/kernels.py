"""The kernels of a model by path."""

import keras

from tfcompress.graph.paths import walk
from tfcompress.graph.private_keras import layers_in

KERNEL_NAMES = ("kernel", "embeddings", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")


def kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """The kernels and embeddings of a model by path, those of frozen layers included.

    A layer's `kernel` (or `embeddings`) has the path of the layer. Any other kernel has its name
    appended: `"lstm/lstm_cell/kernel"` and `"lstm/lstm_cell/recurrent_kernel"`,
    `"conv/pointwise_kernel"`; these are also the paths of the parts that `tfcompress.opened` makes.
    Compressed layers, whose kernel is computed and not stored, are not listed.

    Raises:
        ValueError: the model has no kernels.
    """
    found, seen = {}, set()
    for path, (layer, _) in walk(model).items():
        of_parts = {id(v) for part in layers_in(layer, include_self=False) for v in part.weights}
        own = {name: getattr(layer, name, None) for name in KERNEL_NAMES}
        for name, variable in own.items():
            if not isinstance(variable, keras.Variable) or id(variable) in seen | of_parts:
                continue
            if keras.backend.is_float_dtype(variable.dtype):
                seen.add(id(variable))
                alone = name in KERNEL_NAMES[:2] and own["recurrent_kernel"] is None
                found[path if alone else f"{path}/{name}"] = variable
    if not found:
        raise ValueError(
            "The model has no kernels to take the curvature of; if it is not built yet, call it on "
            f"an input first. Received: {model}"
        )
    return found
