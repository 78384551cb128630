"""A run, or all runs below a folder, as one HTML file that asks nothing of any network."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

from ..fileio import atomic_write
from ..text import html_table
from .comparing import Comparison, Row, as_number, compare_runs
from .importance import explained_variance
from .index import Index, Outline, find_run_folders, read_outline
from .lineage import Start
from .reading import Run, choose_keys, read_run, run_names

MAX_BYTES = 1_000_000
REPORT_FILE = "report.html"
_TEMPLATE = Path(__file__).with_name("report.html")
_MAX_POINTS, _MAX_CURVES, _MAX_ROWS, _MAX_LINES, _MAX_AXES = 800, 40, 1000, 300, 9
_PARALLEL = '<div class="panel" id="parallel"><div class="tip"></div></div>'
_LOG_BYTES = 4_000_000
_NUM_COLORS = 8  # of the page
_SMALL = 160  # pixels of the width of a picture, to which a smaller one is enlarged
_FAULT = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) \S+\s+(.*)$", re.MULTILINE)
_HOOKS = re.compile(r"^hooks, point by point:\n(.*?)(?=\n\nmodel:|\n\d{4}-\d\d-\d\d )", re.MULTILINE | re.DOTALL)


def report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, keys: Sequence[str] | None = None
) -> Path:
    """Write the report of a run, or of all runs below a folder.

    A run's has its summary, curves, config with the place that set each value, hooks, pictures, environment, lineage,
    faults and the command to make it again. That of a folder has the table of `compare_runs`, curves, parallel
    coordinates and how much of the result each option explains.

    Args:
        folder: A run folder, or one with runs below it.
        output: The file; None for ``report.html`` in the folder.
        keys: Names or patterns of curves; None for losses and metrics.

    Returns:
        The file, which is smaller than 1 MB.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: No curve has such a name.
    """
    path = Path(os.path.abspath(folder))
    target = path / REPORT_FILE if output is None else Path(output)
    first, _ = next(find_run_folders(str(path)), (str(path), "")) if path.is_dir() else (str(path), "")
    pages = _pages_of_run(path, keys) if first == str(path) else _pages_of_root(path, keys)
    page = b""
    for title, body, data in pages:
        page = _filled(title, body, data).encode()
        if len(page) < MAX_BYTES:
            break
    with atomic_write(target) as file:
        file.write(page)
    return target


def _filled(title: str, body: str, data: dict[str, Any]) -> str:
    numbers = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it ends the script
    texts = {"title": escape(title), "body": body, "data": numbers}
    template = _TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\$(title|body|data)\b", lambda match: texts[match[1]], template)


# ------------------------------------------------------------------------------------------------------------ a run
def _pages_of_run(path: Path, keys: Sequence[str] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield title, body and data of the page, each time with less in it."""
    run, outline = read_run(path), read_outline(path)
    chosen = choose_keys([run], keys)
    shown = [*chosen, *(key for key in ("train/lr", "train/grad_norm") if keys is None and key in run.curves)]
    training = [start for start in run.starts if start.kind == "train"] or run.starts
    logs = [text for start in training for text in _logs(start)]
    env = outline.last.env() if outline.starts else {}
    sections = [
        _section("Config", _config(run, env)),
        _section("Hooks", _pre("\n".join(_HOOKS.findall("\n".join(logs))[-1:]))),
        _section("Environment", _environment(env)),
        _section("Lineage", _lineage(run)),
        _section("Faults", _faults(training, logs)),
        _section("Make it again", _redo(path, training)),
    ]
    for share in (1.0, 0.5, 0.2, 0.05):
        curves = {key: [_curve(run.name, *run.curves[key], int(_MAX_POINTS * share))] for key in shown}
        pictures = _pictures(training, int(600_000 * share))
        parts = [_summary(run, outline, chosen), _section("Curves", _panels(curves)), _section("Pictures", pictures)]
        yield run.name, "\n".join([*parts, *sections]), {"curves": _numbered(curves)}


def _summary(run: Run, outline: Outline, keys: Sequence[str]) -> str:
    first, last = (run.starts[0], run.starts[-1]) if run.starts else (None, None)
    about = [f"run {run.path}", outline.run_id and f"id {outline.run_id}"]
    about += [first and f"began {first.about.get('time_utc', '?')}", last and f"on {last.about.get('host', '?')}"]
    about += [f"{outline.iterations:,} iterations", f"{len(run.starts)} start{'s' * (len(run.starts) != 1)}"]
    (row,) = compare_runs([outline], keys).rows
    rows = []
    for key in keys:
        best, value = row.best.get(key), row.last.get(key)
        shown = (f"{best.mean:.6g}", f"{best.steps[0]:g}") if best else ("-", "-")
        rows.append([key, *shown, f"{value.mean:.6g}" if value else "-", f"{value.steps[0]:g}" if value else "-"])
    head = _heading(run.name, outline.state, " · ".join(filter(None, about)))
    return head + html_table(["metric", "best", "at", "last", "at"], rows)


def _heading(title: str, state: str, about: str) -> str:
    badge = f' <span class="badge {escape(state)}">{escape(state)}</span>' if state else ""
    return f'<h1>{escape(title)}{badge}</h1><p class="soft">{escape(about)}</p>'


def _config(run: Run, env: Mapping[str, Any]) -> str:
    """The config with what set each value, what was set over its base, and what resumes changed."""
    lines = [str(line) for line in env.get("blame", ())] or [f"{path} = {value}" for path, value in run.config.items()]
    edits = [
        (each["path"], each["was"], each["is"], each["sources"][-1], ", ".join(each["sources"][:-1]))
        for each in env.get("edits", ())
    ]
    changes = [
        (path, change.get("was"), change.get("is"), change.get("from_iter"), change.get("effect"), change.get("why"))
        for path, entries in run.changes.items()
        for change in entries
    ]
    parts = []
    for title, head, rows in (
        ("Difference to its base", ("option", "base", "here", "set by", "over"), edits),
        ("Changed at a resume", ("option", "was", "is", "from iteration", "effect", ""), changes),
    ):
        parts += [f"<h3>{title}</h3>{html_table(head, rows)}"] if rows else []
    return "".join([*parts, _pre("\n".join(lines))])


def _environment(env: Mapping[str, Any]) -> str:
    packages = env.get("packages") or {}
    hidden = ("packages", "blame", "edits", "command", "variables", "settings", "git", "engine", "other_repositories")
    rows = [[name, value] for name, value in env.items() if name not in hidden]
    for group in ("settings", "variables"):
        rows += [[f"{group}: {name}", value] for name, value in env.get(group, {}).items()]
    git = env.get("git") or {}
    rows += [[f"git: {name}", git[name]] for name in ("commit", "branch", "dirty") if name in git]
    listed = _pre("\n".join(f"{name} {version}" for name, version in packages.items()))
    folded = f"<details><summary>{len(packages)} packages</summary>{listed}</details>"
    return html_table([], rows) + folded if rows else ""


def _lineage(run: Run) -> str:
    rows = []
    for start in run.starts:
        origin, ended = start.origin or {}, start.ended or {}
        came = f"{origin.get('path')} at iteration {origin.get('iter')}" if origin else "anew"
        came = f"fork of run {origin.get('run_id')}: {came}" if start.is_fork else came
        how = " ".join(str(ended[key]) for key in ("how", "iter", "reason") if ended.get(key) not in (None, ""))
        about = (start.about.get("time_utc"), start.about.get("host"), start.folder.name)
        rows.append([start.number, start.kind, *about, came, start.code, how or "-"])
    return html_table(["start", "kind", "time", "host", "folder", "began", "code", "ended"], rows)


def _faults(training: Sequence[Start], logs: Sequence[str]) -> str:
    rows = []
    for start in training:
        ended = start.ended or {}
        if ended.get("how", "finished") != "finished":
            where = f"iteration {ended.get('iter')}"
            rows.append([f"start {start.number}", ended.get("how"), where, ended.get("reason")])
        for kind, entries in start.about.items():  # such as a supervisor's decisions
            for entry in entries if isinstance(entries, list) and kind != "command" else ():
                rows.append([f"start {start.number}", kind, "", entry])
    counted = Counter(found for text in logs for found in _FAULT.findall(text))
    for (level, text), count in counted.most_common(60):
        rows.append(["log", level.lower(), f"{count} times" if count > 1 else "", text])
    return html_table(["where", "what", "", "text"], rows) if rows else '<p class="soft">none</p>'


def _redo(path: Path, training: Sequence[Start]) -> str:
    lines = [f"lazyengine rerun {shlex.quote(str(path))} --verify"]
    for start in training:
        words = [str(word) for word in start.about.get("command", ())]
        if words:
            lines.append(f"# start {start.number} was: {shlex.join(words)}")
    return _pre("\n".join(lines))


def _logs(start: Start) -> Iterator[str]:
    for log in sorted(start.folder.glob("*.log")) if start.folder.is_dir() else ():
        with open(log, "rb") as file:
            yield file.read(_LOG_BYTES).decode(errors="replace")


def _pictures(training: Sequence[Start], budget: int) -> str:
    """The newest of each picture, those of confusion matrices first, made small enough."""
    newest: dict[str, tuple[int, Path]] = {}
    for start in training:
        for file in (start.folder / "images").rglob("*.png") if start.folder.is_dir() else ():
            name, _, step = file.relative_to(start.folder / "images").with_suffix("").as_posix().rpartition("_")
            if step.isdigit() and int(step) >= newest.get(name, (-1, file))[0]:
                newest[name] = (int(step), file)
    figures = []
    for name, (step, file) in sorted(newest.items(), key=lambda entry: ("confusion" not in entry[0], entry[0])):
        source = _data_url(file)
        budget -= len(source)
        if budget < 0:
            figures.append(f'<p class="soft">{len(newest) - len(figures)} more in {escape(str(file.parent))}</p>')
            break
        caption, large = f"{escape(name)}, iteration {step}", _enlarged(file)
        figures.append(
            f'<figure><img src="{source}"{large} alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _enlarged(file: Path) -> str:
    """Return attributes that show the pixels of a small picture; nothing for another one."""
    with open(file, "rb") as content:
        width = int.from_bytes(content.read(20)[16:])  # of a PNG's head
    return (
        f' width="{width * (_SMALL // width)}" style="image-rendering: pixelated"' if 0 < width <= _SMALL // 2 else ""
    )


def _data_url(file: Path) -> str:
    data, kind = file.read_bytes(), "png"
    if len(data) > 30_000:
        from PIL import Image

        with Image.open(file) as image:
            image.thumbnail((720, 720))
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=80)
        data, kind = min((buffer.getvalue(), "webp"), (data, "png"), key=lambda pair: len(pair[0]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ------------------------------------------------------------------------------------------------------- many runs
def _pages_of_root(path: Path, keys: Sequence[str] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield title, body and data of the page, each time with less in it."""
    with closing(Index(path)) as index:
        outlines = index.read()
        chosen = choose_keys(outlines, keys)
        groups, each = compare_runs(outlines, chosen), compare_runs(outlines, chosen, each=True)
        key = each.main_key
        groups, each = groups.sorted_by(None), each.sorted_by(None)
        by_name = dict(zip(run_names([outline.path for outline in outlines]), outlines))
        order = [by_name[row.names[0]] for row in each.rows]
        names = [row.names[0] for row in each.rows]
        states = Counter(outline.state for outline in outlines)
        about = ", ".join(f"{count} {state}" for state, count in states.most_common())
        for share in (1.0, 0.5, 0.2, 0.05):
            lists: dict[str, list[dict[str, Any]]] = {name: [] for name in _main_curves(chosen, key)}
            number = max(4, int(_MAX_CURVES * share))
            for rank, (name, outline) in enumerate(zip(names[:number], order)):
                for curve in index.curves(outline):
                    if curve.name in lists:
                        drawn = _curve(name, curve.steps, curve.values, int(400 * share))
                        lists[curve.name].append({**drawn, "c": rank})
            curves = {name: drawn for name, drawn in lists.items() if drawn}
            note = f"The best {number} of {len(outlines)} runs." if len(outlines) > number else ""
            plan = _parallel(each, key, int(_MAX_LINES * share)) if key else None
            parts = [
                _heading(path.name, "", f"{len(outlines)} runs below {path}: {about}"),
                _section("Runs", _runs_table(groups, int(_MAX_ROWS * share))),
                _section("Curves", f'<p class="soft">{note}</p>{_legend(names)}{_panels(curves)}' if curves else ""),
                _section("Parallel coordinates", _PARALLEL if plan else ""),
                _section("Importances", _importances(each, key)),
                _section("Faults", _faults_of_runs(names, order)),
            ]
            yield path.name, "\n".join(parts), {"curves": _numbered(curves), **({"parallel": plan} if plan else {})}


def _main_curves(keys: Sequence[str], key: str | None) -> list[str]:
    first = [key] if key else []
    return list(dict.fromkeys([*first, *(name for name in keys if not name.startswith("train/")), *keys]))[:8]


def _runs_table(found: Comparison, limit: int) -> str:
    columns, heads = found.short_columns()
    rows = list(zip(*columns.values()))
    left = f'<p class="soft">{len(rows) - limit} more rows: lazyengine compare</p>' if len(rows) > limit else ""

    def whole(row: int, column: int) -> str:
        text = str(rows[row][column])
        return f' title="{escape(text)}"' if len(text) > 40 else ""

    return f'<div class="wide">{html_table(heads, rows[:limit], kind="sortable", attributes=whole)}</div>{left}'


def _parallel(each: Comparison, key: str, limit: int) -> dict[str, Any] | None:
    """Return axes and rows of the parallel coordinates: what differs in the configs, and the result."""
    rows = [row for row in each.rows if key in row.best][:limit]
    paths = [path for path in each.paths if path != "code" and len({row.config[path] for row in rows}) > 1][:_MAX_AXES]
    if not paths or len(rows) < 2:
        return None
    columns = [[row.config[path] for row in rows] for path in paths]
    columns.append([f"{row.best[key].mean:.6g}" for row in rows])
    axes, places = [], []
    for name, texts in zip([*paths, f"{key} best"], columns):
        at, ticks = _axis(texts)
        axes.append({"name": name if len(name) < 26 else f"…{name[-25:]}", "ticks": ticks})
        places.append(at)
    lines = [
        {"name": row.names[0], "at": list(at), "text": list(text)}
        for row, at, text in zip(rows, zip(*places), zip(*columns))
    ]
    return {"axes": axes, "rows": lines}


def _axis(texts: Sequence[str]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return where values stand on an axis, from 0 to 1, and its ticks; numbers of several decades by logarithms.

    An option that was changed in mid-run stands where it came to.
    """
    numbers = [as_number(text.rpartition("-> ")[2].partition(" @ ")[0]) for text in texts]
    known = sorted({number for number in numbers if number is not None})
    if len(known) < 2 or any(number is None and text != "-" for number, text in zip(numbers, texts)):
        names = sorted(set(texts))
        at = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
        return [at[text] for text in texts], [(at[name], name[:18]) for name in names[:15]]
    scale = math.log if known[0] > 0 and known[-1] > 30 * known[0] else float
    low, high = scale(known[0]), scale(known[-1])
    places = [None if number is None else round((scale(number) - low) / (high - low), 4) for number in numbers]
    shown = known if len(known) <= 8 else [known[round(i * (len(known) - 1) / 4)] for i in range(5)]
    return places, [(round((scale(number) - low) / (high - low), 4), f"{number:.4g}") for number in shown]


def _importances(each: Comparison, key: str | None) -> str:
    runs: list[Row] = [row for row in each.rows if key in row.best]
    if key is None or len(runs) < 4:
        return ""
    results = [row.best[key].mean for row in runs]
    found = {path: explained_variance([row.config[path] for row in runs], results) for path in each.paths}
    ranked = sorted(((share, path) for path, share in found.items() if share is not None), reverse=True)
    rows = [(path, f"{'█' * round(40 * share)} {share:.0%}") for share, path in ranked]
    note = f"How much of the variance of the best {escape(key)} each option alone explains (adjusted η²)."
    return f'<p class="soft">{note}</p>{html_table((), rows, kind="bars")}' if rows else ""


def _faults_of_runs(names: Sequence[str], outlines: Sequence[Outline]) -> str:
    rows = []
    for name, outline in zip(names, outlines):
        ended = (outline.last.ended or {}) if outline.starts else {}
        if outline.state not in ("finished", "pruned", "running", "evaluated"):
            rows.append([name, outline.state, ended.get("iter"), outline.mistake or ended.get("reason")])
    return html_table(["run", "state", "iteration", "reason"], rows[:200]) if rows else '<p class="soft">none</p>'


# ----------------------------------------------------------------------------------------------------------- pieces
def _curve(name: str, steps: Sequence[float], values: Sequence[float], limit: int) -> dict[str, Any]:
    """Return a curve for the page, of long ones the lowest and the highest value of each stretch."""
    places: Iterable[int] = range(len(steps))
    if len(steps) > limit:
        width = -(-len(steps) // max(limit // 2, 1))
        found = {0, len(steps) - 1}
        for begin in range(0, len(steps), width):
            stretch = range(begin, min(begin + width, len(steps)))
            found |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
        places = sorted(found)
    numbers = [(steps[i], float(f"{values[i]:.6g}") if math.isfinite(values[i]) else None) for i in places]
    return {"name": name, "x": [step for step, _ in numbers], "y": [value for _, value in numbers]}


def _numbered(curves: dict[str, Any]) -> dict[str, Any]:
    return {str(number): drawn for number, drawn in enumerate(curves.values())}


def _panels(curves: dict[str, Any]) -> str:
    panels = [
        f'<div class="panel" data-key="{number}"><header><span>{escape(name)}</span><button>linear</button></header>'
        '<div class="tip"></div></div>'
        for number, name in enumerate(curves)
    ]
    hint = (
        '<p class="soft">Against the iterations. Drag to zoom, double-click for all of it; click “linear” for a '
        "logarithmic axis.</p>"
    )
    return f'{hint}<div class="grid">{"".join(panels)}</div>' if panels else ""


def _legend(names: Sequence[str]) -> str:
    """Return which color is whose, as long as no two have the same."""
    marks = [f'<span><i style="background: var(--c{i})"></i>{escape(name)}</span>' for i, name in enumerate(names)]
    return f'<p class="legend">{"".join(marks)}</p>' if len(names) <= _NUM_COLORS else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"
