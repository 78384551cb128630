"""Lets frozen parameters train from some time on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import UsageKeyError, UsageValueError
from ..model import named_parameters, unfreeze_parameters
from ..optim import ParamGroup
from ..text import did_you_mean, listed
from .hook import Hook, Priority, Runner


class UnfreezeHook(Hook):
    """Train parameters that ``ModelSetup(freeze=...)`` or the model has frozen, after so many epochs or iterations.

    From the start they are a group of the optimizer, which leaves parameters without gradients alone; so schedules
    move its learning rate all along, and when it begins to train, its rate is that of a group that was there always.
    That is also why a resumed run is the same one. Modules that freezing had put into eval mode train again.

    Args:
        at: Completed epochs (or iterations) before they train.
        patterns: Patterns on names of parameters and modules, as those of ``freeze``.
        by_epoch: Whether ``at`` counts epochs; else iterations, and the begin of the next accumulation. In a loop that
            counts iterations, epochs are passes over the loader.
        optimizer: Name of the optimizer where there are several.
        **options: Options of the group: ``lr_mult``, ``decay_mult`` or any of the optimizer, such as ``lr``.

    Raises:
        UsageValueError: When ``at`` is negative, a pattern matches nothing, or options are given for what is in an
            optimizer already.
        UsageKeyError: When there are several optimizers and ``optimizer`` names none of them.
    """

    priority = Priority.HIGH

    def __init__(
        self, at: int, patterns: str | Iterable[str], *, by_epoch: bool = True, optimizer: str = "", **options: Any
    ) -> None:
        if at < 0:
            raise UsageValueError(f"at={at}: expected a number of completed epochs or iterations")
        self.at = at
        self.patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        self.by_epoch = by_epoch
        self.optimizer = optimizer
        self.options = options
        self._is_done = False

    def add_param_groups(self, runner: Runner) -> None:
        """Add what no optimizer holds yet as one group."""
        wrappers = runner.optim_wrapper.named()
        if self.optimizer not in wrappers:
            hint = did_you_mean(self.optimizer, wrappers)
            raise UsageKeyError(f"UnfreezeHook: optimizer={self.optimizer!r}, but there are {listed(wrappers)}.{hint}")
        held = {id(p) for wrapper in wrappers.values() for group in wrapper.param_groups for p in group["params"]}
        named = named_parameters(runner.model, self.patterns, "UnfreezeHook")
        new = {name: parameter for name, parameter in named.items() if id(parameter) not in held}
        if self.options and len(new) < len(named):
            raise UsageValueError(
                f"UnfreezeHook: {listed([name for name in named if name not in new], 6)} are in an optimizer already, "
                f"which has its own options for them; leave out {listed(self.options)}, or freeze them before the "
                "optimizer is built"
            )
        if not new:
            return
        wrapper = wrappers[self.optimizer]
        names = {"param_names": list(new)} if "param_names" in wrapper.param_groups[0] else {}
        wrapper.add_param_group(ParamGroup(params=list(new.values()), **names, **self.options))

    def before_train_epoch(self, runner: Runner) -> None:
        """Unfreeze when it is time, also where a resumed run is beyond it."""
        if self.by_epoch and runner.max_epochs is not None and runner.epoch >= self.at:
            self._unfreeze(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Unfreeze when it is time, between two steps of the optimizer."""
        if self._is_done or (self.by_epoch and runner.max_epochs is not None):
            return
        done = runner.epoch if self.by_epoch else runner.iter
        if done >= self.at and runner.optim_wrapper.at_step_boundary:
            self._unfreeze(runner)

    def _unfreeze(self, runner: Runner) -> None:
        if self._is_done:
            return
        self._is_done = True
        if not (names := unfreeze_parameters(runner.model, self.patterns)):
            return  # they train already, as the checkpoint says that they did
        runner.logger.info("%d parameters train from here on: %s", len(names), listed(names, 6))
        if isinstance(runner.forward, nn.parallel.DistributedDataParallel):  # which knows those of its beginning
            runner.forward = runner.model_setup.wrap(runner.model, runner.device)

    def state_dict(self) -> dict[str, Any]:
        """Return whether it has acted: what others have frozen again stays so after a resume."""
        return {"is_done": True} if self._is_done else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._is_done = bool(state_dict["is_done"])

    def describe_interval(self) -> str:
        """Return when it acts, for the timeline."""
        return f"after {self.at} {'epochs' if self.by_epoch else 'iterations'}"
