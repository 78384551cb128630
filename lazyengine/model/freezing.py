"""Freezing parts of a model, before it is wrapped and before the optimizer is built."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .patterns import as_patterns, near_matches

__all__ = ["freeze_parameters"]


def freeze_parameters(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """Stop the training of parameters by name.

    A pattern matches the dotted name of a parameter or of a module, which stands for everything inside it:
    ``backbone``, ``backbone.*``, ``*.bias``. Norm layers with running statistics that lie in what a pattern names,
    or all of whose parameters are frozen, go to eval mode and stay there through ``model.train()``: otherwise a
    frozen network would still change with the data that passes through.

    Args:
        model: Changed in place.
        patterns: Shell-style patterns (``*``, ``?``, ``[abc]``; ``*`` also crosses dots).

    Returns:
        The names of the parameters frozen now, in the order of the model.

    Raises:
        ValueError: A pattern matches nothing.
    """
    patterns = as_patterns(patterns, "freeze")
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen: list[str] = []
    unmatched = dict.fromkeys(patterns)
    chosen_modules: dict[str, None] = {}
    for name in (*modules, *parameters):
        for pattern in patterns:
            if any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name)):
                unmatched.pop(pattern, None)
                if name in modules:
                    chosen_modules[name] = None
                elif parameters[name].requires_grad:
                    parameters[name].requires_grad_(False)
                    frozen.append(name)
    for pattern in unmatched:
        raise ValueError(
            f"freeze: {pattern!r} matches no module or parameter of {type(model).__name__}"
            f"{near_matches(pattern, [*modules, *parameters])}"
        )
    for name, module in modules.items():
        if isinstance(module, _NormBase) and module.track_running_stats:
            own = list(module.parameters(recurse=False))
            if name in chosen_modules or (own and not any(parameter.requires_grad for parameter in own)):
                keep_in_eval_mode(module)
    return frozen


def keep_in_eval_mode(module: nn.Module) -> None:
    """Put ``module`` into eval mode for good: ``train()`` of it or of a module around it leaves it there."""
    module.eval()
    module.__dict__["train"] = _StayInEvalMode(module)


class _StayInEvalMode:
    """Stands in for a module's ``train``; an object, not a closure, so that the module can be copied and pickled."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def _prefixes(name: str) -> Iterable[str]:
    """Yield ``a``, ``a.b``, ``a.b.c`` for ``a.b.c``."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
