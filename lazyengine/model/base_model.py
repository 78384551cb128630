"""The model of an experiment: a flow around ``forward`` that prepares data, parses losses and updates weights.

`BaseModel` is subclassed; `LossAdapter` makes one out of a bare network and a loss function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..dist import is_distributed
from ..errors import UsageTypeError
from .base_module import BaseModule, InitCfg
from .data_preprocessor import BaseDataPreprocessor
from .step import accepted, check_gradients_are_synchronized, is_aside, parameters_of, parse_losses, run_forward
from .weighted import Weighted, lost_labels, mean_of, token_loss

TARGET_KEYS = ("labels", "label", "targets", "target")


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
            raise UsageTypeError(f"{type(self).__name__} has no forward · write forward(self, ..., mode='tensor')")
        if data_preprocessor is None:
            data_preprocessor = BaseDataPreprocessor()
        elif not isinstance(data_preprocessor, nn.Module):
            raise UsageTypeError(
                f"data_preprocessor of {type(self).__name__} is {type(data_preprocessor).__name__} · accepted is a "
                "module called as (data, training), such as ImgDataPreprocessor(...)"
            )
        self.data_preprocessor = data_preprocessor

    def train_step(self, data: Any, optim_wrapper: Any, forward: Callable[..., Any] | None = None) -> dict[str, Any]:
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
            if is_distributed():
                check_gradients_are_synchronized(self)
        with optim_wrapper.optim_context(forward):  # pyright: ignore[reportArgumentType]
            data = self.data_preprocessor(data, True)
            losses = run_forward(forward, accepted(self, data), "loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> Any:
        """Return the predictions for one batch: preprocess, then ``forward(mode="predict")``.

        The caller sets ``eval()`` and ``torch.no_grad()``.
        """
        return self._run_forward(self.data_preprocessor(data, False), "predict")

    def test_step(self, data: Any) -> Any:
        """Return the predictions for one test batch; the same as `val_step` unless overridden."""
        return self._run_forward(self.data_preprocessor(data, False), "predict")

    def parse_losses(self, losses: Any) -> tuple[Any, dict[str, Any]]:
        """Add up the losses; see `lazyengine.model.parse_losses`. Override it to weigh them."""
        return parse_losses(losses)

    def _run_forward(self, data: Any, mode: str) -> Any:
        """Call the model with an unpacked batch (mmengine's name, for steps of your own); see `run_forward`."""
        return run_forward(self, accepted(self, data), mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute losses, predictions or raw outputs, by ``mode``; every subclass writes its own."""
        raise NotImplementedError


class LossAdapter(BaseModel):
    """Trains any network: one of ``torch.nn``, timm or torchvision with a loss function, or one that computes its own.

    **Batches.** From a list or tuple the last item is the target and the others go to the network by position. From a
    dict, ``target`` names the target and ``inputs`` the entries for the network, in order; without ``inputs`` all
    other entries go to it: by keyword where its forward has such a parameter, and a single one by position
    otherwise.

    **Loss.** ``loss_fn(output, target)``, a tensor or a dict of losses. Without ``loss_fn`` the network also gets
    the target by keyword and its output carries ``.loss``, as the models of transformers do. Where some targets are
    ignored (torch's cross-entropy over tokens or pixels, language models of transformers), the loss goes by sum and
    count (`Weighted`), so that every token weighs alike.

    **Predictions** (``val_step``, ``test_step``) are a dict of tensors whose first dimension is the batch: ``scores``
    (the output, or its ``.logits``) and, if the batch has a target, ``label``. With ``predict_loss`` they also hold
    ``loss``, shape ``()``, and ``num`` where that is a mean over so many tokens. ``predict_fn`` makes something else
    of them.

    **State keys** begin with ``network.``, as parameter names and ``freeze`` patterns do. A state dict of the bare
    network, where no key begins with it, loads as well. ``adapter.network.state_dict()`` is the bare network's
    again.

    Args:
        network: The bare network. Its own ``init_weights`` is only called when it is a `BaseModule`: in timm and
            others that method would wipe out pretrained weights.
        loss_fn: Called as ``loss_fn(output, target)``; None if the network computes its loss.
        inputs: Keys of a dict batch that go to the network by position.
        target: Key of the target in a dict batch; None takes the only one of ``labels, label, targets, target``.
        predict_fn: Called as ``predict_fn(output, target)`` instead of the default predictions; the target may be
            None.
        predict_loss: Compute the loss for predictions too.
        data_preprocessor: As in `BaseModel`.
        init_cfg: As in `BaseModel`.

    Raises:
        TypeError: ``network`` is not a module or a function cannot be called.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        *,
        inputs: str | Sequence[str] | None = None,
        target: str | None = None,
        predict_fn: Callable[[Any, Any], Any] | None = None,
        predict_loss: bool = False,
        data_preprocessor: nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not isinstance(network, nn.Module):
            raise UsageTypeError(f"network of LossAdapter is {type(network).__name__} · accepted is a torch.nn.Module")
        for name, function in (("loss_fn", loss_fn), ("predict_fn", predict_fn)):
            if function is not None and (isinstance(function, type) or not callable(function)):
                raise UsageTypeError(
                    f"{name} of LossAdapter is {function!r} · accepted is a function or a built loss module"
                )
        self.network = network
        self.loss_fn = loss_fn
        self.inputs = (inputs,) if isinstance(inputs, str) else None if inputs is None else tuple(inputs)
        self.target = target
        self.predict_fn = predict_fn
        self.predict_loss = predict_loss
        self.register_load_state_dict_pre_hook(_accept_bare_keys)

    def forward(self, *args: Any, mode: str = "tensor", **batch: Any) -> Any:
        """Return losses, predictions or the network's output, by ``mode``; see the class for what goes in.

        Raises:
            ValueError: ``mode`` is unknown, or the target cannot be told from the inputs.
        """
        args, batch, target = self._split(args, batch)
        if mode not in ("loss", "predict", "tensor"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
        if mode != "tensor" and self._num_lost(target) is not None:
            batch = {**batch, "num_items_in_batch": 1}  # the loss is then a sum
        output = self.network(*args, **batch)
        if mode == "tensor":
            return output
        if mode == "loss":
            return self._losses(output, target)
        if self.predict_fn is not None:
            return self.predict_fn(output, target)
        predictions = {"scores": getattr(output, "logits", output)}
        if target is not None:
            predictions["label"] = target
            if self.predict_loss:
                loss = self.parse_losses(self._losses(output, target))[0]
                predictions["loss"] = mean_of(loss)
                if isinstance(loss, Weighted):
                    predictions["num"] = torch.as_tensor(loss.count)
        return predictions

    def children_to_init(self) -> Iterable[nn.Module]:
        """Return the children that `init_weights` descends into: not a foreign network, which its maker initialized."""
        return (child for child in self.children() if isinstance(child, BaseModule))

    def _losses(self, output: Any, target: Any) -> Mapping[str, Any]:
        if self.loss_fn is None:
            loss = getattr(output, "loss", None)
            num_lost = self._num_lost(target)
            if isinstance(loss, Tensor) and num_lost is not None:
                loss = Weighted(loss, (target[..., num_lost:] != -100).sum())
        else:
            loss = token_loss(self.loss_fn, output, target) or self.loss_fn(output, target)
        if self.loss_fn is None and not isinstance(loss, Tensor | Weighted):
            raise ValueError(
                f"{type(self.network).__name__} returned {type(output).__name__} without a .loss, and LossAdapter "
                "has no loss_fn · give loss_fn, or make sure that the batch holds the labels"
            )
        return loss if isinstance(loss, Mapping) else {"loss": loss}

    def _num_lost(self, target: Any) -> int | None:
        return lost_labels(self.network) if self.loss_fn is None and target is not None else None

    def _split(self, args: tuple[Any, ...], batch: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return what goes to the network by position, by keyword, and the target."""
        if args:
            return (args, batch, None) if len(args) == 1 else (args[:-1], batch, args[-1])
        key = self._target_key(batch)
        target = None if key is None else batch[key]
        if self.inputs is not None:
            missing = [name for name in self.inputs if name not in batch]
            if missing:
                raise ValueError(f"LossAdapter: inputs {missing} are not in the batch, which holds {list(batch)}")
            args = tuple(batch[name] for name in self.inputs)
            return args, {key: target} if self.loss_fn is None and key is not None else {}, target
        rest = {name: value for name, value in batch.items() if name != key or self.loss_fn is None}
        names = parameters_of(self.network)
        if any(parameter.kind == parameter.VAR_KEYWORD for parameter in names.values()):
            return (), rest, target
        rest = {name: value for name, value in rest.items() if name in names or not is_aside(name, value)}
        unknown = [name for name in rest if name not in names]
        if not unknown:
            return (), rest, target
        if len(rest) == 1:
            return tuple(rest.values()), {}, target
        raise ValueError(
            f"LossAdapter: {type(self.network).__name__}.forward has no parameter {sorted(unknown)}; the batch holds "
            f"{list(batch)} and the target is {key!r} · name the entries for the network with inputs=[...] and the "
            "target with target="
        )

    def _target_key(self, batch: dict[str, Any]) -> str | None:
        if self.target is not None:
            return self.target if self.target in batch else None
        found = [key for key in TARGET_KEYS if key in batch]
        if len(found) > 1:
            raise ValueError(
                f"LossAdapter: the batch holds {found}, any of which may be the target · name it with target="
            )
        return found[0] if found else None


def _accept_bare_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Put ``network.`` before the keys of a state dict that was saved from the bare network."""
    own = [key for key in state_dict if key.startswith(prefix)]
    if not any(key.startswith(f"{prefix}network.") for key in own):
        for key in own:
            state_dict[f"{prefix}network.{key[len(prefix) :]}"] = state_dict.pop(key)
