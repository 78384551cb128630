"""The one door for weights: read a checkpoint from wherever it is, find in it what fits a model, and load that."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import UsageKeyError, UsageValueError
from ..logging import print_log
from ..nesting import iter_leaves
from ..text import listed, near
from .errors import UsageCheckpointError
from .frozen import complete, left_out_of
from .reading import SkippedObject, read_checkpoint
from .shards import SavedTensor
from .state_dict import get_state_dict, load_tensors, report_mismatch, shape_of, weights_in

_Loader = Callable[..., Any]
_Rules = Sequence[tuple[str, str]]
# Entries in which the usual programs keep a model, in the order in which they are looked into.
_MODELS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "weights", "params")
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema")
# What DDP, torch.compile, FSDP, checkpoint_wrapper, Fabric and Lightning put into keys. The ones with an underscore
# are nobody's own names; the others count only where the key fits better without.
_HIDDEN_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_WRAPPERS = ("module", "model")
_NUM_COMPARED = 2000  # keys of a model among which a near one is looked for


class CheckpointLoader:
    """Chooses how to read a checkpoint by the start of its name.

    Local paths and URLs need no registration; further schemes are registered with a function of the file name and
    ``map_location``.
    """

    _schemes: ClassVar[dict[str, _Loader]] = {}

    @classmethod
    def register_scheme(
        cls, prefixes: str | Sequence[str], loader: _Loader | None = None, force: bool = False
    ) -> _Loader:
        """Register a function that reads checkpoints whose names start with one of the prefixes.

        Args:
            prefixes: One or several regular expressions, matched at the start of the name; longer ones win.
            loader: Called as ``loader(filename, map_location)``. Without it, the result is a decorator.
            force: Replace a registered prefix.

        Raises:
            KeyError: A prefix is registered and ``force`` is off.
        """

        def register(function: _Loader) -> _Loader:
            for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
                if prefix in cls._schemes and not force:
                    raise UsageKeyError(f"{prefix!r} is registered already; pass force=True to replace it")
                cls._schemes[prefix] = function
            return function

        return register if loader is None else register(loader)

    @classmethod
    def load_checkpoint(
        cls, filename: str, map_location: Any = None, logger: Any = "current", trusted: bool = False
    ) -> Any:
        """Read a checkpoint through the function registered for the start of its name.

        Objects of other classes, such as the message hub that mmengine pickles, are left out, since only tensors are
        asked for; the log says where they were.

        Args:
            filename: A path, a URL or a name with a registered prefix.
            map_location: As for ``torch.load``; None means ``"cpu"``.
            logger: Where the log lines go (see ``print_log``).
            trusted: Load the objects instead, which can run any code.

        Returns:
            What the file holds, usually a dict.
        """
        print_log(f"loading weights from {filename}", logger=logger)
        for prefix in sorted(cls._schemes, key=len, reverse=True):
            if re.match(prefix, filename):
                return cls._schemes[prefix](filename, map_location)
        checkpoint = read_checkpoint(filename, map_location or "cpu", trusted=trusted, skip_objects=True)
        left_out = [path for path, value in iter_leaves(checkpoint) if isinstance(value, SkippedObject)]
        if left_out:
            where = listed(left_out, 3)
            print_log(f"objects of other classes in {filename} are left out: {where}", logger, logging.WARNING)
        return checkpoint


def _load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Read ``torchvision://resnet50`` (its default weights) or ``torchvision://ResNet50_Weights.IMAGENET1K_V1``."""
    try:
        from torchvision import models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageCheckpointError(f"{filename}: install torchvision to load its weights") from error
    name = filename.removeprefix("torchvision://")
    weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    return read_checkpoint(weights.url, map_location or "cpu")


CheckpointLoader.register_scheme("torchvision://", _load_from_torchvision)


@dataclasses.dataclass
class LoadFrom:
    """Weights to begin with.

    Attributes:
        path: A file, a URL or a name with a registered prefix, such as ``torchvision://resnet50``.
        revise_keys: Pairs ``(regular expression, replacement)`` applied to every key of the file, in order.
        prefix: Load only the keys below this prefix, and remove it; or the entry of the file to take, such as
            ``"model_ema"``.
        strict: Whether a missing, unexpected or mismatched key is an error; otherwise it is logged.
        trusted: Whether the file may run code while it is read (a pickle from somebody you trust).
        base: Where the frozen weights are that a file of ``Runner(save="trained")`` leaves out; None for the model's
            own, as they are. `revise_keys` and `prefix` are not applied to such a file, but by `base` to its own.
    """

    path: str
    revise_keys: _Rules = ()
    prefix: str | None = None
    strict: bool = False
    trusted: bool = False
    base: LoadFrom | None = None

    @classmethod
    def of(cls, given: str | LoadFrom | dict[str, Any] | None) -> LoadFrom | None:
        """Return what a runner is given as `load_from`: a path alone, this, a dict of its arguments, or nothing.

        Raises:
            ValueError: When a dict has no ``path``, or a key that is none of the attributes.
        """
        if isinstance(given, str):
            return cls(given)
        if not isinstance(given, dict):
            return given
        known = [field.name for field in dataclasses.fields(cls)]
        if "path" not in given or not given.keys() <= set(known):
            raise UsageValueError(
                f"load_from={given!r}: expected a path, or a dict with 'path' and some of {known[1:]}"
            )
        return cls(**given)

    def load_into(self, model: nn.Module, logger: Any) -> dict[str, Any]:
        """Load the weights into `model` and log what did not fit.

        Returns:
            What the checkpoint says about itself, such as the ``epoch`` and ``iter`` of the weights; may be empty.

        Raises:
            CheckpointError: When the file is damaged or is no checkpoint, or when no weight fits.
            RuntimeError: With `strict`, when a key does not fit.
        """
        meta = self.load_all_into(model, logger).get("meta")
        return meta if isinstance(meta, dict) else {}

    def load_all_into(self, model: nn.Module, logger: Any, map_location: Any = "cpu") -> Any:
        """Load the weights into `model` and return the whole checkpoint, see `load_into`."""
        checkpoint = CheckpointLoader.load_checkpoint(self.path, map_location, logger, self.trusted)
        rules: Any = (self.revise_keys, self.prefix)
        if self.base is not None and left_out_of(checkpoint):
            self.base.load_into(model, logger)
            rules = ((), None)
        complete(checkpoint, model)
        state = choose_state_dict(model, checkpoint, self.path, *rules, logger=logger)
        loaded = load_tensors(model, state)
        if not loaded.has_weights:
            raise nothing_fits(model, state, self.path, loaded.report)
        report_mismatch(loaded.report, self.strict, logger)
        return checkpoint


def load_checkpoint(
    model: nn.Module,
    filename: str,
    map_location: Any = "cpu",
    strict: bool = False,
    logger: Any = None,
    revise_keys: _Rules = (),
    prefix: str | None = None,
) -> Any:
    """Read a checkpoint and load its tensors into a model.

    The tensors are looked for in the usual entries (``state_dict``, ``model``, ``model_state_dict`` …), and the names
    that DDP, ``torch.compile``, FSDP and Lightning put before keys are removed where a key fits better without.

    Args:
        model: Receives the tensors.
        filename: A path, a URL or a name with a registered prefix.
        map_location: As for ``torch.load``.
        strict: Raise where keys or shapes do not match (see ``load_state_dict``).
        logger: Where mismatches are reported.
        revise_keys: Pairs of a regular expression and its replacement for the checkpoint's keys, applied in order.
        prefix: Load only the keys under it, without it.

    Returns:
        The whole checkpoint.

    Raises:
        FileNotFoundError, CheckpointError: As ``read_checkpoint``; also where no weight of the model is in it.
        RuntimeError: As ``load_state_dict`` with ``strict``.
    """
    return LoadFrom(filename, revise_keys, prefix, strict).load_all_into(model, logger, map_location)


def containers(checkpoint: Any, filename: str = "the checkpoint") -> dict[str, Mapping[str, Any]]:
    """Return the parts of a checkpoint that may be a model's state dict, by their place, the likeliest first.

    Raises:
        CheckpointError: It is no dict, or its ``state_dict`` is none.
    """
    inner = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(inner, Mapping):
        is_skipped = isinstance(inner, SkippedObject)
        model = "a pickled object such as a whole model; save its state_dict() instead"
        got = model if is_skipped else type(inner).__name__
        raise UsageCheckpointError(f"the weights in {filename}: expected a dict of tensors, got {got}.")
    parts = [(name, part) for name, part in inner.items() if isinstance(part, Mapping)]  # such as of a student
    below = {f"{name}.{key}": value for name, part in parts for key, value in part.items()}
    return dict(_inside(checkpoint)) or {"": below or inner}


def _inside(value: Mapping[str, Any], path: str = "", depth: int = 2) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in (*_MODELS, *_AVERAGES):
        if depth and isinstance(inner := value.get(name), Mapping):
            yield from _inside(inner, f"{path}.{name}" if path else name, depth - 1)
    if any(isinstance(item, torch.Tensor | SavedTensor) for item in value.values()):
        yield path, value


def state_dict_of(checkpoint: Any, filename: str = "the checkpoint") -> Mapping[str, Any]:
    """Return the part of a checkpoint that holds the model: its ``state_dict`` or another usual entry, else all of it.

    Raises:
        CheckpointError: It is no dict.
    """
    return next(iter(containers(checkpoint, filename).values()))


def spellings(key: str) -> list[str]:
    """Return a key, and what is left of it without the names of wrappers, the most of it first."""
    plain = [part for part in key.split(".") if part not in _HIDDEN_WRAPPERS]
    found = [key, ".".join(plain)]
    for start, part in enumerate(plain, 1):
        if part not in _WRAPPERS:
            break
        found.append(".".join(plain[start:]))
    found.append(".".join(part for part in plain if part != "module"))
    return found


def revise_state_dict(
    state_dict: Mapping[str, Any], revise_keys: Sequence[tuple[str, str]] = (), prefix: str | None = None
) -> OrderedDict[str, Any]:
    """Rename keys, one rule after the other, then keep those under ``prefix`` and remove it.

    Args:
        state_dict: Tensors by name.
        revise_keys: Pairs of a regular expression and its replacement, as for ``re.sub``.
        prefix: ``"backbone"`` keeps ``backbone.*`` and removes ``backbone.``; where there is none, what has it below
            the names of wrappers (``module.backbone.*``).

    Returns:
        A new dict; ``_metadata`` is renamed in the same way.

    Raises:
        CheckpointError: Two keys get the same name, or no key is under ``prefix``.
    """

    def revise(key: str) -> str:
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        return key

    revised: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        new = revise(key)
        if new in revised:
            raise UsageCheckpointError(
                f"revise_keys {list(revise_keys)} gives {new!r} to two keys, {key!r} is one of them"
            )
        revised[new] = value
    versions = {revise(key + ".")[:-1] if key else "": v for key, v in getattr(state_dict, "_metadata", {}).items()}
    if prefix:
        start = prefix if prefix.endswith(".") else prefix + "."
        names = list(revised)
        is_wrapped = not any(name.startswith(start) for name in names)

        def below(key: str) -> str | None:
            tried = spellings(key) if is_wrapped else [key]
            return next((name[len(start) :] for name in tried if name.startswith(start)), None)

        revised = OrderedDict((new, value) for key, value in revised.items() if (new := below(key)) is not None)
        versions = {new[:-1]: v for key, v in versions.items() if (new := below(key + ".")) is not None}
        if not revised:
            first = sorted({name.partition(".")[0] for name in names})[:10]
            raise UsageCheckpointError(f"no key of the checkpoint starts with {start!r}; its first parts are {first}")
    revised._metadata = OrderedDict(versions)  # pyright: ignore[reportAttributeAccessIssue]
    return revised


def without_wrappers(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return a state dict in which each key is the spelling that fits a model best; the first one of equal ones.

    Args:
        state_dict: Tensors by name; ``_metadata`` is renamed in the same way.
        own: The model's state dict.
    """
    modules = getattr(own, "_metadata", {})

    def fit(key: str, value: Any) -> int:
        if key in own:
            ours = shape_of(own[key])
            return 3 if ours is None or ours == shape_of(value) else 2
        return int(key.rpartition(".")[0] in modules)

    fitted: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        new = max(spellings(key), key=lambda name, value=value: fit(name, value))
        fitted[key if new in fitted or new in state_dict else new] = value
    versions = OrderedDict(
        (next((new for new in spellings(name) if new in modules), name), version)
        for name, version in getattr(state_dict, "_metadata", {}).items()
    )
    fitted._metadata = versions  # pyright: ignore[reportAttributeAccessIssue]
    return fitted


def choose_state_dict(
    model: nn.Module, checkpoint: Any, filename: str, revise_keys: _Rules, prefix: str | None, logger: Any
) -> OrderedDict[str, Any]:
    """Return what a checkpoint holds for a model: the first container of which a weight fits, with the model's keys.

    A `prefix` may be the place of a container. Where the file has averages beside the weights, the log says which of
    them are taken.

    Raises:
        CheckpointError: There is no dict of tensors, or no key under `prefix`.
    """
    own = get_state_dict(model, keep_vars=True)
    wanted = weights_in(own)

    states = containers(checkpoint, filename)
    if prefix in states:
        states, prefix = {prefix: states[prefix]}, None

    def fitted(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
        return without_wrappers(revise_state_dict(state, revise_keys, prefix), own)

    for place, state in states.items():
        with contextlib.suppress(UsageCheckpointError):
            found = fitted(state)
            if any(k in wanted and shape_of(own[k]) in (None, shape_of(v)) for k, v in found.items()):
                others = [other for other in states if other in _AVERAGES and other != place]
                if others and "ema_steps" not in checkpoint:  # ours, whose own entry has the average
                    text = f"the weights are those of {place or 'the whole file'!r}, not of {listed(others)}"
                    print_log(f"{text}: load_from={{'path': ..., 'prefix': {others[0]!r}}} takes these", logger)
                return found
    return fitted(next(iter(states.values())))


def nothing_fits(model: nn.Module, state_dict: Mapping[str, Any], filename: str, report: str) -> UsageCheckpointError:
    """Return the error for a file of which no weight fits, with near keys of both sides."""
    ours = list(get_state_dict(model))[:_NUM_COMPARED]
    pairs = [(key, found) for key in list(state_dict)[:5] if (found := near(key, ours)) not in (None, key)]
    nearest = "".join(f" {key!r} is near the model's {found!r}." for key, found in pairs[:2])
    return UsageCheckpointError(
        f"no tensor of {filename} fits the model, which would go on with the weights that it was built with.{nearest} "
        "Name another file, or say how its keys become the model's: load_from={'path': ..., 'revise_keys': "
        f"[(pattern, replacement)], 'prefix': ...}}.\n{report}"
    )
