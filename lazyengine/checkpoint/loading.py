"""Load checkpoints from wherever they are into a model."""

import logging
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from ..fileio import get_local_path
from .errors import CheckpointError
from .reading import read_checkpoint, unsafe_names
from .state_dict import load_state_dict

_MMENGINE_NAMES = ("mmengine.", "numpy.", "builtins.getattr")  # what the history buffers in its message hub ask for
_Loader = Callable[..., Any]


class CheckpointLoader:
    """Chooses how to read a checkpoint by the start of its name.

    Local paths and URLs need no registration; further schemes are registered with a function of the file name and
    ``map_location``.
    """

    _schemes: ClassVar[dict[str, _Loader]] = {}

    @classmethod
    def register_scheme(
        cls, prefixes: str | Sequence[str], loader: _Loader | None = None, force: bool = False
    ) -> Callable[[_Loader], _Loader] | None:
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
                    raise KeyError(f"{prefix!r} is registered already; pass force=True to replace it")
                cls._schemes[prefix] = function
            return function

        if loader is None:
            return register
        register(loader)
        return None

    @classmethod
    def load_checkpoint(cls, filename: str, map_location: Any = None, logger: Any = "current") -> Any:
        """Read a checkpoint through the function registered for the start of its name.

        Args:
            filename: A path, a URL or a name with a registered prefix.
            map_location: As for ``torch.load``; None means ``"cpu"``.
            logger: Where to say what is read (see ``print_log``).

        Returns:
            What the file holds, usually a dict.
        """
        from ..logging import print_log

        print_log(f"Loading the checkpoint {filename}", logger=logger)
        for prefix in sorted(cls._schemes, key=len, reverse=True):
            if re.match(prefix, filename):
                return cls._schemes[prefix](filename, map_location)
        return _read_with_mmengine_objects(filename, map_location or "cpu", logger)


def _read_with_mmengine_objects(filename: str, map_location: Any, logger: Any) -> Any:
    """Read a checkpoint; leave out the message hub that mmengine pickled, since only tensors are asked for."""
    try:
        return read_checkpoint(filename, map_location)
    except CheckpointError:
        local = get_local_path(filename)
        names = unsafe_names(local) if os.path.isfile(local) and zipfile.is_zipfile(local) else []
        if not names or not all(name.startswith(_MMENGINE_NAMES) for name in names):
            raise
    from ..logging import print_log

    print_log(f"{filename} was saved by mmengine; its message hub is left out", logger, logging.WARNING)
    return read_checkpoint(filename, map_location, skip_objects=True)


def _load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Read ``torchvision://resnet50`` (its default weights) or ``torchvision://ResNet50_Weights.IMAGENET1K_V1``."""
    try:
        from torchvision import models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(f"{filename}: install torchvision to load its weights") from error
    name = filename.removeprefix("torchvision://")
    weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    return read_checkpoint(weights.url, map_location or "cpu")


CheckpointLoader.register_scheme("torchvision://", _load_from_torchvision)


def state_dict_of(checkpoint: Any, filename: str = "the checkpoint") -> Mapping[str, Any]:
    """Return the part of a checkpoint that holds the model: its ``state_dict`` entry if there is one, else all of it.

    Raises:
        CheckpointError: It is no dict.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{filename} holds a {type(checkpoint).__name__}, not a dict with the model's tensors")
    inner = checkpoint.get("state_dict", checkpoint)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"the 'state_dict' of {filename} is a {type(inner).__name__}, not a dict of tensors")
    return inner


def revise_state_dict(
    state_dict: Mapping[str, Any], revise_keys: Sequence[tuple[str, str]] = (), prefix: str | None = None
) -> "OrderedDict[str, Any]":
    """Rename keys, one rule after the other, then keep those under ``prefix`` and remove it.

    Args:
        state_dict: Tensors by name.
        revise_keys: Pairs of a regular expression and its replacement, as for ``re.sub``.
        prefix: ``"backbone"`` keeps ``backbone.*`` and removes ``backbone.``.

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
            raise CheckpointError(f"revise_keys {list(revise_keys)} gives {new!r} to two keys, {key!r} is one of them")
        revised[new] = value
    versions = {revise(key + ".")[:-1] if key else "": v for key, v in getattr(state_dict, "_metadata", {}).items()}
    if prefix:
        start = prefix if prefix.endswith(".") else prefix + "."
        names = list(revised)
        revised = OrderedDict((k.removeprefix(start), v) for k, v in revised.items() if k.startswith(start))
        versions = {k[len(start) :]: v for k, v in ((k + ".", v) for k, v in versions.items()) if k.startswith(start)}
        versions = {k[:-1]: v for k, v in versions.items()}
        if not revised:
            first = sorted({name.partition(".")[0] for name in names})[:10]
            raise CheckpointError(f"no key of the checkpoint starts with {start!r}; its first parts are {first}")
    revised._metadata = OrderedDict(versions)  # pyright: ignore[reportAttributeAccessIssue]
    return revised


def load_checkpoint(
    model: nn.Module,
    filename: str,
    map_location: Any = "cpu",
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
    prefix: str | None = None,
) -> Any:
    """Read a checkpoint and load its tensors into a model.

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
        FileNotFoundError, CheckpointError: As ``read_checkpoint``.
        RuntimeError: As ``load_state_dict`` with ``strict``.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger)
    return load_checkpoint_to_model(model, checkpoint, strict, logger, revise_keys, prefix, filename)


def load_checkpoint_to_model(
    model: nn.Module,
    checkpoint: Any,
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
    prefix: str | None = None,
    filename: str = "the checkpoint",
) -> Any:
    """Load the tensors of a checkpoint that was read already; the arguments are those of ``load_checkpoint``."""
    state = revise_state_dict(state_dict_of(checkpoint, filename), revise_keys, prefix)
    load_state_dict(model, state, strict, logger)
    return checkpoint


def read_checkpoint_with_prefix(prefix: str, filename: str, map_location: Any = "cpu") -> "OrderedDict[str, Any]":
    """Read the part of a checkpoint's model whose keys start with ``prefix.``, without it.

    Raises:
        CheckpointError: There are no such keys; the first parts that there are are listed.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
    return revise_state_dict(state_dict_of(checkpoint, filename), prefix=prefix)
