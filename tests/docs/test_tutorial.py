"""The notebook of the digits runs from top to bottom, in its own folder."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "projects" / "digits"


def test_the_notebook_runs_and_learns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    notebook = json.loads((FOLDER / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # what is committed has no outputs
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    try:
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"tutorial.ipynb[{number}]", "exec"), module.__dict__)
    finally:
        sys.modules.pop("digits", None)
    names = vars(module)
    assert names["runner"].message_hub.get_scalar("val/accuracy/top1").current() > 0.9
    assert names["longer"].epoch == 5
    assert len(names["hooks"]["mistakes"].labels) < 36
    assert (tmp_path / "epoch_5.pth").is_file()
    assert "parameters" in capsys.readouterr().out
