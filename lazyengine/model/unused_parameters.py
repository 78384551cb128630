"""Finding parameters that take no part in a loss, which is what DDP fails on."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from ..logging import print_log

__all__ = ["detect_anomalous_params", "find_unused_parameters"]


def find_unused_parameters(loss: Tensor, model: nn.Module) -> list[str]:
    """Return the names of the trained parameters that ``loss`` does not depend on.

    Args:
        loss: What ``backward()`` is called on; call this before.
        model: The model that made the loss.
    """
    used: set[int] = set()
    seen = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            used.add(id(variable))
        pending.extend(parent for parent, _ in node.next_functions)
    return [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in used]


def detect_anomalous_params(loss: Tensor, model: nn.Module) -> list[str]:
    """Write to the log which trained parameters ``loss`` does not depend on, and return their names.

    Args:
        loss: What ``backward()`` is called on; call this before.
        model: The model that made the loss.
    """
    names = find_unused_parameters(loss, model)
    if names:
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        listed = "\n".join(f"  {name} {shapes[name]}" for name in names)
        print_log(
            f"{len(names)} trained parameters take no part in the loss; freeze them, or set find_unused_parameters of "
            f"DDP:\n{listed}",
            logger="current",
            level=logging.ERROR,
        )
    return names
