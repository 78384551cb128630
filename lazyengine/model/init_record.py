"""Which initializer filled which parameter: recorded while `init_weights` runs, written to the log after it."""

from __future__ import annotations

import logging
from contextvars import ContextVar

from torch import Tensor, nn

from ..checkpoint import is_sharded_tensor
from ..dist import is_main_process
from ..logging import MMLogger

__all__ = ["InitRecord", "record_init"]

UNCHANGED = "not touched: as its constructor left it"


class InitRecord:
    """Follows the parameters of a model through its initialization.

    A parameter counts as changed when its version counter moved (in-place operations) or a few of its values did
    (writes through ``.data``, which the counter does not see).

    Args:
        model: The module whose parameters are followed.
    """

    active: ContextVar[InitRecord | None] = ContextVar("active_init_record", default=None)

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._seen = {parameter: _fingerprint(parameter) for parameter in model.parameters()}
        self._info = dict.fromkeys(self._seen, UNCHANGED)

    def attribute(self, module: nn.Module, info: str) -> int:
        """Credit what changed below ``module`` since the last call to ``info``; return the number of parameters."""
        num_changed = 0
        for name, parameter in module.named_parameters():
            if parameter not in self._seen:
                raise RuntimeError(
                    f"init_weights replaced or added the parameter {name!r} of {type(module).__name__} · it must fill "
                    "parameters in place, because optimizers and wrappers hold on to them"
                )
            fingerprint = _fingerprint(parameter)
            if fingerprint != self._seen[parameter]:
                self._seen[parameter] = fingerprint
                self._info[parameter] = info
                num_changed += 1
        return num_changed

    def by_name(self) -> dict[str, str]:
        """Return what filled each parameter, by its name."""
        return {name: self._info[parameter] for name, parameter in self.model.named_parameters()}

    def write_to_log(self) -> None:
        """Write the whole table to the log file, and a line of totals to the log."""
        if not is_main_process():
            return
        logger = MMLogger.get_current_instance()
        by_name = self.by_name()
        totals: dict[str, int] = {}
        for info in by_name.values():
            totals[info] = totals.get(info, 0) + 1
        counts = "; ".join(f"{count} by {info}" for info, count in totals.items() if info != UNCHANGED)
        rest = f"{totals.get(UNCHANGED, 0)} as their constructors left them"
        logger.info(f"init_weights: {len(by_name)} parameters: " + (f"{counts}; {rest}" if counts else rest))
        table = logger.makeRecord(logger.name, logging.INFO, __file__, 0, self.table(), (), None, "init_weights")
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(table)

    def table(self) -> str:
        """Return one line per parameter: name, shape, what filled it."""
        by_name = self.by_name()
        shapes = {name: str(tuple(parameter.shape)) for name, parameter in self.model.named_parameters()}
        width = max(map(len, by_name), default=0)
        shape_width = max(map(len, shapes.values()), default=0)
        rows = [f"{name:<{width}}  {shapes[name]:<{shape_width}}  {info}" for name, info in by_name.items()]
        return "\n".join(["what filled each parameter:", *rows])


def record_init(module: nn.Module, info: str) -> int:
    """Credit changes below ``module`` to ``info`` in the record that is active, if any."""
    record = InitRecord.active.get()
    return 0 if record is None else record.attribute(module, info)


def _fingerprint(parameter: Tensor) -> tuple[object, ...]:
    values = parameter.detach()
    if is_sharded_tensor(values):
        values = values.to_local()  # pyright: ignore[reportAttributeAccessIssue]
    count = values.numel()
    if count == 0 or values.is_meta:
        return (parameter._version,)
    flat = values.reshape(-1) if values.is_contiguous() else values.flatten()
    return (parameter._version, *(flat[index].item() for index in (0, count // 2, count - 1)))
