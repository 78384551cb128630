"""Records as columns: packed into bytes for the index, and the parts of a run joined as `read_metrics` joins them."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ..logging.records import divide_at_resumes, last_kept_step
from .reading import PLACE, curve_name

Numbers = Sequence[float]
_PLAIN = {int, float}


@dataclass
class Column:
    """The values of one name in the records of one mode.

    Attributes:
        values: The values, in the order of recording.
        rows: The records that have them; None for all.
    """

    values: Numbers
    rows: Sequence[int] | None = None


@dataclass
class Mode:
    """The records of one mode.

    Attributes:
        steps: Their steps.
        columns: Their numbers by name; ``epoch`` is one of them.
    """

    steps: Numbers
    columns: dict[str, Column] = field(default_factory=dict)


@dataclass
class Part:
    """What was recorded in one go: from a start or a resume to the next one.

    Attributes:
        modes: The records by mode.
        is_resumed: Whether it begins with the mark of a resume.
        last_kept: The step up to which earlier records still hold; None where nothing that was recorded tells.
    """

    modes: dict[str, Mode] = field(default_factory=dict)
    is_resumed: bool = False
    last_kept: float | None = None


def parts_of(records: Sequence[dict[str, Any]]) -> list[Part]:
    """Return the records of a file as columns, divided where a run was resumed; none for no records."""
    parts = []
    for start in divide_at_resumes(records) if records else ():
        kept, by_mode = last_kept_step(start), {}
        for record in start:
            by_mode.setdefault(record["mode"], []).append(record)
        is_resumed = by_mode.pop("resume", None) is not None
        modes = {str(mode): _columns(found) for mode, found in by_mode.items()}
        parts.append(Part(modes, is_resumed, None if kept == math.inf else kept))
    return parts


def _columns(records: Sequence[dict[str, Any]]) -> Mode:
    first = records[0]
    mode = Mode([record["step"] for record in records])
    is_even = all(record.keys() == first.keys() for record in records)
    names = first if is_even else dict.fromkeys(name for record in records for name in record)
    names = [name for name in names if name not in PLACE or name == "epoch"]
    if is_even and len(names) > 1:
        cells: Iterable[Sequence[Any]] = zip(*map(itemgetter(*names), records))
    else:
        cells = ([record.get(name) for record in records] for name in names)
    for name, values in zip(names, cells):
        if _PLAIN.issuperset(map(type, values)):
            mode.columns[name] = Column(values)
        elif rows := [row for row, value in enumerate(values) if type(value) in _PLAIN]:
            mode.columns[name] = Column([values[row] for row in rows], rows)
    return mode


def append(parts: list[Part], more: Iterable[Part]) -> None:
    """Add the parts of what was recorded later in the same file to those before."""
    for part in more:
        if part.is_resumed or not parts:
            parts.append(part)
            continue
        last = parts[-1]
        last.last_kept = part.last_kept if last.last_kept is None else last.last_kept
        for name, mode in part.modes.items():
            last.modes[name] = _joined(last.modes[name], mode) if name in last.modes else mode


def _joined(one: Mode, two: Mode) -> Mode:
    offset, total = len(one.steps), len(one.steps) + len(two.steps)
    joined = Mode([*one.steps, *two.steps])
    for name in dict.fromkeys([*one.columns, *two.columns]):
        a, b = one.columns.get(name, Column([], [])), two.columns.get(name, Column([], []))
        rows = [*_rows(a, one), *(offset + row for row in _rows(b, two))]
        joined.columns[name] = Column([*a.values, *b.values], None if len(rows) == total else rows)
    return joined


def _rows(column: Column, mode: Mode) -> Sequence[int]:
    return range(len(mode.steps)) if column.rows is None else column.rows


@dataclass(frozen=True)
class Curve:
    """One name of one mode over a run.

    Attributes:
        mode: The mode.
        label: Its name in the records; ``"epoch"`` is one too, which is no curve.
        steps: Steps, in the order of recording.
        values: Values.
    """

    mode: str
    label: str
    steps: Numbers
    values: Numbers

    @property
    def name(self) -> str:
        """What the curve is called."""
        return curve_name(self.mode, self.label)


def join(parts: Sequence[Part]) -> Iterator[Curve]:
    """Yield the curves of a run, all its parts joined: `lazyengine.logging.read_metrics` says what supersedes what.

    Args:
        parts: Of all its files, in the order of the starts.
    """
    if len(parts) > 1:
        parts = [_what_holds(part, parts[i + 1 :]) for i, part in enumerate(parts)]
    found: dict[tuple[str, str], Curve] = {}
    for part in parts:
        for name, mode in part.modes.items():
            for label, column in mode.columns.items():
                steps = mode.steps if column.rows is None else [mode.steps[row] for row in column.rows]
                former = found.get((name, label))
                if former is not None:
                    steps, values = [*former.steps, *steps], [*former.values, *column.values]
                else:
                    values = column.values
                found[name, label] = Curve(name, label, steps, values)
    yield from (curve for curve in found.values() if curve.steps)


def _what_holds(part: Part, later: Sequence[Part]) -> Part:
    """Return a part without the records that later ones supersede."""
    limit = min((other.last_kept for other in later if other.last_kept is not None), default=math.inf)
    held = Part(is_resumed=part.is_resumed, last_kept=part.last_kept)
    for name, mode in part.modes.items():
        again = {step for other in later if name in other.modes for step in other.modes[name].steps}
        rows = [row for row, step in enumerate(mode.steps) if step <= limit and step not in again]
        place = {row: i for i, row in enumerate(rows)}
        held.modes[name] = kept = Mode([mode.steps[row] for row in rows])
        for label, column in mode.columns.items():
            cells = [(place[row], v) for row, v in zip(_rows(column, mode), column.values) if row in place]
            kept.columns[label] = Column([value for _, value in cells], [row for row, _ in cells])
    return held


# ------------------------------------------------------------------------------------------------------------ bytes
def pack(parts: Sequence[Part]) -> bytes:
    """Return parts as bytes, numbers in the shortest form that holds them exactly; see `unpack`."""
    arrays: list[array[Any]] = []

    def put(values: Numbers) -> None:
        arrays.append(_array(values))

    heads = []
    for part in parts:
        modes = []
        for name, mode in part.modes.items():
            put(mode.steps)
            labels = []
            for label, column in mode.columns.items():
                put(column.values)
                labels.append([label, column.rows is not None])
                if column.rows is not None:
                    put(column.rows)
            modes.append([name, labels])
        heads.append([modes, part.is_resumed, part.last_kept])
    head = json.dumps([heads, [(each.typecode, len(each)) for each in arrays]]).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *(each.tobytes() for each in arrays)])


def _array(values: Numbers) -> array[Any]:
    kinds = set(map(type, values))
    if kinds == {int}:
        for code in "iq":
            try:
                return array(code, values)
            except OverflowError:
                continue
    single = array("f", [] if kinds <= {int} else values)
    return single if single.tolist() == list(values) else array("d", values)


def unpack(data: bytes) -> list[Part]:
    """Return the parts that `pack` made bytes of; numbers are equal, as arrays."""
    size = int.from_bytes(data[:4], "little")
    heads, shapes = json.loads(data[4 : 4 + size])
    arrays, offset = [], 4 + size
    for code, length in shapes:
        values = array(code)
        end = offset + length * values.itemsize
        values.frombytes(data[offset:end])
        arrays.append(values)
        offset = end
    take, parts = iter(arrays), []
    for modes, is_resumed, last_kept in heads:
        part = Part(is_resumed=is_resumed, last_kept=last_kept)
        for name, labels in modes:
            part.modes[name] = mode = Mode(next(take))
            for label, has_rows in labels:
                values = next(take)
                mode.columns[label] = Column(values, next(take) if has_rows else None)
        parts.append(part)
    return parts
