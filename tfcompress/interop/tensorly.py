"""CP and Tucker layers to and from the decompositions of the package tensorly.

Any decomposition function of tensorly's also is the fit of a layer, as it is; what else it takes is
given by `functools.partial` or a lambda:

    from tensorly.decomposition import non_negative_parafac, partial_tucker

    tfc.layers.CPConv2D.using(rank=16, fit=non_negative_parafac)
    tfc.layers.CPConv2D.using(rank=16, fit=partial(randomised_parafac, n_samples=200))
    tfc.layers.TuckerConv2D.using(rank=(8, 16), fit=tensorly.decomposition.tucker)
    tfc.layers.TuckerConv2D.using(
        rank=(8, 16), fit=lambda w, ranks: partial_tucker(w, ranks[2:], modes=(2, 3))
    )

tensorly's backend must then be NumPy, its default.
"""

from types import ModuleType
from typing import Any

import keras

from tfcompress.layers.factorized.cp import CPConv2D
from tfcompress.layers.factorized.decomposed import cp_factors, tucker_parts
from tfcompress.layers.factorized.tucker import TuckerConv2D
from tfcompress.utils.arrays import to_numpy


def to_tensorly(layer: CPConv2D | TuckerConv2D) -> Any:
    """The kernel of a layer as a decomposition of tensorly, with the same numbers.

    Args:
        layer: a built `CPConv2D` or `TuckerConv2D`.

    Returns:
        Of a `CPConv2D` a `CPTensor` of an array `(h w, i, o)`, or with `ways=4` `(h, w, i, o)`; of
        a `TuckerConv2D` a `TuckerTensor` of `(h, w, i, o)`, whose factors of height and width are
        identities. Their arrays are of tensorly's backend.

    Raises:
        ImportError: tensorly is not installed.
        TypeError: the layer is of another class.
        ValueError: it is not built.

    Example:

    >>> import tfcompress as tfc
    >>> layer = tfc.layers.CPConv2D(64, 3, rank=16)
    >>> layer.build((None, 28, 28, 32))
    >>> tfc.interop.tensorly.to_tensorly(layer).shape
    (9, 32, 64)
    """
    tensorly = _package()
    if not isinstance(layer, (CPConv2D, TuckerConv2D)):
        raise TypeError(f"Expected a CPConv2D or a TuckerConv2D layer. Received: {layer!r}")
    if not layer.built:
        raise ValueError(f"Layer {layer.name!r} is not built, so it has no kernel yet.")
    parts = {name: to_numpy(part) for name, part in layer.parts.items()}
    outputs = parts.pop("outputs").T
    if isinstance(layer, TuckerConv2D):
        core = parts["core"]
        space = [keras.ops.convert_to_numpy(keras.ops.eye(n)) for n in core.shape[:2]]
        factors = [*space, parts["inputs"], outputs]
        arrays = [tensorly.tensor(factor) for factor in factors]
        return tensorly.tucker_tensor.TuckerTensor((tensorly.tensor(core), arrays))
    if layer.ways == 3:
        parts["space"] = parts["space"].reshape(-1, layer.rank)
    arrays = [tensorly.tensor(factor) for factor in (*parts.values(), outputs)]
    return tensorly.cp_tensor.CPTensor((None, arrays))


def from_tensorly(tensor: Any, layer: keras.layers.Conv2D) -> CPConv2D | TuckerConv2D:
    """A layer whose kernel is a decomposition of tensorly's, with the same numbers.

        small = tfc.swap(model, {"conv": lambda layer: from_tensorly(tensor, layer)})

    Args:
        tensor: a `CPTensor` of an array `(h w, i, o)` or `(h, w, i, o)`, whose weights are
            multiplied into its last factor; or a `TuckerTensor` of an array `(h, w, i, o)`, whose
            factors of height and width are multiplied into its core.
        layer: the built Conv2D, or a compressed form of it, that gives all but the kernel: strides,
            padding, bias, activation and name.

    Returns:
        A built `CPConv2D` or `TuckerConv2D`.

    Raises:
        ImportError: tensorly is not installed.
        TypeError: the tensor is of another class.
        ValueError: it is of another shape, or the layer cannot be taken.
    """
    tensorly = _package()
    if isinstance(tensor, tensorly.cp_tensor.CPTensor):
        return _from_cp(_of_numpy(tensorly, tensor), layer)
    if isinstance(tensor, tensorly.tucker_tensor.TuckerTensor):
        return _from_tucker(_of_numpy(tensorly, tensor), layer)
    raise TypeError(
        "Expected a CPTensor or a TuckerTensor of tensorly, such as `parafac` and `tucker` return. "
        f"Received: an object of type {type(tensor).__name__}"
    )


def _from_cp(pair, layer):
    sizes, rank = [len(factor) for factor in pair[1]], pair[1][0].shape[1]
    new = CPConv2D.from_layer(layer, rank=rank, ways=len(sizes), fit=lambda w, rank: pair)
    *others, outputs = cp_factors(pair, sizes, rank)  # as they are, and not balanced
    return _holding(new, [*others, outputs.T])


def _from_tucker(pair, layer):
    ranks = tuple(factor.shape[1] for factor in pair[1][-2:])
    new = TuckerConv2D.from_layer(layer, rank=ranks, fit=lambda w, ranks: pair)
    inputs, core, outputs = tucker_parts(pair, new.kernel.shape, ranks)
    return _holding(new, [inputs, core, outputs.T])


def _holding(new, arrays):
    """The layer with these parts; it decomposes later kernels itself."""
    for part, array in zip(new.parts.values(), arrays, strict=True):
        part.assign(array.reshape(part.shape))
    new.fit = None
    return new


def _of_numpy(tensorly, pair):
    first, factors = pair
    factors = [tensorly.to_numpy(factor) for factor in factors]
    return (None if first is None else tensorly.to_numpy(first)), factors


def _package() -> ModuleType:
    try:
        import tensorly
        import tensorly.cp_tensor
        import tensorly.tucker_tensor
    except ImportError as error:
        raise ImportError(
            f"Decompositions of tensorly need it: pip install tensorly. {error}"
        ) from error
    return tensorly
