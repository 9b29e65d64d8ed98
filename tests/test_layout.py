"""The folders of the package: their order, what imports what, and who may touch TensorFlow."""

import ast
import pathlib

import pytest

import tfcompress

ROOT = pathlib.Path(tfcompress.__file__).parent
# A folder, or a file at the root, imports only from lines above its own, inside functions too.
ORDER = [
    "utils",
    "project tflite schedules score datasets",
    "graph numerics",
    "optimizers",
    "layers measure metric distillation models",
    "rewriting",
    "pruning archive export curvature distill_losses",
    "callbacks reporting checks interop",
    "planning",
    "diagnosis",
    "cli",
]
# Of Keras objects; what a class of ours names itself with an underscore is its own.
PRIVATE = {
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_flatten_layers",
    "_functional",
    "_inbound_nodes",
    "_inputs_struct",
    "_keras_history",
    "_layers",
    "_loss_ids",
    "_losses",
    "_metrics",
    "_model_variables_moving_average",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_outbound_nodes",
    "_path",
    "_regularizer",
    "_run_through_graph",
    "_seed_generators",
    "_standardize_inputs",
    "_tracker",
    "_trainable_variables",
    "_non_trainable_variables",
}
FLOOR = {name: floor for floor, names in enumerate(ORDER) for name in names.split()}
# What a user of another backend imports stays free of TensorFlow.
TENSORFLOW = {"layers", "optimizers", "measure", "export", "graph"}


def imports(tree):
    """`[(line, module)]` of all imports, those inside functions counted, in full dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the whole name of the module"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def pointing_up(name, text):
    """The imports in a file of folder `name` that reach a folder of its own floor or above."""
    for line, module in imports(ast.parse(text)):
        parts = module.split(".")
        folder = parts[1] if parts[0] == "tfcompress" and len(parts) > 1 else name
        if folder != name and FLOOR.get(folder, -1) >= FLOOR[name]:
            yield f"line {line} imports {module}"


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").parts[0]
        if name not in ("__init__", "__main__"):
            yield path, name


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_folder_imports_only_what_lies_below(name):
    files = [path for path, owner in sources() if owner == name]
    assert files
    found = [f"{p.relative_to(ROOT)} {m}" for p in files for m in pointing_up(name, p.read_text())]
    assert not found


def test_every_folder_has_its_place():
    assert {name for _, name in sources()} == set(FLOOR)


def test_an_import_that_points_up_is_seen_inside_a_function():
    planted = "def late():\n    from tfcompress.planning.planner import plan\n    return plan\n"
    assert list(pointing_up("measure", planted))
    assert not list(pointing_up("cli", planted))


def private_keras(text):
    """The uses of what Keras does not document: its `keras.src`, and names with an underscore."""
    for line, module in imports(ast.parse(text)):
        if module.startswith("keras.src"):
            yield f"line {line} imports {module}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            yield f"line {node.lineno} uses {node.attr}"


def test_private_keras_is_used_in_one_folder():
    found = [
        f"{path.relative_to(ROOT)} {use}"
        for path, name in sources()
        if name not in ("graph", "distillation")  # where the trainer is overridden
        for use in private_keras(path.read_text())
        if "keras.src" in use or name != "interop"  # whose tf_keras is another package
    ]
    assert not found


def test_a_private_use_is_seen():
    assert list(private_keras("def f(layer):\n    return layer._flatten_layers()\n"))
    assert list(private_keras("def f():\n    from keras.src import backend\n"))


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in dir(tfcompress) if callable(getattr(tfcompress, name))}
    assert not functions & {path.stem for path in ROOT.iterdir()}


def test_the_root_and_the_folders_stay_small():
    entries = [path for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 30
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert all(len(list(folder.glob("*.py"))) <= 17 for folder in folders)  # __init__ among them
    lengths = sorted(path.read_text().count("\n") for path in ROOT.rglob("*.py"))
    assert lengths[len(lengths) // 2] <= 130
    assert lengths[-1] <= 300


def test_only_some_folders_import_tensorflow():
    for path, name in sources():
        tops = [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        modules = [getattr(node, "module", None) or node.names[0].name for node in tops]
        uses = any(module.split(".")[0] == "tensorflow" for module in modules)
        assert not uses or name in TENSORFLOW, f"{path} imports tensorflow"
