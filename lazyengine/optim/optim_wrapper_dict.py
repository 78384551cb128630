"""Several optimizers under their names, as a GAN has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any, NoReturn

from torch import Tensor, nn

from lazyengine.dist import get_world_size

from .amp import AmpOptimWrapper
from .optim_wrapper import OptimWrapper


class OptimWrapperDict(Mapping[str, OptimWrapper]):
    """A mapping from names to optimizer wrappers, saved and resumed together.

    The model's ``train_step`` picks each by its name: ``optim_wrapper["generator"].update_params(loss)``. What would be
    ambiguous for all of them (`update_params`, `backward`, `step`, `optim_context`) is an error that says so.

    Args:
        **optim_wrappers: The wrappers by name.

    Raises:
        TypeError: If a value is no `OptimWrapper`.
        ValueError: If there is none, or two wrappers share a parameter.
    """

    def __init__(self, **optim_wrappers: OptimWrapper) -> None:
        if not optim_wrappers:
            raise ValueError("OptimWrapperDict needs at least one OptimWrapper: OptimWrapperDict(generator=..., ...)")
        owner: dict[int, str] = {}
        for name, wrapper in optim_wrappers.items():
            if not isinstance(wrapper, OptimWrapper):
                raise TypeError(f"OptimWrapperDict takes OptimWrapper objects; {name} is a {type(wrapper).__name__}")
            for parameter in (p for group in wrapper.param_groups for p in group["params"]):
                other = owner.setdefault(id(parameter), name)
                if other != name:
                    shape = tuple(parameter.shape)
                    raise ValueError(
                        f"a parameter of shape {shape} is in both {other!r} and {name!r}: it would be updated twice"
                    )
        self.optim_wrappers = dict(optim_wrappers)

    def __getitem__(self, name: str) -> OptimWrapper:
        try:
            return self.optim_wrappers[name]
        except KeyError:
            close = get_close_matches(str(name), self.optim_wrappers, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise KeyError(f"no optimizer {name!r}; there are {list(self.optim_wrappers)}{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.optim_wrappers)

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    # ------------------------------------------------------------------ by name only
    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible for all wrappers at once: call it on one of them."""
        self._refuse("update_params(loss)")

    def backward(self, loss: Tensor, **kwargs: Any) -> NoReturn:
        """Not possible for all wrappers at once: call it on one of them."""
        self._refuse("backward(loss)")

    def step(self, **kwargs: Any) -> NoReturn:
        """Not possible for all wrappers at once: call it on one of them."""
        self._refuse("step()")

    def optim_context(self, model: nn.Module) -> NoReturn:
        """Not possible for all wrappers at once: call it on one of them."""
        self._refuse("optim_context(model)")

    def _refuse(self, call: str) -> NoReturn:
        first = next(iter(self.optim_wrappers))
        raise NotImplementedError(
            f"which of the optimizers {list(self.optim_wrappers)} is meant? Call it on one: "
            f"optim_wrapper[{first!r}].{call}"
        )

    # ------------------------------------------------------------------ all together
    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all optimizers."""
        for wrapper in self.optim_wrappers.values():
            wrapper.zero_grad(**kwargs)

    def autocast_context(self, model: nn.Module | None = None) -> AbstractContextManager[Any]:
        """Return the context for validation: that of the first mixed-precision wrapper, else one that does nothing."""
        for wrapper in self.optim_wrappers.values():
            if isinstance(wrapper, AmpOptimWrapper):
                return wrapper.autocast_context(model)
        return nullcontext()

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Do nothing: how often each wrapper is called in an iteration is up to the model's ``train_step``.

        Each wrapper counts for itself, and its count is saved. A wrapper that accumulates leaves out an incomplete
        accumulation at the end of the run, unless its own method is called with its own numbers.
        """

    @property
    def num_optimizer_steps(self) -> int:
        """Number of completed optimizer steps of all wrappers together; each also has its own."""
        return sum(wrapper.num_optimizer_steps for wrapper in self.optim_wrappers.values())

    @property
    def at_step_boundary(self) -> bool:
        """Whether no wrapper holds gradients that wait for the rest of their accumulation."""
        return all(wrapper.at_step_boundary for wrapper in self.optim_wrappers.values())

    @property
    def can_be_saved(self) -> bool:
        """Whether a checkpoint made now loses no gradients.

        In a single process always, since its state holds those that wait: the wrappers need never stand at a step
        together. The gradients of several ranks differ and are in none; there all have to stand at one.
        """
        return self.at_step_boundary or get_world_size() == 1

    @property
    def param_groups(self) -> dict[str, list[dict[str, Any]]]:
        """The parameter groups by the name of the wrapper (no copies)."""
        return {name: wrapper.param_groups for name, wrapper in self.optim_wrappers.items()}

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{"<name>.lr": [...]}`` of every wrapper."""
        return {f"{name}.lr": wrapper.get_lr()["lr"] for name, wrapper in self.optim_wrappers.items()}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{"<name>.momentum": [...]}`` of every wrapper."""
        return {f"{name}.momentum": wrapper.get_momentum()["momentum"] for name, wrapper in self.optim_wrappers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every wrapper by its name."""
        return {name: wrapper.state_dict() for name, wrapper in self.optim_wrappers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: If the names are not the same.
        """
        if set(state_dict) != set(self.optim_wrappers):
            raise ValueError(
                f"the saved optimizers are {sorted(map(str, state_dict))}, these are {sorted(self.optim_wrappers)}"
            )
        for name, wrapper in self.optim_wrappers.items():
            try:
                wrapper.load_state_dict(state_dict[name])
            except Exception as error:
                error.add_note(f"while loading the optimizer {name!r}")
                raise

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={wrapper!r}" for name, wrapper in self.optim_wrappers.items())
        return f"OptimWrapperDict({inside})"
