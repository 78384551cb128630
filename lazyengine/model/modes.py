"""Which parts of a model train, evaluate or are frozen: set when a training starts, and kept through validations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from torch import nn

from .._torch import batch_norms, instance_norms
from ..checkpoint import unwrap_module as unwrap
from ..logging import print_log
from ..text import listed
from .patterns import as_patterns, match_names

if TYPE_CHECKING:
    from .model_setup import ModelSetup

FreezeMode = Literal["eval", "train"]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Let all of ``model`` evaluate inside; afterwards, also after an error, each submodule has the mode that it had.

    Args:
        model: The model or a wrapper around it; may be within another `evaluating` of it.
    """
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        _set_modes(before)


def set_training(model: nn.Module, setup: ModelSetup | None = None) -> None:
    """Set ``model`` to train, but for the parts that shall evaluate; called once when a training starts.

    Calls ``model.train()``, so that overridden ``train`` methods act. Parts that were in eval mode inside a model that
    was not go back to it; the log names them. Where the whole model was in eval mode all of it trains, as does a part
    that has parameters to train and whose class has ``from_pretrained``, which leaves a model in eval mode. What
    ``setup`` freezes or names in ``eval`` evaluates in any case.

    Args:
        model: The model or a wrapper around it.
        setup: What was applied to the model; its ``freeze_mode`` is looked at once more, so that a resumed run can
            bring its own.
    """
    inner = unwrap(model)
    if setup is not None and setup.freeze_mode == "train":
        release(inner, "freeze")
    names = {module: name for name, module in inner.named_modules()}
    pinned = {part for module in names if _is_pinned(module) for part in module.modules()}
    own = [module for module in names if inner.training and not module.training and module not in pinned]
    revived = [
        module
        for module in own
        if hasattr(type(module), "from_pretrained") and any(value.requires_grad for value in module.parameters())
    ]
    kept = set(own) - {part for module in revived for part in module.modules()}
    model.train()
    _set_modes({module: module.training and module not in kept for module in names})
    for module in _outermost(revived):
        text = f"as from_pretrained leaves it, and trains; ModelSetup(eval=[{names[module]!r}]) would keep it there"
        print_log(f"{names[module]} ({type(module).__name__}) was in eval mode, {text}", "current")
    evaluated = _outermost([module for module in names if not module.training])
    if evaluated:
        print_log(f"in eval mode while the rest trains: {listed(names[module] for module in evaluated)}", "current")


def switches_of(model: nn.Module) -> dict[str, bool | str]:
    """Return what trains, by dotted name: of each parameter whether it requires a gradient, of each module its mode.

    Of a module that is in eval mode for good it is the reason, as in `pin`.
    """
    modules = {
        name: module.__dict__["train"].reason if _is_pinned(module) else module.training
        for name, module in model.named_modules()
    }
    return {**modules, **{name: parameter.requires_grad for name, parameter in model.named_parameters()}}


def set_switches(model: nn.Module, switches: Mapping[str, bool | str]) -> None:
    """Set what `switches_of` returned, or a part of it; what it does not name stays."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(switches.get(name, parameter.requires_grad)))
    modules = {module: switches.get(name, module.training) for name, module in model.named_modules()}
    named = [module for name, module in model.named_modules() if name in switches]
    for module in filter(_is_pinned, named):
        del module.__dict__["train"]
    _set_modes({module: mode is True for module, mode in modules.items()})
    for module in named:
        if isinstance(reason := modules[module], str):
            pin(module, reason)


def pin(module: nn.Module, reason: str) -> None:
    """Put ``module`` into eval mode for good: ``train()`` of it or of a module around it leaves it there.

    Args:
        module: Changed in place.
        reason: What `release` names; the first one stays.
    """
    module.eval()
    module.__dict__.setdefault("train", _StayInEvalMode(module, reason))


def release(model: nn.Module, reason: str) -> None:
    """Let the parts of ``model`` that were pinned for a reason follow ``train()`` again."""
    for module in model.modules():
        if _is_pinned(module) and module.__dict__["train"].reason == reason:
            del module.__dict__["train"]
            module.train()


def freeze_parameters(model: nn.Module, patterns: str | Iterable[str], freeze_mode: FreezeMode = "eval") -> list[str]:
    """Stop the training of parameters by name.

    A pattern matches the dotted name of a parameter or of a module, which stands for everything inside it:
    ``backbone``, ``backbone.*``, ``*.bias``. The largest modules that are frozen whole go to eval mode and stay there
    through ``model.train()``, and so do norm layers with running statistics of which all parameters are frozen:
    otherwise a frozen network would still draw for its dropout, and change with the data that passes through.

    Args:
        model: Changed in place.
        patterns: Shell-style patterns (``*``, ``?``, ``[abc]``; ``*`` also crosses dots).
        freeze_mode: ``"train"`` leaves all but the norm layers in train mode, as version 0.1 did.

    Returns:
        The names of the parameters frozen now, in the order of the model.

    Raises:
        ValueError: A pattern matches nothing.
    """
    patterns = as_patterns(patterns, "freeze")
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    refusal = f"freeze: {{}} matches no module or parameter of {type(model).__name__}"
    matched = match_names([*modules, *parameters], patterns, refusal, _is_named)
    frozen = [name for name, value in parameters.items() if name in matched and value.requires_grad]
    for name in frozen:
        parameters[name].requires_grad_(False)
    chosen = {id(value) for name, value in parameters.items() if name in matched}
    whole: list[str] = []
    norms = batch_norms() + instance_norms()
    for name, module in modules.items():
        own = list(module.parameters())
        is_frozen = bool(own) and not any(value.requires_grad for value in own)
        if (name in matched or is_frozen) and isinstance(module, norms) and module.track_running_stats:
            pin(module, "statistics")
        if name in matched or (is_frozen and any(id(value) in chosen for value in own)):
            whole.append(name)
    for name in whole if freeze_mode == "eval" else ():
        if not any(name.startswith(f"{other}.") for other in whole):
            pin(modules[name], "freeze")
    return frozen


def named_parameters(model: nn.Module, patterns: str | Iterable[str], argument: str) -> dict[str, nn.Parameter]:
    """Return the parameters that patterns name, as `freeze_parameters` reads them, in the order of the model.

    Raises:
        ValueError: A pattern matches nothing; the message names ``argument``.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))  # one that is tied has several names
    refusal = f"{argument}: {{}} matches no parameter of {type(model).__name__}"
    matched = match_names(parameters, as_patterns(patterns, argument), refusal, _is_named)
    chosen = {id(parameters[name]) for name in matched}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def unfreeze_parameters(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """Let frozen parameters train, and the modules that freezing had put into eval mode with them.

    Args:
        model: Changed in place.
        patterns: As for `freeze_parameters`; of a module that is trained in part the other parts go on evaluating.

    Returns:
        The names of the parameters that train from now on and did not before.

    Raises:
        ValueError: A pattern matches nothing.
    """
    names = [name for name, p in named_parameters(model, patterns, "unfreeze").items() if not p.requires_grad]
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
    for module in list(model.modules()):
        if _is_frozen(module) and any(parameter.requires_grad for parameter in module.parameters()):
            _thaw(module)
    return names


def _is_frozen(module: nn.Module) -> bool:
    return _is_pinned(module) and module.__dict__["train"].reason in ("freeze", "statistics")


def _thaw(module: nn.Module) -> None:
    """Let a module train as far as its parameters do; parts of it without any that does stay in eval mode."""
    if _is_frozen(module):
        del module.__dict__["train"]
    if not _is_pinned(module):
        module.training = True
    trains_whole = all(parameter.requires_grad for parameter in module.parameters())
    for child in module.children():
        if trains_whole or any(parameter.requires_grad for parameter in child.parameters()):
            _thaw(child)
        else:
            pin(child, "freeze")


class _StayInEvalMode:
    """Stands in for a module's ``train``; an object, not a closure, so that the module can be copied and pickled."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        self.module = module
        self.reason = reason

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def _is_pinned(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("train"), _StayInEvalMode)


def _outermost(modules: list[nn.Module]) -> list[nn.Module]:
    inside = {part for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if module not in inside]


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Set each module's mode, parents first, by its own ``train``, which may do more than set a flag."""
    for module, mode in modes.items():
        if module.training != mode:
            module.train(mode)
    for module, mode in modes.items():  # exactly so, whatever a parent's or its own train() did
        module.training = mode


def _is_named(name: str, pattern: str) -> bool:
    """Return whether a pattern matches ``a``, ``a.b`` or ``a.b.c`` for ``a.b.c``."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
