"""Where a dataset keeps its records: pickled one by one, as columns, or as the plain list."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from .buffer import BufferWriter, Section, SharedBuffer
from .columns import Plan, compile_reader, write_column

_RECORDS_PER_WRITE = 1024
_RECORDS_PER_BLOCK_BITS = 14
_RECORDS_PER_BLOCK = 1 << _RECORDS_PER_BLOCK_BITS


def checked_index(idx: int, length: int) -> int:
    """Return the index of a sample, counted from the front.

    Raises:
        IndexError: It is out of range.
    """
    if not -length <= idx < length:
        raise IndexError(f"sample {idx} of {length} does not exist")
    return idx + length if idx < 0 else idx


class ListRecords:
    """The list itself, deep-copied at every read (`serialize_data=False`)."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Any:
        return copy.deepcopy(self._records[i])


class PickledRecords:
    """One pickle for each record, in a buffer that all workers share.

    Args:
        buffer: The pickles, and after them their offsets.
        data: Where the pickles lie.
        offsets: Where the offsets lie, one more than there are records.
    """

    def __init__(self, buffer: SharedBuffer, data: Section, offsets: Section) -> None:
        self.buffer, self._sections = buffer, (data, offsets)
        self._data, self._offsets = buffer.section(data), buffer.section(offsets)

    @classmethod
    def write(cls, records: Iterable[Any], writer: BufferWriter) -> PickledRecords:
        """Store `records`, of which only a few are held at once."""
        lengths = []
        dumped = (pickle.dumps(record, pickle.HIGHEST_PROTOCOL) for record in records)
        for pickles in _in_groups(dumped, _RECORDS_PER_WRITE):
            writer.write(b"".join(pickles))
            lengths.append(np.fromiter(map(len, pickles), np.int64, len(pickles)))
        data = Section(0, writer.num_bytes, "B")
        offsets = writer.write_offsets(np.concatenate(lengths) if lengths else np.zeros(0, np.int64))
        return cls(writer.finish(), data, offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        return PickledRecords, (self.buffer, *self._sections)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> Any:
        offsets = self._offsets
        return pickle.loads(self._data[offsets[i] : offsets[i + 1]])


class ColumnarRecords:
    """Records as columns, in blocks, in a buffer that all workers share (`serialize_data="columnar"`).

    Args:
        buffer: The arrays of all columns.
        plans: For each block of records how to read it.
        num_records: Number of records.
    """

    def __init__(self, buffer: SharedBuffer, plans: Sequence[Plan], num_records: int) -> None:
        self.buffer, self._plans, self._num_records = buffer, plans, num_records
        self._readers = [compile_reader(plan, buffer) for plan in plans]

    @classmethod
    def write(cls, records: Iterable[Any], writer: BufferWriter) -> ColumnarRecords:
        """Store `records`, of which one block is held at once."""
        plans, num_records = [], 0
        for block in _in_groups(records, _RECORDS_PER_BLOCK):
            plans.append(write_column(block, writer))
            num_records += len(block)
        return cls(writer.finish(), plans, num_records)

    def __reduce__(self) -> tuple[Any, ...]:
        return ColumnarRecords, (self.buffer, self._plans, self._num_records)

    def __len__(self) -> int:
        return self._num_records

    def __getitem__(self, i: int) -> Any:
        return self._readers[i >> _RECORDS_PER_BLOCK_BITS](i & (_RECORDS_PER_BLOCK - 1))


class RecordSubset:
    """Some of the records, in any order; the records themselves stay where they are.

    Args:
        records: The whole.
        index: Which of them: a range, or an array, or a buffer, of int64 indices that are not negative.
    """

    def __init__(self, records: Any, index: range | np.ndarray | SharedBuffer) -> None:
        if isinstance(index, np.ndarray):
            index = SharedBuffer.from_bytes(np.ascontiguousarray(index, np.int64).tobytes())
        self._records, self._source = records, index
        self._index = index if isinstance(index, range) else index.section(Section(0, index.num_bytes, "q"))

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordSubset, (self._records, self._source)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Any:
        return self._records[self._index[i]]


def _in_groups(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(values)
    while group := list(itertools.islice(iterator, size)):
        yield group


def store_records(
    records: Iterable[Any], layout: Literal["pickle", "columnar"], is_shared_by_ranks: bool = False
) -> PickledRecords | ColumnarRecords:
    """Move records into memory that all workers of this process share.

    Args:
        records: A list, or an iterator that is never held as a whole.
        layout: `"pickle"` takes anything that pickle takes; `"columnar"` is smaller for records of equal structure.
        is_shared_by_ranks: Share one copy with the other processes of this user and host that store the same records.

    Returns:
        The stored records.
    """
    kind = ColumnarRecords if layout == "columnar" else PickledRecords
    with contextlib.closing(BufferWriter(is_shared_by_ranks)) as writer:
        return kind.write(records, writer)
