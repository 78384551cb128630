"""Modules that know how their weights are initialized."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from ..errors import UsageTypeError
from ..logging import print_log
from .initializers import InitRecord, PretrainedInit, apply_initializers, record_init

Initializer = Callable[[nn.Module], object]
InitCfg = Initializer | Sequence[Initializer] | None


class BaseModule(nn.Module):
    """A module with an `init_weights` driven by ``init_cfg``.

    Args:
        init_cfg: One initializer or several, such as ``KaimingInit(layer="Conv2d")``. They fill the whole subtree, so
            an outer module's come first and an inner module's win; only `PretrainedInit` runs after the children.

    Attributes:
        init_info: After `init_weights` of the outermost module: what filled each parameter, by name.

    Raises:
        TypeError: ``init_cfg`` holds something that cannot be called.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.init_cfg = _as_initializers(init_cfg, type(self).__name__)
        self.is_init = False
        self.init_info: dict[str, str] = {}

    def init_weights(self) -> None:
        """Fill the parameters in place: own initializers, then children with an ``init_weights``, then pretrained ones.

        Runs once; a second call changes nothing and warns. The outermost call writes a table to the log that says
        what filled each parameter.
        """
        if self.is_init:
            text = f"init_weights of {type(self).__name__} was called more than once; the weights stay as they are"
            print_log(text, "current", logging.WARNING)
            return
        self.is_init = True
        self.init_info = _record(self, self._init_weights)

    def children_to_init(self) -> Iterable[nn.Module]:
        """Return the children that `init_weights` descends into; all of them unless overridden."""
        return self.children()

    def _init_weights(self) -> None:
        pretrained = [initializer for initializer in self.init_cfg if isinstance(initializer, PretrainedInit)]
        apply_initializers(self, [initializer for initializer in self.init_cfg if initializer not in pretrained])
        for child in self.children_to_init():
            _init_tree(child)
        apply_initializers(self, pretrained)

    def extra_repr(self) -> str:
        return f"init_cfg={self.init_cfg}" if self.init_cfg else ""


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with an ``init_cfg`` of its own."""

    def __init__(self, *args: nn.Module, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *args)


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with an ``init_cfg`` of its own."""

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with an ``init_cfg`` of its own."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)


def init_weights(model: nn.Module) -> dict[str, str]:
    """Initialize any model once: by its own ``init_weights``, else by those of the modules inside it.

    Args:
        model: Filled in place.

    Returns:
        What filled each parameter, by name.
    """
    own = getattr(model, "init_weights", None)
    info = _record(model, own or (lambda: _init_tree(model)))
    if isinstance(model, BaseModule):
        model.init_info = info
    return info


def _init_tree(module: nn.Module) -> None:
    """Call the outermost ``init_weights`` on every path below ``module``, through modules that have none."""
    own = getattr(module, "init_weights", None)
    if own is None:
        for child in module.children():
            _init_tree(child)
    elif not getattr(module, "is_init", False):
        own()
        record_init(module, f"init_weights of {type(module).__name__}")


def _record(model: nn.Module, initialize: Callable[[], None]) -> dict[str, str]:
    """Run ``initialize``; the outermost call follows the parameters and writes the table."""
    if InitRecord.active.get() is not None:
        initialize()
        return {}
    record = InitRecord(model)
    token = InitRecord.active.set(record)
    try:
        initialize()
    finally:
        InitRecord.active.reset(token)
    record.attribute(model, f"init_weights of {type(model).__name__}")
    record.write_to_log()
    return record.by_name()


def _as_initializers(init_cfg: InitCfg, owner: str) -> list[Initializer]:
    if init_cfg is None:
        return []
    initializers = list(init_cfg) if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    for initializer in initializers:
        if isinstance(initializer, type) or not callable(initializer):
            kind = initializer.get("type") if isinstance(initializer, dict) else None
            hint = f" · write {kind}Init(...) instead of dict(type={kind!r}, ...)" if isinstance(kind, str) else ""
            raise UsageTypeError(
                f"init_cfg of {owner} holds {initializer!r} · accepted are initializers such as "
                f"KaimingInit(layer='Conv2d'), or a list of them{hint}"
            )
    return initializers  # pyright: ignore[reportReturnType]
