"""The layout: a file imports only lower floors at its top, and tensorflow only where said."""

import ast
import pathlib

import tfcompress

ROOT = pathlib.Path(tfcompress.__file__).parent
FLOORS = [
    "hashing factorize canonical codecs entropy metric flatbuffer walk batches progress datasets "
    "data_files pareto report_text models knapsack labels",
    "hash_index report_html moments masks costs schedules score project ranks taps distill_losses "
    "flatbuffer_writer compensate runtimes",
    "surgeon",
    "layers objective follow hints teacher",
    "rewrite suffix skeleton recursion constants hint_stage",
    "curvature calibrate optimizers channels distill",
    "pruning callbacks sensitivities",
    "channel_pruning judge plans",
    "candidates",
    "planner",
    "export",
    "benchmark",
    "reports checks archive interop",
    "demo attempts",
    "compression",
    "trials",
    "cli",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
TENSORFLOW = {"hash_index", "optimizers", "curvature", "objective", "recursion", "export"}


def files():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield path, parts, ast.parse(path.read_text())


def test_only_lower_floors_are_imported():
    for path, parts, tree in files():
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    target = name.split(".")[0]
                    assert FLOOR[target] < FLOOR[parts[0]], f"{path.name} imports {target}"


def test_only_some_files_import_tensorflow():
    for path, parts, tree in files():
        for node in tree.body:
            modules = [alias.name for alias in getattr(node, "names", [])]
            modules.append(getattr(node, "module", None) or "")
            uses = any(module.split(".")[0] == "tensorflow" for module in modules)
            assert not (uses and isinstance(node, (ast.Import, ast.ImportFrom))) or (
                parts[0] in TENSORFLOW
            ), f"{path.name} imports tensorflow"
