"""Pruning in one shot, of a trained model and without further training."""

import keras
import numpy as np
from keras import ops

from tfcompress import score as scores_of
from tfcompress.graph.intercept import watch_inputs
from tfcompress.graph.layerwise import follow
from tfcompress.graph.paths import walk
from tfcompress.graph.rebuild import copy
from tfcompress.measure.moments import Moments, can_measure
from tfcompress.numerics.optimal_brain_surgeon import shares, sparsify
from tfcompress.pruning.masks import prunable, tighten
from tfcompress.utils.batches import batches, check_repeats
from tfcompress.utils.checks import check_sparsity
from tfcompress.utils.progress import progress
from tfcompress.utils.types import Data, Layers, Scope, Score

BATCH = 128


def prune(
    model: keras.Model,
    sparsity: float,
    data: Data | None = None,
    score: Score = "magnitude",
    layers: Layers = "*",
    scope: Scope = "layer",
) -> keras.Model:
    """A copy of a model with a share of its weights zero; the model itself stays as it is.

    With `score="obs"`, Optimal Brain Surgeon, the weights that stay make up for those that go.
    Layer by layer, in the order of the graph, the inputs are measured that a layer gets in the
    already pruned model; the kernel is first fitted so that with these inputs it gives what the
    layer gave in the model itself, and then made sparse by `surgeon.sparsify`. No labels and no
    loss are needed. In a model with batch normalization, call `recalibrate_batch_norm` afterwards.

    Cost: `"obs"`: two forward passes, and `sparsify`; memory as in `follow`.

    Args:
        model: a built Sequential or Functional `keras.Model`.
        sparsity: the share of zeros in the chosen kernels, in [0, 1).
        data: inputs (arrays, `tf.data.Dataset`, `PyDataset`) for `"obs"`; what the curvature is
            measured on, as in `curvature.gauss_newton`, for other scores that use it. Some 2,000
            examples are enough.
        score: `"magnitude"`, `|w|`; `"obd"`, `d w^2 / 2` with the loss that the model is compiled
            with; `"random"`; a callable `(w, d)`, with `d` None without data; or `"obs"`.
        layers: a name, path or glob, or a list of these. Biases, norms, embeddings, recurrent and
            frozen layers are left alone.
        scope: `"layer"`, the same share in each layer, or `"global"`: one ranking over all layers.
            For `"obs"` that is of the quadratic form, relative to each layer's own.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: bad arguments; `layers` matches nothing, or names what cannot be pruned; `data`
            is missing, or a generator; `"obs"` meets a kernel whose inputs it cannot measure
            (transposed and separable convolutions, compressed layers).

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="out")])
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> small = prune(model, 0.75, x, score="obs")
    >>> int(np.sum(small.get_layer("out").kernel.numpy() == 0))
    24

    Papers: see `score.obd` and `surgeon.sparsify`.
    """
    check_sparsity(sparsity)
    if scope not in ("layer", "global"):
        raise ValueError(f"Expected scope 'layer' or 'global'. Received: scope={scope!r}")
    if score == "obs":
        return _surgery(model, sparsity, data, layers, scope)
    score = scores_of.get(score)
    new = copy(model)
    weights = {path: ops.convert_to_numpy(v) for path, v in prunable(new, layers).items()}
    curvature = {}
    if data is not None and score not in (scores_of.magnitude, scores_of.random):
        from tfcompress.measure.curvature import gauss_newton

        curvature = gauss_newton(model, data)
    scores = {path: score(w, curvature.get(path)) for path, w in weights.items()}
    masks = {path: np.ones(w.shape, bool) for path, w in weights.items()}
    masks = tighten(masks, scores, sparsity, scope)
    for path, variable in prunable(new, layers).items():
        variable.assign(np.where(masks[path], weights[path], 0))
    return new


def _surgery(model, sparsity, data, layers, scope):
    if data is None:
        raise ValueError('score="obs" needs `data`, inputs of the model without labels.')
    check_repeats(data, 2)
    new = copy(model)
    found = {path: layer for path, (layer, _) in walk(new).items()}
    paths = list(prunable(new, layers))
    other = [path for path in paths if path not in found or not _is_plain(found[path])]
    if other:
        raise ValueError(
            f'score="obs" cannot measure the inputs of {other}. Leave them out by `layers`, or '
            'use score="magnitude".'
        )
    before = {path: layer for path, (layer, _) in walk(model).items()}
    path_of = {id(layer): path for path, layer in before.items()}
    portions = dict.fromkeys(paths, sparsity)
    if scope == "global":
        portions = _portions(new, {path: found[path] for path in paths}, data, sparsity)

    def change(layer, pairs):
        moments, path = Moments(layer), path_of[id(layer)]
        for x, now in pairs:
            moments.add(now, x)
        found[path].kernel.assign(sparsify(moments.adapted(), moments.metric(), portions[path]))
        return [found[path]]

    follow(model, data, [before[path] for path in paths], change, "Pruning layers")
    return new


def _is_plain(layer):
    return can_measure(layer) and not hasattr(layer, "stored")


def _portions(model, layers, data, sparsity):
    """The share of zeros of each layer, for `scope="global"`."""
    moments = {id(layer): Moments(layer) for layer in layers.values()}
    for x, _, _ in progress(batches(data, BATCH), "Measuring inputs"):
        watch_inputs(model, x, layers.values(), lambda layer, x: moments[id(layer)].add(x))
    metrics = [moments[id(layer)].metric() for layer in layers.values()]
    kernels = [ops.convert_to_numpy(layer.kernel) for layer in layers.values()]
    return dict(zip(layers, shares(kernels, metrics, sparsity), strict=True))
