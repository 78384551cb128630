"""A model out of a bare network and a loss function, without subclassing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .base_model import BaseModel
from .base_module import BaseModule, InitCfg

__all__ = ["LossAdapter"]

TARGET_KEYS = ("labels", "label", "targets", "target")


class LossAdapter(BaseModel):
    """Trains any network: one of ``torch.nn``, timm or torchvision with a loss function, or one that computes its own.

    **Batches.** From a list or tuple the last item is the target and the others go to the network by position. From a
    dict, ``target`` names the target and ``inputs`` the entries for the network, in order; without ``inputs`` all
    other entries go to it: by keyword where its forward has such a parameter, and a single one by position
    otherwise.

    **Loss.** ``loss_fn(output, target)``, a tensor or a dict of losses. Without ``loss_fn`` the network also gets
    the target by keyword and its output carries ``.loss``, as the models of transformers do.

    **Predictions** (``val_step``, ``test_step``) are a dict of tensors whose first dimension is the batch: ``scores``
    (the output, or its ``.logits``) and, if the batch has a target, ``label``. With ``predict_loss`` they also hold
    ``loss``, shape ``()``. ``predict_fn`` makes something else of them.

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
            raise TypeError(f"network of LossAdapter is {type(network).__name__} · accepted is a torch.nn.Module")
        for name, function in (("loss_fn", loss_fn), ("predict_fn", predict_fn)):
            if function is not None and (isinstance(function, type) or not callable(function)):
                raise TypeError(
                    f"{name} of LossAdapter is {function!r} · accepted is a function or a built loss module"
                )
        self.network = network
        self.loss_fn = loss_fn
        self.inputs = (inputs,) if isinstance(inputs, str) else None if inputs is None else tuple(inputs)
        self.target = target
        self.predict_fn = predict_fn
        self.predict_loss = predict_loss
        parameters = inspect.signature(network.forward).parameters.values()
        self._keywords = {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_POSITIONAL}
        self._takes_any_keyword = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
        self.register_load_state_dict_pre_hook(_accept_bare_keys)

    def forward(self, *args: Any, mode: str = "tensor", **batch: Any) -> Any:
        """Return losses, predictions or the network's output, by ``mode``; see the class for what goes in.

        Raises:
            ValueError: ``mode`` is unknown, or the target cannot be told from the inputs.
        """
        args, batch, target = self._split(args, batch)
        if mode not in ("loss", "predict", "tensor"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
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
                predictions["loss"] = self.parse_losses(self._losses(output, target))[0]
        return predictions

    def children_to_init(self) -> Iterable[nn.Module]:
        """Return the children that `init_weights` descends into: not a foreign network, which its maker initialized."""
        return (child for child in self.children() if isinstance(child, BaseModule))

    def _losses(self, output: Any, target: Any) -> Mapping[str, Any]:
        if self.loss_fn is None:
            loss = getattr(output, "loss", None)
            if not isinstance(loss, Tensor):
                raise ValueError(
                    f"{type(self.network).__name__} returned {type(output).__name__} without a .loss, and LossAdapter "
                    "has no loss_fn · give loss_fn, or make sure that the batch holds the labels"
                )
        else:
            loss = self.loss_fn(output, target)
        return loss if isinstance(loss, Mapping) else {"loss": loss}

    def _split(self, args: tuple[Any, ...], batch: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return what goes to the network by position, by keyword, and the target."""
        if args:
            if len(args) == 1:
                return args, batch, None
            return args[:-1], batch, args[-1]
        key = self._target_key(batch)
        target = None if key is None else batch[key]
        if self.inputs is not None:
            missing = [name for name in self.inputs if name not in batch]
            if missing:
                raise ValueError(f"LossAdapter: inputs {missing} are not in the batch, which holds {list(batch)}")
            args = tuple(batch[name] for name in self.inputs)
            return args, {key: target} if self.loss_fn is None and key is not None else {}, target
        rest = {name: value for name, value in batch.items() if name != key or self.loss_fn is None}
        if not self._takes_any_keyword and len(rest) == 1 and not rest.keys() <= self._keywords:
            return tuple(rest.values()), {}, target
        if self._takes_any_keyword or rest.keys() <= self._keywords:
            return (), rest, target
        unknown = sorted(rest.keys() - self._keywords)
        raise ValueError(
            f"LossAdapter: {type(self.network).__name__}.forward has no parameter {unknown}; the batch holds "
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
