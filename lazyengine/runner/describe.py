"""What a run is made of, as text: printed at its start and by a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..optim import OptimWrapper, param_group_table
from ..text import counted, listed, table
from .loops import length_of

if TYPE_CHECKING:
    from .runner import Runner


def describe(runner: Runner, columns: int | None = None) -> str:
    """Return the hooks timeline with its warnings, and the model's parts and parameter counts.

    Builds the model and the hooks where they are not built yet; no dataset, no loop and no optimizer.
    """
    return "\n".join([describe_hooks(runner, columns), "", "model:", summary(runner.model)])


def describe_hooks(runner: Runner, columns: int | None = None) -> str:
    """Return the hooks timeline with its warnings, within so many columns (None: 120); builds the hooks."""
    hooks = runner.hooks
    warnings = [f"warning: {warning}" for warning in hooks.warnings()]
    return "\n".join(["hooks, point by point:", hooks.timeline(columns or 120), *warnings])


def describe_training(runner: Runner, resume_from: str | None) -> str:
    """Return what is about to be trained, on a few lines; everything that training needs is built.

    Args:
        runner: The runner.
        resume_from: The checkpoint that was resumed, None where training begins anew.
    """
    loop = runner.train_loop
    dataset = getattr(loop.dataloader, "dataset", None)
    data = [type(dataset).__name__] if dataset is not None else []
    if (length := length_of(dataset)) is not None:
        data.append(counted(length, "sample"))
    if loop.epoch_length is not None:
        per = "an epoch" if loop.max_epochs is not None else "a pass"
        data.append(f"{counted(loop.epoch_length, 'batch', 'batches')} {per}")
    if loop.overfit is not None:
        data.append(f"of which the first {counted(loop.overfit, 'batch', 'batches')} over and over")
    length = [counted(loop.max_epochs, "epoch")] if loop.max_epochs is not None else []
    begins = "anew" if runner.load_from is None else f"anew, with the weights of {runner.load_from.path}"
    if resume_from is not None:
        begins = f"after iteration {runner.num_iters_completed:,}"
        if loop.max_epochs is not None:
            begins = f"after epoch {runner.epoch}, iteration {runner.num_iters_completed:,}"
    model = summary(runner.model).partition("\n")[0]
    if missed := [name for name, _ in runner.model.named_parameters() if name in runner.untrained]:
        model += f"; in no optimizer, and left as they are: {listed(missed, 4)}"
    rows: list[tuple[str, str]] = [
        ("model", model),
        *(
            (f"optimizer {name}".rstrip(), _optimizer(wrapper))
            for name, wrapper in runner.optim_wrapper.named().items()
        ),
        ("data", ", ".join(data)),
        ("length", ", ".join([*length, counted(loop.max_iters, "iteration")])),
        ("begins", begins),
        ("details", runner.folder.log_file),
    ]
    return table([row for row in rows if row[1]], indent="  ")


def _optimizer(wrapper: OptimWrapper) -> str:
    groups = wrapper.param_groups
    rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups if group.get("lr") is not None})
    spread = [f"lr {rates[0]:.4g}{f' to {rates[-1]:.4g}' if len(rates) > 1 else ''}"] if rates else []
    number = counted(len(groups), "parameter group")
    return ", ".join([type(wrapper.optimizer).__name__, number, *spread])


def describe_optimizer(runner: Runner) -> str:
    """Return the table of parameter groups of each optimizer; builds the optimizer."""
    tables = {name: param_group_table(wrapper) for name, wrapper in runner.optim_wrapper.named().items()}
    return "\n".join(f"{name}:\n{text}" if name else text for name, text in tables.items())


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
    cells = [(name, kind, f"{count:>13,}", _state(count, frozen)) for name, kind, count, frozen in rows]
    return "\n".join([*lines, *([table(cells, indent="  ")] if cells else [])])


def _state(count: int, frozen: int) -> str:
    return "" if not frozen else "frozen" if frozen == count else f"{frozen:,} frozen"


def _count(module: nn.Module, seen: set[int], recurse: bool = True) -> tuple[int, int]:
    """Return the numbers of all and of frozen values in the parameters that are not in ``seen`` yet."""
    total = frozen = 0
    for parameter in module.parameters(recurse):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            total += parameter.numel()
            frozen += 0 if parameter.requires_grad else parameter.numel()
    return total, frozen
