"""Compare a ported experiment with the original, where the old library is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import LazyConfig
from ..text import short, table
from .classes import ClassTable
from .errors import PortError
from .mmengine_files import walk_bases
from .prove_configs import Difference, StandIns, compare_configs
from .tree import Ported, kind_of, project_root, reader_for


@dataclass
class Proof:
    """What a comparison found.

    Attributes:
        lines: The report.
        is_equal: Whether nothing differed.
    """

    lines: list[str] = field(default_factory=list)
    is_equal: bool = True


def prove(ported: Ported, path: Path, classes: Sequence[Path] = ()) -> Proof:
    """Compare all ported configs with the old ones, leaf by leaf; classes that cannot be imported get stand-ins.

    Args:
        ported: What was ported.
        path: The file or folder that it was.
        classes: More source trees.
    """
    class_table = ClassTable([project_root(path.resolve()), *classes])
    configs = {old: new for old, new in ported.written.items() if kind_of(old) == "mmengine config"}
    if not configs:
        return Proof(["no config of mmengine was ported: nothing is compared"])
    reader, rows = reader_for(class_table), []
    found: dict[Path, list[Difference]] = {}
    runs: list[Path] = []
    missing = missing_packages(configs.values())
    open_files = {todo.file for todo in ported.todos}
    with StandIns(missing):
        for old, new in configs.items():
            try:
                needed = [old, *(() if old in ported.flat else walk_bases(reader.read(old), reader))]
                if open_files & {str(ported.written.get(file)) for file in needed}:
                    rows.append((old.name, "", "has TODOs"))  # or one that it inherits from has them
                    continue
                cfg = LazyConfig.load(new)
                count, found[old] = compare_configs(_resolved(old, reader), cfg, class_table.class_name)
                runs += [old] if hasattr(cfg, "runner") else []
                rows.append((old.name, count, f"{len(found[old])} differ" if found[old] else "equal"))
            except PortError as error:
                rows.append((old.name, "", str(error)))
            except Exception as error:
                found[old] = [Difference("(load)", "", error)]
                rows.append((old.name, "", f"cannot be compared: {type(error).__name__}: {error}"))
    differing = {old: differences for old, differences in found.items() if differences}
    by = "mmengine's Config.fromfile" if importlib.util.find_spec("mmengine") else "our reader of mmengine's files"
    lines = [f"resolved configs against {by}:", table([("config", "leaves", ""), *rows], indent="  ")]
    for old, differences in differing.items():
        lines += ["", f"{old}:"]
        lines += [f"  {d.path}: {short(d.old)} -> {short(d.new)}" for d in differences[:20]]
    proof = Proof(lines, not differing)
    own = {name for name in class_table.files if "." not in name}
    if lacking := sorted(set(missing) - own):
        proof.lines += ["", f"experiments are not measured: {', '.join(lacking)} cannot be imported"]
    elif importlib.util.find_spec("mmengine") is not None:
        _add_runs(proof, {old: configs[old] for old in runs}, path)
    return proof


def _add_runs(proof: Proof, configs: dict[Path, Path], path: Path) -> None:
    """Add a table of what the old and the new experiments do before they train."""
    rows: list[tuple[object, ...]] = [("config", *MEASURES)]
    for old, new in configs.items():
        with tempfile.TemporaryDirectory() as folder:
            before = _measured("old", old, project_root(path.resolve()), folder)
            after = _measured("new", new, project_root(new), folder) if isinstance(before, dict) else before
        if not isinstance(before, dict) or not isinstance(after, dict):
            rows.append((old.name, f"not measured: {after}"))
            if sum(len(row) == 2 for row in rows) > 1:
                rows.append(("...", "no more are tried after the second one that cannot be measured"))
                break
            continue
        results = [compare(before[name], after[name]) for name, compare in MEASURES.items()]
        proof.is_equal &= all(result.startswith("equal") for result in results)
        rows.append((old.name, *results))
    if len(rows) > 1:
        proof.lines += ["", "experiments against mmengine's:", table(rows, indent="  ")]


def _measured(kind: str, config: Path, root: Path, folder: str) -> dict[str, Any] | str:
    """Return the measures of an experiment, or the last line of the error that prevented it."""
    out = Path(folder, f"{kind}.json")
    given = (kind, str(config), str(root), f"{folder}/w.pth", str(out))
    command = [sys.executable, "-m", "lazyengine.port.measure", *given]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        return short((done.stderr.strip().splitlines() or ["it stopped"])[-1], 100)
    return json.loads(out.read_text(encoding="utf-8"))


def _compare_parameters(old: dict[str, Any], new: dict[str, Any]) -> str:
    odd = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    return f"{len(odd)} differ, such as {odd[0]}" if odd else f"equal ({len(old)})"


def _compare_init(old: dict[str, list[float]], new: dict[str, list[float]]) -> str:
    """Compare how values were drawn: constants must be equal, random ones have a mean and deviation that are alike.

    Of a single value nobody can say which it is.
    """
    odd = []
    for name in old.keys() & new.keys():
        (mean, spread, number), (other_mean, other_spread, _) = old[name], new[name]
        if number == 1:
            continue
        allowed = 1e-6 * max(abs(mean), 1) + 8 * max(spread, other_spread) / number**0.5
        is_far = abs(mean - other_mean) > allowed or abs(spread - other_spread) > allowed
        if is_far or (spread == 0) != (other_spread == 0):
            odd.append(name)
    return f"{len(odd)} differ, such as {min(odd)}" if odd else "equal"


def _compare_rates(old: dict[str, Any], new: dict[str, Any]) -> str:
    worst = 0.0
    for name, options in old.items():
        for option, values in options.items():
            others = new.get(name, {}).get(option)
            if option == "weight_decay" and others != values:
                return f"{name} has weight_decay={others and others[0]:g}, not {values[0]:g}"
            if others is None or len(others) != len(values):
                return f"{name} has no {option}"
            worst = max([worst, *(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(values, others))])
    return "equal" if worst < 1e-6 else f"differ by {worst:.1e}"


def _compare_indices(old: list[int], new: list[int]) -> str:
    if old == new:
        return "equal"
    return "equal, in another random order" if sorted(old) == sorted(new) else f"{len(old)} and {len(new)} others"


def _compare_loss(old: float, new: float) -> str:
    return "equal" if abs(old - new) <= 1e-5 * max(1, abs(old)) else f"{old:.6g} and {new:.6g}"


MEASURES = {
    "parameters": _compare_parameters,
    "init": _compare_init,
    "rates": _compare_rates,
    "indices": _compare_indices,
    "loss": _compare_loss,
}


def missing_packages(files: Any) -> list[str]:
    """Return the top packages that ported files import and that cannot be imported here."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return sorted(name for name in set(re.findall(r"^from (\w+)", text, re.M)) if not _can_import(name))


def _can_import(package: str) -> bool:
    try:
        return importlib.import_module(package).__file__ is not None  # a folder is no package
    except Exception:  # it is not installed, or what it needs is not, of which packages tell in many ways
        return False


def _resolved(file: Path, reader: Any) -> dict[str, Any]:
    """Return an old config as mmengine resolves it, or as our reader does where mmengine is not installed."""
    if importlib.util.find_spec("mmengine") is None:
        return reader.read(file).values
    config_class = importlib.import_module("mmengine.config").Config
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return config_class.fromfile(str(file)).to_dict()
        except Exception as error:
            raise PortError(f"mmengine itself cannot load it: {short(str(error))}") from error
