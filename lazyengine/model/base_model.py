"""The model of an experiment: a flow around ``forward`` that prepares data, parses losses and updates weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .base_module import BaseModule, InitCfg
from .data_preprocessor import BaseDataPreprocessor
from .step import check_gradients_are_synchronized, parse_losses, run_forward

__all__ = ["BaseModel"]


class BaseModel(BaseModule):
    """Base class of models that the runner trains.

    A subclass writes ``forward(*inputs, mode)``, where ``mode`` is

    - ``"loss"``: return a dict of losses (see `parse_losses`),
    - ``"predict"``: return predictions for the evaluator, a dict of tensors whose first dimension is the batch, or a
      list with one sample per item,
    - ``"tensor"``: return the network's raw output.

    Args:
        data_preprocessor: Prepares every batch; None is `BaseDataPreprocessor`, which moves it to the model's device.
        init_cfg: How `init_weights` fills the parameters; see `BaseModule`.

    Raises:
        TypeError: The class has no ``forward``, or ``data_preprocessor`` is not a module.
    """

    def __init__(self, data_preprocessor: nn.Module | None = None, init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        if type(self).forward is BaseModel.forward:
            raise TypeError(f"{type(self).__name__} has no forward · write forward(self, ..., mode='tensor')")
        if data_preprocessor is None:
            data_preprocessor = BaseDataPreprocessor()
        elif not isinstance(data_preprocessor, nn.Module):
            raise TypeError(
                f"data_preprocessor of {type(self).__name__} is {type(data_preprocessor).__name__} · accepted is a "
                "module called as (data, training), such as ImgDataPreprocessor(...)"
            )
        self.data_preprocessor = data_preprocessor

    def train_step(
        self, data: Any, optim_wrapper: Any, forward: Callable[..., Any] | None = None
    ) -> dict[str, Any]:
        """Run one training iteration: preprocess, ``forward(mode="loss")``, `parse_losses`, update.

        Args:
            data: A batch as the loader gives it.
            optim_wrapper: An `OptimWrapper` (an `OptimWrapperDict` for a step of your own). Its ``optim_context``
                surrounds preprocessing and forward; the total loss goes to ``update_params``.
            forward: What to call instead of ``self``: the model wrapped in DistributedDataParallel. Collective in
                that case: every rank must call.

        Returns:
            What to log: detached scalars, still on the device; ``loss`` is the total.

        Raises:
            RuntimeError: Several ranks run and ``forward`` synchronizes no gradients.
        """
        if forward is None or forward is self:
            forward = self
            check_gradients_are_synchronized(self)
        with optim_wrapper.optim_context(forward):  # pyright: ignore[reportArgumentType]
            data = self.data_preprocessor(data, True)
            losses = run_forward(forward, data, "loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return the predictions for one batch: preprocess, then ``forward(mode="predict")``.

        The caller sets ``eval()`` and ``torch.no_grad()``.
        """
        return run_forward(self, self.data_preprocessor(data, False), "predict")

    def test_step(self, data: Any) -> Any:
        """Return the predictions for one test batch; the same as `val_step` unless overridden."""
        return run_forward(self, self.data_preprocessor(data, False), "predict")

    def parse_losses(self, losses: Any) -> tuple[Tensor, dict[str, Any]]:
        """Add up the losses; see `lazyengine.model.parse_losses`. Override it to weigh them."""
        return parse_losses(losses)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute losses, predictions or raw outputs, by ``mode``; every subclass writes its own."""
        raise NotImplementedError
