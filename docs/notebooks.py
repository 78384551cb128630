"""Runs notebooks in an empty folder and keeps what they print: python docs/notebooks.py docs/notebooks/*.ipynb

Their cells are plain Python, so nothing of Jupyter is needed: the outputs of a cell are what it prints and, unless it
ends with a semicolon, the value of its last expression, as text and as HTML where it has `_repr_html_`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_cell(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run a cell and return its outputs, as a notebook keeps them."""
    name, tree, printed, value = f"<cell {number}>", ast.parse(source), io.StringIO(), None
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # for tracebacks
    is_shown = bool(tree.body) and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";")
    last = tree.body.pop() if is_shown else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = _lines(value._repr_html_())
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def run(notebook: dict[str, Any]) -> None:
    """Run the cells of a notebook in the current folder and put their outputs in."""
    here = os.getcwd()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        outputs = json.dumps(run_cell("".join(cell["source"]), namespace, number))
        cell["outputs"], cell["execution_count"] = json.loads(outputs.replace(here, "~")), number


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook with its outputs as a page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            page = "".join(data.get("text/html", ()))
            parts.append(page or "```text\n" + "".join(data["text/plain"]).rstrip("\n") + "\n```")
    return "\n\n".join(parts) + "\n"


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(paths: list[str]) -> None:
    """Run notebooks and write them anew."""
    sys.path.insert(0, str(ROOT))
    for path in map(Path, paths):
        path, notebook = path.resolve(), json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    main(sys.argv[1:])
