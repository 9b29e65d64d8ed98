"""Runs notebooks without Jupyter, and writes what their cells print into them.

    python tools/notebooks.py docs/notebooks/*.ipynb

Cells hold plain Python, without magics. The value of a last expression is shown as in Jupyter.
"""

import argparse
import ast
import contextlib
import io
import json
import pathlib


def outputs_of(cells: list[dict]) -> list[list[dict]]:
    """Runs the code cells in one fresh namespace; the outputs of each, in the format of .ipynb."""
    namespace = {"__name__": "__main__"}
    return [_outputs(cell, namespace) for cell in cells if cell["cell_type"] == "code"]


def _outputs(cell, namespace):
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    outputs = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        result = {"output_type": "execute_result", "execution_count": None, "metadata": {}}
        outputs.append(result | {"data": data})
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=pathlib.Path, nargs="+")
    for path in parser.parse_args().notebooks:
        book = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        for cell, outputs in zip(code, outputs_of(book["cells"]), strict=True):
            cell["outputs"] = outputs
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
