"""Replaces layers of a model of any kind."""

import contextlib
import itertools
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import keras

from tfcompress.graph.chain import Chain
from tfcompress.graph.layerwise import MEMORY, follow
from tfcompress.graph.nodes import calls_its_graph, input_shapes
from tfcompress.graph.paths import check_keras_3, walk
from tfcompress.graph.private_keras import layers_in
from tfcompress.graph.private_training import strategy_scope
from tfcompress.layers.core.base import CompressedLayer
from tfcompress.layers.core.fit import fit as fit_kernel
from tfcompress.layers.core.fit import fitted_layer, stand_in
from tfcompress.layers.core.maker import Maker
from tfcompress.layers.core.ordinary import hand_over, kernel_bits
from tfcompress.measure.moments import Moments, block_of, enough_examples, enough_positions
from tfcompress.rewriting.opening import close, open_for
from tfcompress.rewriting.replace import with_replacements
from tfcompress.rewriting.ties import check_holds_alone, holders_of_variables
from tfcompress.utils.batches import some
from tfcompress.utils.checks import whole_number
from tfcompress.utils.progress import progress, showing
from tfcompress.utils.types import Curvature, Data, Rules, Verbose
from tfcompress.utils.workers import Workers, check_executor


def swap(
    model: keras.Model,
    rules: Rules,
    curvature: Curvature | None = None,
    data: Data | None = None,
    inplace: bool = False,
    executor: Executor | None = None,
    memory: int = MEMORY,
    verbose: Verbose = "auto",
) -> keras.Model:
    """Makes a copy of a model in which the layers that rules name are replaced.

    A copy, and not a model made again: it has the class of the model, with its `call`, `train_step`
    and methods, and the names, weights, ties and flags of all that is not replaced.

    Args:
        model: a `keras.Model` of any kind: Sequential, Functional, subclassed, from KerasHub. It
            stays as it is.
        rules: dict `{key: maker}`; for each layer the first matching rule wins. A key is a name or
            a path (`"fc1"`, `"block/fc1"`; names match at any depth), a glob over both
            (`"block*/conv?"`), a class, or a predicate on layers. One that means a composite layer
            (`keras.layers.MultiHeadAttention`, `"block/attention"`) concerns each part of it that
            the maker takes. A maker comes from
            `LayerClass.using(**options)`, or is any callable that makes a layer (or a chain of
            them, as a list) from a layer; None leaves the layer as it is.
        curvature: dict `{path: metric}`, as from `tfcompress.curvature`; the kernels are fitted in
            it. See `CompressedLayer.fit_kernel`.
        data: inputs of the model, in any form that `fit` takes; labels are ignored. Each layer's
            Kronecker metric is then measured on the inputs that it sees in the model as swapped so
            far, and its kernel adapted to them, so that later layers make up for earlier ones. From
            2,048 to 16,384 examples are used, 16 for each input of the widest Dense layer: of
            arrays, rows drawn from all of them, of a stream the first ones, so shuffle it. Of a
            convolution or a sequence, so many positions of each example are used that they are 16
            for each input of a kernel, at least 2,048. Not with `curvature`. In a model with batch
            normalization, call `recalibrate_batch_norm` afterwards.
        inplace: whether the model itself is changed, as by `model.quantize`, for those who hold
            references to it or to its layers.
        executor: a `concurrent.futures.Executor`, whose workers fit the kernels that do not wait
            for each other: without `data` all of them, with data those that have the same input.
            None fits them here. The result is the same to the bit where the workers have processors
            and threads like those here. See the page "On several machines".
        verbose: as in Keras' `fit`. 0: nothing; 1 or `"auto"`: in a terminal a bar with the layer
            at work and the time left, elsewhere a line a minute to the logger `"tfcompress"`; 2:
            a printed line for each layer.
        memory: with `data`, how many bytes what waits between two layers may take, beside the
            kernel at work. With less of it, early layers see fewer examples, and of a stream fewer
            are held, at most a quarter of it.

    Returns:
        The copy, or with `inplace` the model. It is not compiled: call `compile`.

    Raises:
        ValueError: a key matches nothing; the layer of a name or a path cannot be taken (the
            message tells why); a layer holds something that can be neither copied nor shared.
        TypeError: the model comes from tf_keras, or a maker does not return layers.

    A class, a glob or a predicate leaves a layer that its maker cannot take, or that would not
    become smaller, as it is; one warning lists these with the reasons.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential(
    ...     [keras.Input((64,)), keras.layers.Dense(64, name="fc"), keras.layers.Dense(10)]
    ... )
    >>> small = tfc.swap(model, {"fc": tfc.layers.LowRankDense.using(rank=8)})
    >>> small.get_layer("fc").rank
    8
    """
    check_keras_3(model)
    if curvature is not None and data is not None:
        raise ValueError("Give either `curvature` or `data`, not both: `data` measures its own.")
    with showing(verbose):
        return swapped(model, rules, curvature, data, None, inplace, executor, memory)


def swapped(
    model: keras.Model,
    rules: Rules,
    curvature: Curvature | None = None,
    data: Data | None = None,
    moments: Callable[..., Any] | None = None,
    inplace: bool = False,
    executor: Executor | None = None,
    memory: int = MEMORY,
) -> keras.Model:
    """`swap`; `moments(layer)` makes what measures the inputs of a layer."""
    check_executor(executor)
    whole_number(memory, "memory")
    with strategy_scope(model):
        opening = open_for(model, rules, inplace)
        try:
            with Workers(executor) as workers:
                chains = _made(opening, curvature, data, moments, workers, memory)
                chains = _without_normalization(opening.model, chains)
        except BaseException:
            if inplace:
                close(model, opening.closed)
            raise
        new = with_replacements(opening.model, chains, inplace or bool(opening.closed))
    if opening.left:
        reasons = "\n".join(f"- {path}: {reason}" for path, reason in opening.left.items())
        number = len(opening.left)
        warnings.warn(f"{number} matching layers stay as they are:\n{reasons}", stacklevel=3)
    return new


def _made(opening, curvature, data, moments, workers, memory) -> dict:
    """The chains that stand in the places of layers, `{layer: chain}`."""
    model, targets, left, made = opening.model, opening.targets, opening.left, {}
    holders, started = holders_of_variables(model), set()

    def begin(layer, pairs=None):
        started.add(id(layer))
        path, maker, by_name = targets[id(layer)]
        fit, begun = {"metric": (curvature or {}).get(path)}, []
        with _explained(path, by_name, left):
            if pairs is not None and isinstance(maker, Maker):
                fit = _measured((moments or partial(_moments, pairs))(layer), pairs)
            # a layer for which all others wait is fitted here
            alone = pairs is not None and pairs.alone
            begun.append(_begun(maker, layer, path, fit, None if alone else workers))

        def finish():
            with _explained(path, by_name, left):
                check_holds_alone(layer, holders)
                while begun:  # what a chain was made from is no longer held when it is checked
                    made[id(layer)] = _checked(maker, layer, by_name, begun.pop()())
            return made.get(id(layer))

        return finish

    layers = [layer for layer, _ in walk(model).values() if id(layer) in targets]
    if data is not None:
        built = [layer for layer in layers if layer.built]
        shapes = input_shapes(model) if calls_its_graph(model) else {}
        data = some(model, data, enough_examples(built, shapes), memory // 4)
        follow(model, data, built, begin, memory=memory)
        missed = [targets[id(layer)][0] for layer in built if id(layer) not in started]
        if missed:
            said = ", ".join(map(repr, missed))
            warnings.warn(f"The data do not reach {said}: fitted without them.", stacklevel=4)
    rest = [layer for layer in layers if id(layer) not in started]
    waiting = [(layer, begin(layer)) for layer in rest]
    for _, finish in progress(waiting, "Fitting layers", len(waiting), lambda one: one[0].name):
        finish()
    return {layer: made[id(layer)] for layer in layers if made.get(id(layer))}


def _without_normalization(model, chains) -> dict:
    """The chains, with a `Chain` in the place of each `SpectralNormalization` around one of them.

    It changes a kernel in training only, and would change the one that is no longer used.
    """
    found = {}
    for wrapper in layers_in(model):
        if isinstance(wrapper, keras.layers.SpectralNormalization) and wrapper.layer in chains:
            parts = chains.pop(wrapper.layer)
            found[wrapper] = [Chain(parts, name=wrapper.name)]
            warnings.warn(
                f"Layer {wrapper.name!r} no longer normalizes: the kernel of {parts[0].name!r} is "
                "compressed.",
                stacklevel=4,
            )
    return chains | found


@contextlib.contextmanager
def _explained(path, by_name, left):
    """Notes why a layer cannot be swapped, or raises it if a rule names this very layer."""
    try:
        yield
    except ValueError as error:
        if by_name:
            raise ValueError(f"Layer {path!r} cannot be swapped. {error}") from error
        left[path] = str(error)


def to_ordinary(model: keras.Model) -> keras.Model:
    """Makes a new model of plain Keras layers that computes the same function.

    Each compressed layer becomes a chain of ordinary layers, in place; the last one keeps the name.
    Further swaps can then be made on the parts ("low rank, then 8 bits"). Recurrent cells and
    separable convolutions that a swap had opened are Keras' own again, except those of which a part
    became several layers. Where a kernel becomes several, its regularizer stays with one of them,
    and the penalty is then another one.
    """
    check_keras_3(model)
    layers = [layer for layer, _ in walk(model).values() if isinstance(layer, CompressedLayer)]
    with strategy_scope(model):
        chains = {layer: layer.to_ordinary() for layer in layers}
        for layer, chain in chains.items():
            hand_over(layer, chain)
        new = with_replacements(model, chains)
        close(new)
    return new


def _moments(pairs, layer) -> Moments:
    """What measures the inputs of a layer, at as many positions as are enough."""
    return Moments(layer, block_of(layer), enough_positions(layer, pairs.examples))


def _measured(moments, pairs) -> dict:
    """The metric of a layer on its inputs in the model as changed so far, and a kernel for them."""
    for before, now in pairs:
        moments.add(now, before)
    return {"metric": moments.metric(), "kernel": moments.adapted()}


def _begun(maker, layer, path, fit, workers):
    """A function that gives what a maker makes of a layer; a worker may fit the kernel."""
    if not isinstance(maker, Maker):
        return lambda: maker(layer)
    if workers is None or workers.executor is None or not (layer.built and maker.takes(layer)):
        return lambda: maker(layer, **fit)
    maker.layer_class.arguments_from(layer)  # raises before anything is sent
    given = maker.first_step(), stand_in(layer, fit.get("kernel")), fit["metric"]
    task = workers.submit(f"Layer {path!r}", fit_kernel, None, *given)
    return lambda: maker.finished(fitted_layer(layer, task.result()))


def _checked(maker, layer, by_name, made):
    """The chain of layers that was made; `ValueError` with the reason if it is none."""
    if made is layer:
        return None
    chain = list(made) if isinstance(made, (list, tuple)) else [made]
    if not chain or not all(isinstance(part, keras.layers.Layer) for part in chain):
        raise TypeError(
            f"The maker of layer {layer.name!r} must return a layer or a list of layers. "
            f"Received: {made!r}"
        )
    _build_like(layer, chain)
    checked = isinstance(maker, Maker) and not any(getattr(p, "stochastic", False) for p in chain)
    if not by_name and layer.built and checked:  # a stochastic layer is small once binarized
        before, after = kernel_bits(layer), sum(map(kernel_bits, chain))
        if after >= before:
            raise ValueError(f"It would not be smaller: {after} bits, and {before} in float32.")
    return chain


def _build_like(layer, chain):
    """Builds the layers of a chain for the inputs of the layer that they replace."""
    config = layer.get_build_config() if layer.built else None
    if config and not chain[0].built:
        chain[0].build_from_config(config)
    shape = (config or {}).get("input_shape")
    for part, following in itertools.pairwise(chain):
        shape = shape and part.compute_output_shape(shape)
        if shape and not following.built:
            following.build(shape)
