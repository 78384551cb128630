"""What is found inside datasets, transforms, collate functions and samplers: random generators, counters, changes.

A generator of the user's own is seeded from the position before each batch, as the global ones are. What no walk finds
(a global of a module, the state of a C library) is found by ``lazyengine check``, which reads a batch several times.
"""

from __future__ import annotations

import collections
import dis
import functools
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from ..nesting import children, map_leaves
from ..plain import to_plain
from ..seeding import derive_seed

_MAX_ITEMS = 1000
_MAX_WATCHED, _MAX_WATCHED_ITEMS = 128, 100
_WATCHED = (dict, list, collections.deque)
_VALUES = (str, bytes, int, float, complex, type(None))
_ATOMS = (*_VALUES, np.ndarray, np.generic, torch.Tensor, type, ModuleType)
_NOT_COUNTING = {"__init__", "__new__", "__setstate__", "set_epoch", "state_dict", "load_state_dict"}


@functools.cache
def _kinds() -> tuple[type, ...]:
    """Return the classes of generators; numpy imports its own late, which takes 10 ms."""
    of_numpy = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)
    return *of_numpy, random.Random, torch.Generator


def walk(roots: Mapping[str, Any], but: Iterable[Any] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, value and holder of all that some objects hold, each object once; in the same order in every process.

    Looked into are attributes (also in ``__slots__``), lists, tuples and dicts of at most 1,000 items, partial
    functions, closures, bound methods and, of its class, generators. Tensors, arrays, classes, modules and longer
    containers are not.

    Args:
        roots: Where to begin, by name.
        but: What is not looked into.
    """
    waiting = collections.deque((name, value, None) for name, value in roots.items())
    seen = set(map(id, but))
    while waiting:
        path, value, holder = waiting.popleft()
        if isinstance(value, _ATOMS):
            yield path, value, holder
        elif id(value) not in seen:
            seen.add(id(value))
            yield path, value, holder
            waiting.extend((path + step, part, value) for step, part in _parts(value))


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return what an object holds, each with how it is reached."""
    if isinstance(value, dict | list | tuple | collections.deque):
        items = list(value) if isinstance(value, collections.deque) else value
        return (children(items) or []) if len(items) <= _MAX_ITEMS else []
    if isinstance(value, MethodType | BuiltinMethodType):
        return [(".__self__", value.__self__), (".__func__", getattr(value, "__func__", None))]
    parts: list[tuple[str, Any]] = []
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or ())
        parts += [(f".{name}", cell.cell_contents) for name, cell in cells if cell != type(cell)()]
        parts += [(".__defaults__", value.__defaults__), (".__kwdefaults__", value.__kwdefaults__)]
    elif isinstance(value, functools.partial):
        parts += [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__"):
                parts.append((f".{name}", getattr(value, name, None)))
        parts += [(f".{name}", part) for name, part in vars(kind).items() if isinstance(part, _kinds())]
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        parts += [(f".{name}", part) for name, part in attributes.items()]
    return parts


def find_generators(roots: Mapping[str, Any]) -> dict[str, Any]:
    """Return the random generators that some objects hold, by their path: numpy's, torch's and ``random.Random``.

    The global ones are not among them, nor those that a stream of Hugging Face copies at its beginning.

    Args:
        roots: Where to begin, by name; see `walk`.
    """
    global_ones = [np.random.rand.__self__, random.random.__self__, torch.default_generator]  # type: ignore[attr-defined]
    found = {}
    for path, value, holder in walk(roots):
        is_copied = type(holder).__module__.partition(".")[0] == "datasets"
        if isinstance(value, _kinds()) and not is_copied and not any(value is each for each in global_ones):
            found[path] = value
    return found


def find_gaps(roots: Mapping[str, Any]) -> list[tuple[Any, int, list[Any]]]:
    """Return where a generator may be put later: short containers and attributes, their number, keys of None.

    They are looked at for every batch, so that only the nearest are returned.
    """
    found = []
    for _, value, _ in walk(roots):
        holder: Any = value if isinstance(value, _WATCHED) else getattr(value, "__dict__", None)
        if isinstance(holder, _WATCHED) and len(holder) <= _MAX_WATCHED_ITEMS and not isinstance(value, _ATOMS):
            empty = [key for key, part in holder.items() if part is None] if isinstance(holder, dict) else []
            found.append((holder, len(holder), empty))
            if len(found) == _MAX_WATCHED:
                break
    return found


def are_filled(gaps: Iterable[tuple[Any, int, list[Any]]]) -> bool:
    """Return whether something was put into one of some gaps."""
    for holder, size, empty in gaps:  # no generators: this is done for every batch
        if len(holder) != size:
            return True
        for key in empty:
            if holder.get(key) is not None:
                return True
    return False


class OwnGenerators:
    """Generators by their paths, which are seeded together, each with a stream of its own.

    Args:
        found: The generators, as `find_generators` returns them.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        self._seeders = [(derive_seed(0, zlib.crc32(path.encode())), _seeder_of(each)) for path, each in found.items()]

    def seed(self, seed: int) -> None:
        """Seed each from a well-spread seed and its path; nobody else draws from them, so nothing is put back."""
        for tag, seeder in self._seeders:
            seeder(seed ^ tag)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each by its path."""
        return {path: to_plain(_state_access(generator)[0]()) for path, generator in self.found.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the states of those that are there."""
        for path, state in state_dict.items():
            if path in self.found:
                _state_access(self.found[path])[1](state)


def _seeder_of(generator: Any) -> Callable[[int], Any]:
    """Return what seeds a generator from an integer in `[0, 2**63)`, in less than 4 us for the usual ones."""
    if isinstance(generator, torch.Generator):
        return generator.manual_seed
    if isinstance(generator, random.Random):
        return generator.seed
    if isinstance(generator, np.random.RandomState):
        name = generator.get_state(legacy=False)["bit_generator"]
        if name == "MT19937":
            return lambda seed: generator.seed(seed & 0xFFFFFFFF)
        kind = getattr(np.random, name)
        return lambda seed: generator.set_state(np.random.RandomState(kind(seed)).get_state(legacy=False))
    bits = getattr(generator, "bit_generator", generator)
    if isinstance(bits, np.random.MT19937):
        legacy = np.random.RandomState(bits)  # of the same bits, which it seeds faster
        return lambda seed: legacy.seed(seed & 0xFFFFFFFF)
    if not isinstance(bits, np.random.PCG64 | np.random.PCG64DXSM | np.random.Philox | np.random.SFC64):
        return lambda seed: setattr(bits, "state", type(bits)(seed).state)
    return _seeder_by_state(bits)


def _seeder_by_state(bits: Any) -> Callable[[int], Any]:
    """Return what seeds by writing the state, which takes a tenth of the time of numpy's own way from a seed."""
    state: Any = {**bits.state, "has_uint32": 0, "uinteger": 0}
    inner = state["state"]

    def seed_pcg(seed: int) -> None:
        state["state"] = {"state": seed * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128), "inc": seed << 1 | 1}
        bits.state = state

    def seed_philox(seed: int) -> None:
        inner["key"][0] = seed
        bits.state = state

    def seed_sfc(seed: int) -> None:
        inner["state"][:] = (seed, 0x9E3779B97F4A7C15, seed ^ 0x5CEDC835F39CC060, 1)
        bits.state = state
        bits.random_raw(16, output=False)  # until all bits of the state depend on the seed

    if isinstance(bits, np.random.Philox):
        inner["counter"][:] = inner["key"][1] = 0
        state["buffer_pos"] = 4  # nothing is left in it
        return seed_philox
    return seed_sfc if isinstance(bits, np.random.SFC64) else seed_pcg


def _state_access(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return what reads the state of a generator, and what restores one that was made plain."""
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, random.Random):
        return generator.getstate, lambda state: generator.setstate((state[0], tuple(state[1]), state[2]))
    if isinstance(generator, np.random.RandomState):
        return lambda: generator.get_state(legacy=False), lambda state: generator.set_state(_with_arrays(state))
    bits = getattr(generator, "bit_generator", generator)
    return lambda: bits.state, lambda state: setattr(bits, "state", _with_arrays(state))


def _with_arrays(state: Any) -> Any:
    return map_leaves(lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf, state)


def find_counters(roots: Mapping[str, Any]) -> list[str]:
    """Return attributes that methods of the user's classes count in (``self.calls += 1``), each with its method.

    No position decides on their value, so whatever follows them depends on who has read what before. Objects with a
    `state_dict` are left out.
    """
    found = {}
    for path, value, _ in walk(roots):
        if not isinstance(value, _ATOMS) and not hasattr(value, "state_dict"):
            for kind in type(value).__mro__:
                if _is_users(kind):
                    for name, method in vars(kind).items():
                        if isinstance(method, FunctionType) and name not in _NOT_COUNTING:
                            for counter in _counted_in(method):
                                found[f"{kind.__name__}.{counter}"] = f"{path}.{counter} ({kind.__name__}.{name})"
    return list(found.values())


def _is_users(kind: type) -> bool:
    module = kind.__module__
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    is_library = module.partition(".")[0] in (*sys.stdlib_module_names, "lazyengine") and module != "__main__"
    return not (is_library or "site-packages" in file)


@functools.cache
def _counted_in(method: FunctionType) -> list[str]:
    """Return the attributes of its first argument that a method changes in place, read from its bytecode."""
    steps = [(step.opname, step.argrepr) for step in dis.get_instructions(method) if step.opname != "CACHE"]
    changes = [i for i, (name, argument) in enumerate(steps) if name == "BINARY_OP" and argument.endswith("=")]
    following = [steps[j] for i in changes for j in (i + 1, i + 2)]
    return [argument for name, argument in following if name == "STORE_ATTR"]


def contents(roots: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what some objects hold now, to be compared with what they hold later.

    Plain values are compared as such; tensors, arrays and other objects by which they are, tensors also by how often
    they were written to. What generators hold is left out, and what is written into an array is not seen.
    """
    found: list[tuple[str, Any]] = []
    for path, value, _ in walk(roots):
        if isinstance(value, _VALUES):
            found.append((path, value))
        elif isinstance(value, dict | list | tuple):
            found.append((path, (id(value), len(value))))
        else:
            found.append((path, (id(value), getattr(value, "_version", None))))
    return found


def paths_in(roots: Mapping[str, Any], wanted: Iterable[Any], but: Iterable[Any]) -> dict[int, str]:
    """Return where some objects hold some others, by the `id` of these, without looking into a third kind."""
    ids = {id(each) for each in wanted}
    return {id(value): path for path, value, _ in walk(roots, but) if id(value) in ids} if ids else {}
