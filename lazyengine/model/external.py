"""Parts that a model uses and that do not belong to it, such as the teacher of a distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ExternalModule(nn.Module):
    """Holds a frozen module that the model around it uses, and that is no part of it.

    Its parameters are in no state dict, optimizer, wrapper (DDP, FSDP2) or average of the model, and it always
    evaluates; gradients pass through it to its inputs. It moves with the model to a device. Its weights come from its
    own constructor in every start; a resume makes sure, by a hash, that they are those with which the run began, so it
    is not for a teacher that is itself an average of the model.

    Args:
        module: Its parameters stop to require gradients. What it has is also reached through this one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module.requires_grad_(False).eval()  # not registered as a child

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if "module" not in self.__dict__:  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.__dict__["module"], name)

    def __deepcopy__(self, memo: Any) -> ExternalModule:
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> ExternalModule:
        self.module._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        return type(self.module).__name__


def external_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model's external parts, by their names."""
    parts = {name: part for name, part in model.named_modules() if isinstance(part, ExternalModule)}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.module.state_dict().items()}
