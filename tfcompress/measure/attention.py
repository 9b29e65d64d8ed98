"""The heads of Keras' attention layers, and a layer with fewer of them.

Letters: m width, h heads of keys and values, u heads of queries (a multiple of h), k their size.
"""

import keras
import numpy as np

GROUPED = keras.layers.GroupQueryAttention
ATTENTION = (keras.layers.MultiHeadAttention, GROUPED)
OF_QUERIES = ("query", "gate", "attention_output")


def why_no_heads(layer: keras.layers.Layer, generates: bool = False) -> str | None:
    """Why the heads of an attention layer cannot be told apart, or None if they can.

    Args:
        layer: an instance of one of `ATTENTION`.
        generates: whether it is in a model of KerasHub that generates text.
    """
    if not layer.built:
        return "it is not built, so it has no weights yet"
    for name, part in projections(layer).items():
        plain = type(part) is keras.layers.EinsumDense
        if not plain or part.quantization_mode or part.lora_enabled:
            return f"its projection {name!r} is not an ordinary EinsumDense layer"
    kind = type(layer)
    cached = kind.__module__.startswith("keras_hub.") and kind.__name__.startswith("CachedMulti")
    if kind not in ATTENTION and not cached:
        return f"{kind.__name__} is a class of its own, which may use heads in other ways"
    if cached and generates:
        return "`generate` keeps a cache of the same number of heads for all layers"
    free = layer.trainable and all(p.kernel.trainable for p in projections(layer).values())
    return None if free else "it, or one of its projections, is frozen (`trainable=False`)"


def head_count(layer: keras.layers.Layer) -> int:
    """How many heads can be removed: in grouped attention those of keys and values."""
    return layer.num_key_value_heads if isinstance(layer, GROUPED) else layer.num_heads


def projections(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers to and from the heads, by name: kernels `(m, u, k)`, `(m, h, k)`, `(u, k, m)`.

    Relies on `_query_dense`, `_key_dense`, `_value_dense`, `_output_dense`, `_gate_dense`.
    """
    found = {
        "query": layer._query_dense,
        "key": layer._key_dense,
        "value": layer._value_dense,
        "attention_output": layer._output_dense,
    }
    gate = getattr(layer, "_gate_dense", None)
    return found if gate is None else found | {"gate": gate}


def by_head(layer: keras.layers.Layer, name: str, array: np.ndarray) -> np.ndarray:
    """An array like the kernel of a projection, with one row for each head: `(h, rest)`."""
    axis = 0 if name == "attention_output" else 1
    return np.moveaxis(array, axis, 0).reshape(head_count(layer), -1)


def with_heads(layer: keras.layers.Layer, kept: np.ndarray) -> keras.layers.Layer:
    """The attention layer with some of its heads only; in grouped attention with their queries.

    Args:
        layer: one for which `why_no_heads` has no reason.
        kept: bool for each head.
    """
    config = layer.get_config()
    if isinstance(layer, GROUPED):
        repeats = layer.num_query_heads // layer.num_key_value_heads
        config["num_key_value_heads"] = int(kept.sum())
        config["num_query_heads"] = int(kept.sum()) * repeats
        of_queries = np.repeat(kept, repeats)
    else:
        config["num_heads"], of_queries = int(kept.sum()), kept
    new = type(layer).from_config(config)
    new.build_from_config(layer.get_build_config())
    new._flash_attention = layer._flash_attention  # which is in no config
    theirs = projections(new)
    for name, old in projections(layer).items():
        rows = of_queries if name in OF_QUERIES else kept
        axis = 0 if name == "attention_output" else 1
        theirs[name].kernel.assign(np.compress(rows, keras.ops.convert_to_numpy(old.kernel), axis))
        if old.bias is not None:
            bias = keras.ops.convert_to_numpy(old.bias)
            whole = name == "attention_output"
            theirs[name].bias.assign(bias if whole else np.compress(rows, bias, 0))
        theirs[name].trainable = old.trainable
    return new
