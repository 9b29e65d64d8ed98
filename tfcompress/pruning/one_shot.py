"""Pruning of a trained model in one step, without further training."""

import warnings

import keras
import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.graph.copy import copied
from tfcompress.graph.layerwise import MEMORY, follow
from tfcompress.graph.nodes import calls_its_graph, input_shapes
from tfcompress.graph.paths import check_finite_weights, walk
from tfcompress.graph.suffix import watching
from tfcompress.measure.moments import Moments, enough_examples, enough_positions
from tfcompress.measure.rows import as_kernel, can_measure, fan_in_first
from tfcompress.numerics.optimal_brain_surgeon import shares, sparsify
from tfcompress.pruning.curvature_of_score import check_weighs, curvature_of
from tfcompress.pruning.kernel_scores import kernel_scores
from tfcompress.pruning.masks import prunable, tighten, warn_of_left_out
from tfcompress.rewriting.opening import close_like, opened_where
from tfcompress.utils.batches import batches, check_repeats, some
from tfcompress.utils.checks import check_sparsity
from tfcompress.utils.progress import progress
from tfcompress.utils.types import ClassWeight, Data, Layers, Scope, Score

BATCH_SIZE = 128


def prune(
    model: keras.Model,
    sparsity: float,
    data: Data | None = None,
    score: Score = "magnitude",
    layers: Layers = "*",
    scope: Scope = "layer",
    class_weight: ClassWeight = None,
) -> keras.Model:
    """Returns a copy of a model in which a share of the weights is zero.

    With `score="obs"`, Optimal Brain Surgeon, the remaining weights compensate for the removed
    ones. This goes layer by layer in the order of the graph: the inputs of the layer are measured
    in the model that is already pruned up to there; the kernel is fitted so that on these inputs
    the layer comes close to its outputs in the original model; then the kernel is made sparse. It
    needs neither labels nor a loss. In a model with batch normalization, call
    `recalibrate_batch_norm` afterwards.

    Cost: for `"obs"`, two forward passes and for each layer ten Cholesky factors of blocks of up to
    4096 inputs; 1 GiB for what waits between two layers, and of a stream up to 256 MB of examples.

    Args:
        model: a built Sequential or Functional `keras.Model`; it stays as it is.
        sparsity: the share of zeros in the chosen kernels, in [0, 1).
        data: for `"obs"`, inputs (arrays, `tf.data.Dataset`, `PyDataset`); for other scores that
            use the curvature, data as in `curvature.gauss_newton`. For `"obs"` from 2,048 to 16,384
            examples are used, drawn as in `swap`.
        score: how much a weight is worth: `"magnitude"`, `|w|`; `"obd"`, `d w^2 / 2`, where the
            curvature `d` is that of the loss that the model is compiled with; `"random"`; a
            callable `(w, d)`, where `d` is None without data; or `"obs"`.
        layers: a name, path or glob, or a list of these. Biases, normalization, embeddings and
            frozen layers are not pruned; of recurrent cells both kernels are.
        scope: `"layer"` removes the same share in each layer, `"global"` ranks the weights of all
            layers together. For `"obs"` they are ranked by the damage relative to that of zeroing
            the whole layer.
        class_weight: `{class: weight}` of the labels in `data`, as in `fit`, for scores that use
            the curvature.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: an argument is out of range; `layers` matches nothing, or names a layer that
            cannot be pruned; `data` is missing, or is a generator; `"obs"` cannot measure the
            inputs of a kernel (those of compressed layers).

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="out")])
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> small = prune(model, 0.75, x, score="obs")
    >>> int(np.sum(small.get_layer("out").kernel.numpy() == 0))
    24

    References: LeCun et al., "Optimal Brain Damage", 1990; Hassibi, Stork, "Second Order
    Derivatives for Network Pruning: Optimal Brain Surgeon", 1993.
    """
    check_sparsity(sparsity)
    check_finite_weights(model)
    check_weighs(score, data, class_weight)
    if scope not in ("layer", "global"):
        raise ValueError(f"Expected scope 'layer' or 'global'. Received: scope={scope!r}")
    prunable(model, layers)  # or raises
    warn_of_left_out(model, layers)
    if score == "obs":
        return _optimal_brain_surgeon(model, sparsity, data, layers, scope)
    score = scores_of.get(score)
    new = copied(model)
    kernels = prunable(new, layers)
    weights = {path: ops.convert_to_numpy(v) for path, v in kernels.items()}
    scores = kernel_scores(kernels, score, curvature_of(model, score, data, class_weight) or {})
    masks = {path: w != 0 for path, w in weights.items()}  # what is pruned already stays so
    masks = tighten(masks, scores, sparsity, scope)
    for path, variable in kernels.items():
        variable.assign(np.where(masks[path], weights[path], 0))
    return new


def _optimal_brain_surgeon(model, sparsity, data, layers, scope):
    """Prunes layer by layer; in each layer the remaining weights compensate."""
    if data is None:
        raise ValueError('score="obs" needs `data`, inputs of the model without labels.')
    check_repeats(data, 2)
    model, closed = opened_where(model, layers), model
    new = copied(model)
    found = {path: layer for path, (layer, _) in walk(new).items()}
    paths = list(prunable(new, layers))
    other = [path for path in paths if path not in found or not _is_ordinary(found[path])]
    if other:
        raise ValueError(
            f'score="obs" cannot measure the inputs of {other}. Leave them out of `layers`, or '
            'use score="magnitude".'
        )
    before = {path: layer for path, (layer, _) in walk(model).items()}
    path_of = {id(layer): path for path, layer in before.items()}
    pruned = [before[path] for path in paths]
    shapes = input_shapes(model) if calls_its_graph(model) else {}
    data = some(model, data, enough_examples(pruned, shapes), MEMORY // 4)
    sparsities = dict.fromkeys(paths, sparsity)
    if scope == "global":
        sparsities = _global_sparsities(new, {path: found[path] for path in paths}, data, sparsity)

    missed = set(paths)

    def change(layer, pairs):
        moments = Moments(layer, positions=enough_positions(layer, pairs.examples))
        path = path_of[id(layer)]
        missed.discard(path)
        for x, now in pairs:
            moments.add(now, x)
        w = fan_in_first(layer, moments.adapted())
        w = sparsify(w, moments.metric(), sparsities[path])
        found[path].kernel.assign(as_kernel(layer, w))
        return [found[path]]

    follow(model, data, pruned, change, "Pruning layers")
    if missed:
        said = ", ".join(map(repr, sorted(missed)))
        warnings.warn(f"The data do not reach {said}, which stay as they are.", stacklevel=3)
    close_like(new, closed)
    return new


def _is_ordinary(layer):
    return can_measure(layer) and not hasattr(layer, "stored")


def _global_sparsities(model, layers, data, sparsity):
    """The share of zeros of each layer, for `scope="global"`."""
    moments = {id(layer): Moments(layer) for layer in layers.values()}
    watched = watching(model, layers.values(), lambda layer, x: moments[id(layer)].add(x))
    for x, _, _ in progress(batches(model, data, BATCH_SIZE), "Measuring inputs"):
        watched(x)
    metrics = [moments[id(layer)].metric() for layer in layers.values()]
    kernels = [fan_in_first(layer, ops.convert_to_numpy(layer.kernel)) for layer in layers.values()]
    return dict(zip(layers, shares(kernels, metrics, sparsity), strict=True))
