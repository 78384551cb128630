"""Records of equal structure as columns: no keys, no type tags, each number in the fewest bytes that hold it.

A block of values becomes one column. What it is follows from the values' exact types: numbers and strings are arrays;
dicts with the same keys are one column for each key; lists are the column of all their elements and the lengths; one
constant is stored once. Whatever fits nothing (mixed types, optional keys, other classes) is pickled value by value, so
every record comes back equal, with its types. To read, one Python expression is compiled for the whole record: that
takes half the time of a tree of column objects. Memory views give plain Python numbers.
"""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from .buffer import BufferWriter, Section, SharedBuffer

_CONSTANT_TYPES = (int, str, bytes, bool, type(None))

# How a column is laid out: plain tuples that are pickled to workers beside the buffer.
Plan = tuple[Any, ...]


def compile_reader(plan: Plan, buffer: SharedBuffer) -> Callable[[int], Any]:
    """Build the function that gives back value `i` of the column that `write_column` wrote."""
    names: dict[str, Any] = {"loads": pickle.loads}
    return eval(_compile(f"lambda i: {_expression(plan, 'i', buffer, names)}"), names)


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> CodeType:
    return compile(source, "<columns of a dataset>", "eval")


def _expression(plan: Plan, i: str, buffer: SharedBuffer, names: dict[str, Any]) -> str:
    """Return the source that reads value `i`; what it refers to is added to `names`."""

    def name(value: Any) -> str:
        names[f"v{len(names)}"] = buffer.section(value) if isinstance(value, Section) else value
        return f"v{len(names) - 1}"

    match plan:
        case ("constant", value):
            return name(value)
        case ("numbers", section):
            return f"{name(section)}[{i}]"
        case ("chunks", data, offsets, kind):
            offsets = name(offsets)
            chunk = f"{name(data)}[{offsets}[{i}]:{offsets}[{i} + 1]]"
            return {"text": f"str({chunk}, 'utf-8')", "bytes": f"bytes({chunk})", "pickle": f"loads({chunk})"}[kind]
        case ("dicts", keys, plans):
            return "{" + ", ".join(f"{k!r}: {_expression(p, i, buffer, names)}" for k, p in zip(keys, plans)) + "}"
        case ("lists", elements, length, kind):
            if isinstance(length, Section):
                offsets = name(length)
                start, stop = f"{offsets}[{i}]", f"{offsets}[{i} + 1]"
            else:
                start, stop = f"{length} * {i}", f"{length} * {i} + {length}"
            if elements[0] == "numbers":
                values = f"{name(elements[1])}[{start}:{stop}].tolist()"
            else:
                values = f"[{_expression(elements, 'i' + i, buffer, names)} for {'i' + i} in range({start}, {stop})]"
            return values if kind == "list" else f"tuple({values})"
    raise ValueError(f"not a column's plan: {plan!r}")


def write_column(values: Sequence[Any], writer: BufferWriter) -> Plan:
    """Write values in the most compact form that gives them back equal, and return how to read them."""
    types = set(map(type, values))
    if len(types) != 1:
        return ("constant", None) if not types else _write_pickles(values, writer)
    kind = types.pop()
    if kind in _CONSTANT_TYPES and values.count(values[0]) == len(values):
        return "constant", values[0]
    plan = _WRITERS[kind](values, writer) if kind in _WRITERS else None
    return plan or _write_pickles(values, writer)


def _write_integers(values: Sequence[int], writer: BufferWriter) -> Plan | None:
    try:
        array = np.array(values, np.int64)
    except OverflowError:
        return None
    dtype = np.min_scalar_type(min(int(array.min()), -int(array.max()) - 1))  # of a negative number: a signed type
    return "numbers", writer.write_array(array.astype(dtype))


def _write_bools(values: Sequence[bool], writer: BufferWriter) -> Plan:
    return "numbers", writer.write_array(np.array(values, np.bool_))


def _write_floats(values: Sequence[float], writer: BufferWriter) -> Plan:
    array = np.array(values, np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        short = array.astype(np.float32)
    is_exact = np.array_equal(short.astype(np.float64).view(np.int64), array.view(np.int64))
    return "numbers", writer.write_array(short if is_exact else array)


def _write_chunks(chunks: Sequence[bytes], writer: BufferWriter, kind: str = "bytes") -> Plan:
    data = Section(writer.num_bytes, sum(map(len, chunks)), "B")
    writer.write(b"".join(chunks))
    return "chunks", data, writer.write_offsets(np.fromiter(map(len, chunks), np.int64, len(chunks))), kind


def _write_texts(values: Sequence[str], writer: BufferWriter) -> Plan | None:
    try:
        return _write_chunks([value.encode() for value in values], writer, "text")
    except UnicodeEncodeError:  # a lone surrogate, as in file names that are not valid UTF-8
        return None


def _write_pickles(values: Sequence[Any], writer: BufferWriter) -> Plan:
    return _write_chunks([pickle.dumps(value, pickle.HIGHEST_PROTOCOL) for value in values], writer, "pickle")


def _write_lists(values: Sequence[Any], writer: BufferWriter) -> Plan:
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    elements = write_column(list(itertools.chain.from_iterable(values)), writer)
    length = int(lengths[0]) if (lengths == lengths[0]).all() else writer.write_offsets(lengths)
    return "lists", elements, length, type(values[0]).__name__


def _write_dicts(values: Sequence[dict[Any, Any]], writer: BufferWriter) -> Plan | None:
    keys = tuple(values[0])
    if set(map(tuple, values)) != {keys} or any(type(key) is not str for key in keys):
        return None
    return "dicts", keys, tuple(write_column([value[key] for value in values], writer) for key in keys)


_WRITERS: dict[type, Callable[[Any, BufferWriter], Plan | None]] = {int: _write_integers, float: _write_floats}
_WRITERS |= {bool: _write_bools, str: _write_texts, bytes: _write_chunks}
_WRITERS |= {list: _write_lists, tuple: _write_lists, dict: _write_dicts}
