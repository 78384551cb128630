"""Records as columns: read fast, packed into bytes for the index, and joined over the starts of a run."""

from __future__ import annotations

import contextlib
import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..logging.records import Superseding, divide_at_resumes, last_kept_step, parse_records

PLACE = {"step", "epoch", "iter", "mode"}
"""What a record says of its place; the rest are values."""
Numbers = Sequence[float]
_PLAIN = {int, float}
_NUMBER_IN_LINE = re.compile(rb'(?<=": )-?[0-9][-+.0-9eE]*(?=[,}])')
_MODE = re.compile(rb'"mode": "(\w+)"')


@dataclass
class Part:
    """What was recorded in one go: from a start or a resume to the next one.

    Attributes:
        steps: The steps of all its records by mode.
        curves: Steps and values of its numbers by mode and name; ``epoch`` is one of them.
        is_resumed: Whether it begins with the mark of a resume.
        last_kept: The step up to which earlier records still hold; None where nothing that was recorded tells.
    """

    steps: dict[str, Numbers] = field(default_factory=dict)
    curves: dict[tuple[str, str], tuple[Numbers, Numbers]] = field(default_factory=dict)
    is_resumed: bool = False
    last_kept: float | None = None


def parts_in(data: bytes) -> list[Part]:
    """Return lines of a ``metrics.jsonl`` as columns, divided where a run was resumed; none for no records."""
    with contextlib.suppress(ValueError, LookupError):
        return [_part_of_uniform(data.strip(b"\n"))]
    return [_part_of(records) for records in divide_at_resumes(parse_records(data)) if records]


def _part_of_uniform(data: bytes) -> Part:
    """Return lines as columns where all of a mode have the same names, and numbers by them, as nearly all files have.

    No record is made of each line, which takes a quarter of the time.

    Raises:
        ValueError: They are others; so does `LookupError` say.
    """
    part, lines, modes = Part(), data.split(b"\n"), _MODE.findall(data)
    for mode in dict.fromkeys(modes):
        first = lines[modes.index(mode)]
        record, pieces = json.loads(first), _NUMBER_IN_LINE.split(first)
        names = [name for name, value in record.items() if type(value) in _PLAIN]
        like = re.compile(b"([-+.0-9eE]+)".join(map(re.escape, pieces))).fullmatch
        matches = [like(line) for line, each in zip(lines, modes, strict=True) if each == mode]
        is_text = any(type(value) is str for name, value in record.items() if name != "mode")  # "NaN" is a number
        if None in matches or is_text or len(names) + 1 != len(pieces) or mode == b"resume" in modes[1:]:
            raise ValueError
        texts = zip(names, zip(*[match.groups() for match in matches if match]))
        columns = {name: json.loads(f"[{b','.join(column).decode()}]") for name, column in texts}
        if part.last_kept is None and mode in (b"train", b"resume"):
            part.last_kept = columns["step"][0] - (mode == b"train")
        if mode == b"resume":
            part.is_resumed = True
        else:
            _add(part, record["mode"], columns)
    return part


def _part_of(records: Sequence[dict[str, Any]]) -> Part:
    kept, by_mode = last_kept_step(records), {}
    for record in records:
        by_mode.setdefault(record["mode"], []).append(record)
    part = Part(is_resumed=by_mode.pop("resume", None) is not None, last_kept=None if kept == math.inf else kept)
    for mode, found in by_mode.items():
        names = dict.fromkeys(name for record in found for name in record)
        _add(part, str(mode), {name: [record.get(name) for record in found] for name in names})
    return part


def _add(part: Part, mode: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add the records of a mode to a part; of their values the numbers."""
    steps = part.steps[mode] = columns["step"]
    for name, values in columns.items():
        if name in PLACE and name != "epoch":
            continue
        if _PLAIN.issuperset(map(type, values)):
            part.curves[mode, name] = (steps, values)
        elif pairs := [pair for pair in zip(steps, values) if type(pair[1]) in _PLAIN]:
            part.curves[mode, name] = ([step for step, _ in pairs], [value for _, value in pairs])


def append(parts: list[Part], more: Iterable[Part]) -> None:
    """Add the parts of what was recorded later in the same file to those before."""
    for part in more:
        if part.is_resumed or not parts:
            parts.append(part)
            continue
        last = parts[-1]
        last.last_kept = part.last_kept if last.last_kept is None else last.last_kept
        for mode, steps in part.steps.items():
            last.steps[mode] = [*last.steps.get(mode, ()), *steps]
        for name, (steps, values) in part.curves.items():
            former = last.curves.get(name, ((), ()))
            last.curves[name] = ([*former[0], *steps], [*former[1], *values])


class Curve(NamedTuple):
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
        """What the curve is called: ``<mode>/<name>``, the mode once."""
        return self.label if self.label.startswith(f"{self.mode}/") else f"{self.mode}/{self.label}"


def join(parts: Sequence[Part]) -> list[Curve]:
    """Return the curves of a run, all its parts joined.

    Args:
        parts: Of all its files, in the order of the starts.
    """
    later = Superseding()
    held: list[Part] = []
    for part in reversed(parts):
        held.append(_what_holds(part, later) if held else part)
        later.add(part.steps, math.inf if part.last_kept is None else part.last_kept)
    held.reverse()
    for part in held[1:]:
        append(held[:1], [replace(part, is_resumed=False)])
    return [Curve(*name, *curve) for part in held[:1] for name, curve in part.curves.items() if curve[0]]


def _what_holds(part: Part, later: Superseding) -> Part:
    """Return the curves of a part without what later ones supersede."""
    held = Part()
    for name, (steps, values) in part.curves.items():
        holds = later.holds(name[0])
        pairs = [pair for pair in zip(steps, values) if holds(pair[0])]
        held.curves[name] = ([step for step, _ in pairs], [value for _, value in pairs])
    return held


# ------------------------------------------------------------------------------------------------------------ bytes
def pack(parts: Sequence[Part]) -> bytes:
    """Return parts as bytes; see `unpack`."""
    arrays: list[array[Any]] = []
    known: dict[int, int] = {}

    def put(values: Numbers) -> int:
        if id(values) not in known:  # steps that several curves share are kept once
            known[id(values)] = len(arrays)
            arrays.append(_array(values))
        return known[id(values)]

    heads = []
    for part in parts:
        steps = [(mode, put(values)) for mode, values in part.steps.items()]
        curves = [(*name, put(at), put(values)) for name, (at, values) in part.curves.items()]
        heads.append([steps, curves, part.is_resumed, part.last_kept])
    head = json.dumps([heads, [(each.typecode, len(each)) for each in arrays]]).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *(each.tobytes() for each in arrays)])


def _array(values: Numbers) -> array[Any]:
    if {int}.issuperset(map(type, values)):
        for code in "iq":
            try:
                return array(code, values)
            except OverflowError:
                continue
    return array("d", values)


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
    return [
        Part(
            {mode: arrays[i] for mode, i in steps},
            {(mode, label): (arrays[i], arrays[j]) for mode, label, i, j in curves},
            *rest,
        )
        for steps, curves, *rest in heads
    ]
