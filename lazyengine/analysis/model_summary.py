"""The short description of a model that a run starts with."""

from __future__ import annotations

from torch import nn

__all__ = ["summary"]


def summary(model: nn.Module) -> str:
    """Return what a model consists of: its parameters by direct child, and how it prepares its data.

    A parameter that is used in several places counts once, where it comes first.

    Args:
        model: The model, whole or sharded by FSDP2.

    Returns:
        A few lines: totals, the data preprocessor if there is one, and one line for each child with parameters.
    """
    seen: set[int] = set()
    rows: list[tuple[str, str, int, int]] = []
    own = _count(model, seen, recurse=False)
    for name, child in model.named_children():
        total, frozen = _count(child, seen)
        if total:
            rows.append((name, type(child).__name__, total, frozen))
    if own[0]:
        rows.append(("(its own)", "", *own))
    total, frozen = sum(row[2] for row in rows), sum(row[3] for row in rows)
    lines = [f"{type(model).__name__}: {total:,} parameters, {total - frozen:,} trained, {frozen:,} frozen"]
    preprocessor = getattr(model, "data_preprocessor", None)
    if isinstance(preprocessor, nn.Module):
        lines.append(f"  data_preprocessor: {type(preprocessor).__name__}({preprocessor.extra_repr()})")
    name_width = max((len(row[0]) for row in rows), default=0)
    kind_width = max((len(row[1]) for row in rows), default=0)
    for name, kind, count, num_frozen in rows:
        state = "" if not num_frozen else "  frozen" if num_frozen == count else f"  {num_frozen:,} frozen"
        lines.append(f"  {name:<{name_width}}  {kind:<{kind_width}}  {count:>13,}{state}")
    return "\n".join(lines)


def _count(module: nn.Module, seen: set[int], recurse: bool = True) -> tuple[int, int]:
    """Return the numbers of all and of frozen values in the parameters that are not in ``seen`` yet."""
    total = frozen = 0
    for parameter in module.parameters(recurse):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            total += parameter.numel()
            frozen += 0 if parameter.requires_grad else parameter.numel()
    return total, frozen
