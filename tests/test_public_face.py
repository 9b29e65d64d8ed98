"""What a user sees: the names after `tfc.`, and signatures that tell types and options."""

import ast
import functools
import inspect
import os
import subprocess
import sys
import types
import typing

import pytest

import tfcompress as tfc

PACKAGE = "tfcompress"
MODULES = [
    tfc,
    *(m for m in map(functools.partial(getattr, tfc), tfc.__all__) if inspect.ismodule(m)),
]
LAYERS = [
    layer
    for layer in (getattr(tfc.layers, name) for name in tfc.layers.__all__)
    if isinstance(layer, type) and issubclass(layer, tfc.layers.CompressedLayer)
]
METHODS = [layer for layer in LAYERS if layer is not tfc.layers.CompressedLayer]
PLAIN = {"name", "dtype", "trainable"}


def ours(thing) -> bool:
    return getattr(thing, "__module__", "").split(".")[0] == PACKAGE


def names_of(module):
    if hasattr(module, "__all__"):
        return module.__all__
    things = vars(module).items()
    return [n for n, x in things if n[0] != "_" and getattr(x, "__module__", "") == module.__name__]


def functions_of(cls):
    """`__init__`, `__call__` and the public methods that a class has from this package."""
    for base in cls.__mro__:
        for name, member in vars(base).items() if ours(base) else ():
            if name in ("__init__", "__call__") or not name.startswith("_"):
                member = getattr(member, "fget", getattr(member, "__func__", member))
                if inspect.isfunction(member) and ours(member):
                    yield f"{base.__module__}.{base.__qualname__}.{name}", member


def reachable():
    """All functions that can be called from the public modules, results of theirs included."""
    queue = [getattr(module, name) for module in MODULES for name in names_of(module)]
    bridges = [getattr(tfc.interop, name) for name in tfc.interop.__all__]
    queue += [getattr(module, name) for module in bridges for name in names_of(module)]
    found, seen = {}, set()
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType):
            continue
        seen.add(id(thing))
        if isinstance(thing, type):
            found |= dict(functions_of(thing))
            queue += [inspect.signature(f).return_annotation for _, f in functions_of(thing)]
        elif inspect.isfunction(thing) and ours(thing):
            found[f"{thing.__module__}.{thing.__qualname__}"] = thing
            queue.append(inspect.signature(thing).return_annotation)
    return found


def untyped(function):
    signature = inspect.signature(function)
    names = [n for n, p in signature.parameters.items() if p.annotation is p.empty]
    if names[:1] in (["self"], ["cls"]):
        del names[0]
    return names + ["result"] * (signature.return_annotation is signature.empty)


def unpacked(function) -> set:
    """The keys of the TypedDict that a function takes as its keyword arguments."""
    *_, last = inspect.signature(function).parameters.values()
    assert last.kind is last.VAR_KEYWORD
    (options,) = typing.get_args(last.annotation)
    return set(typing.get_type_hints(options))


def test_every_public_argument_and_result_is_typed():
    functions = reachable()
    assert len(functions) > 200
    assert not {name: untyped(f) for name, f in functions.items() if untyped(f)}


def test_an_untyped_argument_is_seen():
    def planted(self, a, b: int, *c, d=1, **e) -> None: ...

    assert untyped(planted) == ["a", "c", "d", "e"]
    assert untyped(lambda: 1) == ["result"]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_the_signature_of_a_layer_tells_its_arguments(layer):
    parameters = inspect.signature(layer).parameters
    assert not [name for name, p in parameters.items() if p.kind is p.VAR_POSITIONAL]
    *named, _ = parameters
    shown = set(named) | unpacked(layer)
    expected = {*layer.arguments, *layer.common, *layer.options} | PLAIN
    assert shown == expected
    assert {*layer.options} <= set(named)


@pytest.mark.parametrize("layer", METHODS, ids=lambda layer: layer.__name__)
def test_using_tells_the_options(layer):
    assert unpacked(layer.using) == set(layer.options)


def test_the_signature_of_tucker_as_help_shows_it():
    assert list(inspect.signature(tfc.layers.TuckerConv2D).parameters) == [
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "rank",
        "macs",
        "fit",
        "kwargs",
    ]


def test_dir_shows_what_a_user_may_type_and_nothing_else():
    assert dir(tfc) == sorted([*tfc.__all__, "__version__"])
    assert not {"utils", "graph", "numerics", "measure", "import_module"} & set(dir(tfc))
    assert {"to_tflite", "compress", "search", "curvature", "ExportError"} <= set(dir(tfc))
    assert all(hasattr(tfc, name) for name in tfc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tfc.nonsense  # noqa: B018


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_names_exist_once(module):
    names = list(names_of(module))
    assert names
    assert len(set(names)) == len(names)
    assert all(hasattr(module, name) for name in names)


def test_what_a_type_checker_sees_is_what_runs():
    """The imports under TYPE_CHECKING name the objects that `__getattr__` gives."""
    (block,) = [
        node
        for node in ast.parse(inspect.getsource(tfc)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {}
    for node in block.body:
        exec(ast.unparse(node), seen)
    names = {alias.name for node in block.body for alias in node.names}
    assert names == set(tfc._TENSORFLOW)
    assert all(seen[name] is getattr(tfc, name) for name in names)


def test_the_import_leaves_tensorflow_to_the_names_that_need_it():
    program = "import sys, tfcompress; print([m for m in sys.modules if m == 'tensorflow'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"KERAS_BACKEND": "numpy", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stderr
