"""Several train loaders at once: a batch is a dict with one of each."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from ..errors import UsageValueError
from ..seeding import derive_seed
from .loader import set_epoch, set_seed, settle_generators

_MODES = ("in_step", "shortest", "longest", "cycle")
_FURTHER_PASSES = 20  # bits: pass k of a loader within epoch e is its epoch e + k * 2**20, so that no order comes twice


class CombinedLoader:
    """Loaders by name, whose batches come together: each batch is a dict of theirs.

    A train loop makes one of a dict of loaders. Loaders without a seed of their own get different ones.

    Args:
        loaders: The loaders: ours, or any that have `set_start` or a state, if a resume in mid-epoch is to be exact.
        mode: Where an epoch ends. `"in_step"`: all have the same number of batches; `"shortest"`: with the first loader
            that ends; `"longest"`: with the last one, those that have ended are missing from the batch; `"cycle"`: with
            the last one, those that have ended begin a further pass, with another order.

    Raises:
        ValueError: Another mode, no loader, or, in step, different numbers of batches.
    """

    def __init__(
        self, loaders: Mapping[str, Any], mode: Literal["in_step", "shortest", "longest", "cycle"] = "in_step"
    ) -> None:
        if mode not in _MODES or not loaders:
            raise UsageValueError(f"mode={mode!r} of {len(loaders)} loaders; accepted: {', '.join(_MODES)}, 1 or more.")
        self.loaders, self.mode = dict(loaders), mode
        self.seed: int | None = None
        self._epoch = 0
        self._loaded: dict[str, tuple[int, int]] = {}
        self._begin: dict[str, tuple[int, int]] = {}
        self._places = dict.fromkeys(loaders, (0, 0))  # passes that have ended, batches of the present one
        lengths = {name: len(loader) for name, loader in self.loaders.items()} if mode == "in_step" else {}
        if len(set(lengths.values())) > 1:
            raise UsageValueError(
                f"the loaders have different numbers of batches: {lengths}; choose where an epoch ends: "
                "CombinedLoader(loaders, mode='shortest'), 'longest' or 'cycle'."
            )

    @property
    def batch_size(self) -> int | None:
        """Samples in a whole batch of all loaders together; None where one does not say."""
        sizes = [getattr(loader, "batch_size", None) for loader in self.loaders.values()]
        return None if None in sizes else sum(sizes)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Number of batches of an epoch; a TypeError where a loader has none."""
        lengths = [len(loader) for loader in self.loaders.values()]
        return max(lengths) if self.mode in ("longest", "cycle") else min(lengths)

    def set_seed(self, seed: int) -> None:
        """Set the run's seed: each loader without one gets its own, from its name."""
        self.seed = seed
        for name, loader in self.loaders.items():
            set_seed(loader, derive_seed(seed, zlib.crc32(name.encode())))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch = epoch

    def set_start(self, num_batches_to_skip: int) -> None:
        """Let the next iteration begin at a batch: at the places that were loaded, if they are those of this batch.

        Else at those that follow from the loaders' lengths.
        """
        begin, self._loaded = self._loaded, {}
        if {batches for passes, batches in begin.values() if not passes} == {num_batches_to_skip}:
            self._begin = begin
        elif num_batches_to_skip:
            last = {name: divmod(num_batches_to_skip - 1, len(loader)) for name, loader in self.loaders.items()}
            self._begin = {name: (passes, i + 1) for name, (passes, i) in last.items()}  # a pass is over with the next

    def why_no_exact_resume(self) -> str | None:
        """Return why a run cannot be resumed exactly in mid-epoch, by the first loader of which it cannot."""
        for name, loader in self.loaders.items():
            if not hasattr(loader, "set_start") and not hasattr(loader, "load_state_dict"):
                return f"{name}: {type(loader).__name__} cannot begin in the middle"
            if (why := getattr(loader, "why_no_exact_resume", None)) is not None and (reason := why()) is not None:
                return f"{name}: {reason}"
        return None

    def settle_generators(self, shared_with: Mapping[str, Any], registered: Iterable[Any]) -> list[str]:
        """Decide about the generators in each loader; see the function of this name."""
        found = {name: settle_generators(each, shared_with, registered) for name, each in self.loaders.items()}
        return [f"{name}: {line}" for name, lines in found.items() for line in lines]

    def state_dict(self) -> dict[str, Any]:
        """Return where each loader stands."""
        stateful = {name: loader for name, loader in self.loaders.items() if hasattr(loader, "state_dict")}
        states = {name: state for name, loader in stateful.items() if (state := loader.state_dict())}
        return {"places": {name: list(place) for name, place in self._places.items()}, "loaders": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; `set_start` says whether the next iteration goes on in the pass that it is of."""
        if state_dict["places"].keys() != self.loaders.keys():
            saved = list(state_dict["places"])
            raise UsageValueError(f"the state is of loaders {saved}, these are {list(self.loaders)}.")
        self._loaded = self._places = {name: (passes, n) for name, (passes, n) in state_dict["places"].items()}
        for name, state in state_dict["loaders"].items():
            self.loaders[name].load_state_dict(state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Start an iteration. What is set now holds for it, also where no batch of it is ever asked for."""
        begin, self._begin, self._loaded = self._begin, {}, {}
        self._places = places = {name: begin.get(name, (0, 0)) for name in self.loaders}
        epoch = self._epoch
        iterators = {name: self._iterator(name, epoch, *places[name]) for name in self.loaders}
        return self._batches(epoch, places, iterators)

    def _batches(self, epoch: int, places: dict[str, tuple[int, int]], iterators: Any) -> Iterator[dict[str, Any]]:
        while True:
            batch, told = {}, dict(places)
            for name, iterator in iterators.items():
                read = next(iterator, self)
                if read is self:
                    told[name] = (told[name][0] + 1, 0)
                    if self.mode in ("in_step", "shortest") or all(passes for passes, _ in told.values()):
                        return
                    if self.mode == "longest":
                        continue
                    iterators[name] = self._iterator(name, epoch, *told[name])
                    read = next(iterators[name])
                told[name] = (told[name][0], told[name][1] + 1)
                batch[name] = read
            places.update(told)
            yield batch

    def _iterator(self, name: str, epoch: int, passes: int, batches: int) -> Iterator[Any]:
        loader = self.loaders[name]
        if passes and self.mode != "cycle":
            return iter(())
        set_epoch(loader, epoch + (passes << _FURTHER_PASSES))
        if batches and hasattr(loader, "set_start"):
            loader.set_start(batches)
        return iter(loader)
