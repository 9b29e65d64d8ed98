"""Which layers of a model made from another one stand in the place of which layer of that one."""

from collections.abc import Collection

import keras

from tfcompress.graph.nodes import calls_its_graph, operation_of
from tfcompress.graph.paths import name_of, walk
from tfcompress.graph.private_keras import functional_of, layers_in
from tfcompress.graph.steps import steps_of


def link_owners(model: keras.Model, originals: Collection[str]) -> dict[str, str]:
    """The first layers of chains that stand in the places of single layers, and of which ones.

    The last layer of a chain keeps the name of the layer for which it stands, and the names of the
    others begin with it. In a graph all that they give goes on to the last one. Outside of graphs
    only names and the order of the layers are known, and the longest name counts.

    Args:
        model: made from another one.
        originals: the paths of the layers of that other one.

    Returns:
        `{path: path of the layer in whose place the chain stands}`, without the last layers.
    """
    layers = {path: layer for path, (layer, _) in walk(model).items()}
    paths = {layer: path for path, layer in layers.items()}
    following = next_operations(model)
    found, later = {}, []
    for path, layer in reversed(layers.items()):
        if path in originals:
            later.append(path)
            continue
        candidates = later
        if layer in following:
            while layer is not None and paths.get(layer) not in originals:
                layer = following[layer]
            candidates = [] if layer is None else [paths[layer]]
        owners = [p for p in candidates if _begins(p, path)]
        if owners:
            found[path] = max(owners, key=len)
    return found


def _begins(owner, path) -> bool:
    """Whether the name of a layer begins with that of another one beside it."""
    folders = [p.removesuffix(name_of(p)) for p in (owner, path)]
    return folders[0] == folders[1] and path.startswith(f"{owner}_")


def next_operations(model: keras.Model) -> dict:
    """For each operation in the graphs of a model the one that alone takes what it gives.

    That one takes nothing else; None where there is no such operation.
    """
    found = {}
    for one in layers_in(model):  # outer models first, whose graphs hold the inner ones
        if calls_its_graph(one) and functional_of(one) is not None:
            found = _next_in(functional_of(one)) | found
    return found


def _next_in(graph) -> dict:
    steps, makers, readers = steps_of(graph), {}, {}
    for step in steps:
        makers |= dict.fromkeys(step.leaving, step.node.operation)
        for _, key in step.arriving:
            readers.setdefault(key, set()).add(step.node.operation)
    takes, gives = {}, {}
    for step in steps:
        one = step.node.operation
        takes.setdefault(one, set()).update(makers.get(key) for _, key in step.arriving)
        for key in step.leaving:
            gives.setdefault(one, set()).update(readers.get(key, {None}))
    for tensor in graph.outputs:
        gives.get(operation_of(tensor), set()).add(None)
    lone = {one: next(iter(gives[one])) for one in gives if len(gives[one]) == 1}
    return {one: lone.get(one) if takes.get(lone.get(one)) == {one} else None for one in gives}
