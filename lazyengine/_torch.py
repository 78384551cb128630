"""Everything that leans on private parts of torch, each with the public way beside it as the fallback.

The rest of the package uses torch's public API only. `PRIVATE` is looked at on every use, so that a test, or a user
whose torch has moved a private part, can switch to the public ways: they do the same and cost a little more.
"""

# pyright: reportPossiblyUnboundVariable=false
from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, get_worker_info

from . import interpreter

try:
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm
    from torch.optim.optimizer import (
        _global_optimizer_post_hooks,
        _global_optimizer_pre_hooks,
        _use_grad_for_differentiable,
    )
    from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

    _foreach_norm: Any = getattr(torch, "_foreach_norm")  # noqa: B009
    _FOREACH: Any = {name: getattr(torch, f"_foreach_{name}") for name in ("copy_", "lerp_", "mul_")}
    _check_and_unscale: Any = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_")  # noqa: B009
    _STEP_WRAPPER: Any = Optimizer.profile_hook_step(lambda: None).__code__  # around the step of every optimizer class
    _GRAD_WRAPPER: Any = _use_grad_for_differentiable(lambda: None).__code__  # around it, sets the mode of gradients
    PRIVATE = True
except (ImportError, AttributeError):
    PRIVATE = False
_COMPILER = "torch._dynamo"
_MARK = "__dynamo_disable"  # of a function: what torch calls instead of it, so that it is not compiled


def compiled_in_place(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile(module)`` has wrapped, itself compiled now; any other as it is.

    The public way compiles anew, with the default options.
    """
    inner = module._modules.get("_orig_mod")
    if inner is None:
        return module
    if PRIVATE and hasattr(module, "dynamo_ctx"):
        inner._compiled_call_impl = module.dynamo_ctx(inner._call_impl)  # pyright: ignore
    else:
        inner.compile()
    return inner


def profiler_is_running() -> bool:
    """Return whether a profiler records at the moment; True where that cannot be known."""
    return not PRIVATE or torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]


def profiler_range(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return a range of the profiler, or nothing while none runs: a range costs as much as reading a small batch."""
    return torch.profiler.record_function(name) if profiler_is_running() else contextlib.nullcontext()


def take_step(optimizer: Optimizer, **kwargs: Any) -> None:
    """Call ``optimizer.step``; while no profiler runs and it has no hooks, without torch's wrappers.

    The range for the profiler costs more than the step of a small model; and what sets the mode of gradients imports
    the compiler, to break the graph that it may be compiling. The public way is ``optimizer.step``.
    """
    step: Any = type(optimizer).step
    if (
        not PRIVATE
        or getattr(step, "__code__", None) is not _STEP_WRAPPER
        or "step" in optimizer.__dict__
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks  # pyright: ignore[reportPossiblyUnboundVariable]
        or _global_optimizer_post_hooks  # pyright: ignore[reportPossiblyUnboundVariable]
        or torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
    ):
        optimizer.step(**kwargs)
        return
    step = step.__wrapped__
    if getattr(step, "__code__", None) is _GRAD_WRAPPER:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            step.__wrapped__(optimizer, **kwargs)
    else:
        step(optimizer, **kwargs)


def can_be_stopped_by_a_flag(optimizer: Optimizer) -> bool:
    """Return whether a flag on the device can turn the optimizer's step into nothing (``fused=True``)."""
    return PRIVATE and bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def let_a_flag_stop(optimizer: Optimizer, can_be_stopped: bool) -> None:
    """Set what `can_be_stopped_by_a_flag` returns of an optimizer of one's own."""
    optimizer._step_supports_amp_scaling = can_be_stopped  # type: ignore[attr-defined]


def start_workers(loader: DataLoader[Any]) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Return torch's iterator over a loader with workers, and these.

    The public way takes all processes that this one has started meanwhile for workers.
    """
    before = {child.pid for child in multiprocessing.active_children()}
    iterator: Any = iter(loader)
    if PRIVATE and hasattr(iterator, "_workers"):
        return iterator, iterator._workers
    return iterator, [child for child in multiprocessing.active_children() if child.pid not in before]


def handle_dying_workers(advise: Callable[[Exception], None]) -> None:
    """Let torch's handler of SIGCHLD, which raises at whatever the main thread does when a worker dies, say what to do.

    Only the main thread can set a handler; torch sets its own once in a process, with the first loader that has
    workers, and so does this.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    torch_handler = signal.getsignal(signal.SIGCHLD)
    if not callable(torch_handler) or hasattr(torch_handler, "gives_advice"):
        return

    def handler(number: int, frame: Any) -> None:
        try:
            torch_handler(number, frame)
        except RuntimeError as error:
            advise(error)
            raise

    handler.gives_advice = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handler)


def forget_workers(iterator: Any, workers: Iterable[BaseProcess]) -> None:
    """Let torch's handler say nothing more of a loader's workers, one of which dies and was told of.

    It would raise once more as soon as the worker has ended, at whatever the main thread does then. The public way
    ends them all and waits for that: of processes that were waited for the handler says nothing.
    """
    if PRIVATE and hasattr(iterator, "_worker_pids_set"):
        if iterator._worker_pids_set:
            torch._C._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        return
    left = list(workers)
    while left:
        with contextlib.suppress(RuntimeError):  # of the handler
            left[-1].kill()
            left[-1].join()
            left.pop()


def show_dataset(dataset: Any) -> None:
    """In a worker: let `get_worker_info().dataset` be this one; torch forbids the plain assignment."""
    object.__setattr__(get_worker_info(), "dataset", dataset)


def end_workers(iterator: Iterator[Any], workers: list[BaseProcess]) -> None:
    """End the workers of a loader before the interpreter ends.

    The public way kills them, after it has silenced torch's handler, which would raise an error for each.
    """
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if PRIVATE and shut_down is not None:
        shut_down()
        return
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def let_workers_start_anew(loader: Any) -> bool:
    """Let the next pass over a loader of torch's start new workers, instead of those that stay between passes.

    Returns:
        Whether that was possible. There is no public way.
    """
    if PRIVATE and hasattr(loader, "_iterator"):
        loader._iterator = None
        return True
    return False


def batch_norms() -> tuple[type[_BatchNorm], ...]:
    """Return the classes that all of torch's batch norms are of, for `isinstance`."""
    return (_BatchNorm,) if PRIVATE else (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def instance_norms() -> tuple[type[_InstanceNorm], ...]:
    """Return the classes that all of torch's instance norms are of, for `isinstance`."""
    return (_InstanceNorm,) if PRIVATE else (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def change_all(method: str, tensors: list[Tensor], *arguments: Any) -> None:
    """Call a method that works in place on each tensor, in one call where that is possible.

    Args:
        method: ``"copy_"``, ``"lerp_"`` or ``"mul_"``.
        tensors: What is changed.
        *arguments: Of the method; a list holds one for each tensor.
    """
    if PRIVATE and tensors:
        _FOREACH[method](tensors, *arguments)
        return
    for i, tensor in enumerate(tensors):
        getattr(tensor, method)(*(each[i] if isinstance(each, list) else each for each in arguments))


def holds_other_tensors(tensor: Tensor) -> bool:
    """Return whether a tensor is of a subclass that wraps others, such as a quantized or a sharded one."""
    return is_traceable_wrapper_subclass(tensor) if PRIVATE else hasattr(type(tensor), "__tensor_flatten__")


def keep_value(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of shape ``()`` that will hold the present value, without its graph and without waiting for it.

    Args:
        tensor: One element, on any device.
    """
    if tensor.__class__ is not torch.Tensor:
        if hasattr(tensor, "full_tensor"):  # a DTensor, as FSDP2 makes them
            tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        tensor = tensor.detach().clone()  # a Parameter will change in place
    tensor = tensor.detach().reshape(())
    # A fresh result is not written to again. One that was written to in place may be a buffer of the model.
    is_fresh = PRIVATE and not tensor.is_inference() and not tensor._version
    return tensor if is_fresh else tensor.clone()


def take_stoppable_step(optimizer: Optimizer, flag: Tensor | None, **kwargs: Any) -> None:
    """Step an optimizer; a flag on its device that is 1.0 turns the step into nothing (see above), as GradScaler does.

    Args:
        optimizer: The optimizer.
        flag: The flag, shape `()`; None steps in any case.
        **kwargs: Arguments of its `step`.
    """
    stopped: Any = optimizer
    stopped.grad_scale, stopped.found_inf = None, flag
    try:
        optimizer.step(**kwargs)
    finally:
        del stopped.grad_scale, stopped.found_inf


def overflow_flags(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> list[Tensor] | None:
    """Return the flags of the scaler, one a device, that are 1.0 where `unscale_` met an overflow.

    None without the private part: the caller looks at the gradients, and sets the scale itself on a rank that had none.
    """
    return list(scaler._found_inf_per_device(optimizer).values()) if PRIVATE else None


def norms_of(tensors: list[Tensor], norm_type: float) -> list[Tensor]:
    """Return the norm of each tensor, shape `()`; all of one device and dtype."""
    if PRIVATE:
        return _foreach_norm(tensors, norm_type)
    return [torch.linalg.vector_norm(tensor, norm_type) for tensor in tensors]


def set_where_nonfinite(found: Tensor, tensors: list[Tensor], one: Tensor) -> bool:
    """Set `found` to 1.0 where an element of the tensors is not finite; return False where that cannot be done so.

    The kernel of torch's GradScaler, whose multiplication by `one` leaves the tensors as they are. It takes no sparse,
    sharded or complex tensors; the public way is `torch.isfinite` on each.
    """
    if not PRIVATE:
        return False
    try:
        _check_and_unscale(tensors, found, one)
    except RuntimeError:
        return False
    return True


def spare_compiler() -> None:
    """Let optimizers do without torch's compiler until something else imports it, which takes as long as torch itself.

    torch marks these methods as not to be compiled, and the mark imports the compiler at a first call. Without it
    nothing is compiled, and the method alone does the same.
    """
    if PRIVATE:
        for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
            marked = getattr(Optimizer, name)
            method = getattr(marked, "__wrapped__", None)
            if method is not None and not hasattr(method, _MARK):
                setattr(method, _MARK, _until_compiler(method, marked))


def _until_compiler(method: Callable[..., Any], marked: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER not in sys.modules:
            return method(*args, **kwargs)
        if getattr(method, _MARK, None) is call:
            delattr(method, _MARK)  # from here on as torch has it
        return marked(*args, **kwargs)

    return call


def spare_storage_warning() -> None:
    """Let torch 2.9, which warns once in a process of typed storages, not do so of its own writing of shards.

    The public way is to hear the warning.
    """
    warn: Any = getattr(torch.storage, "_warn_typed_storage_removal", None)
    if PRIVATE and warn is not None:
        warn.has_warned = True


def fake_tensors() -> Any:
    """Return the mode in which tensors have shapes and no memory, or None without the private part.

    Inside it everything computes as in real, with the kernels of the device that a tensor claims to be on, apart from
    the values; what asks for one raises an error. There is no public way: a model has to be run in real.
    """
    if not PRIVATE:
        return None
    with interpreter.paused():
        importlib.import_module(_COMPILER)
        from torch._subclasses import fake_tensor  # seconds, for the command that plans
    setattr(fake_tensor.FakeTensor, "__deepcopy__", _copy_fake)  # noqa: B010 - torch's copies memory that is not there
    return fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)


def _copy_fake(tensor: Any, memo: dict[int, Any]) -> Any:
    if id(tensor) not in memo:
        with torch.no_grad():
            made = memo[id(tensor)] = tensor.clone().requires_grad_(tensor.requires_grad)
        if getattr(tensor, "_is_param", False):
            made._is_param = True
    return memo[id(tensor)]


def record_memory_history() -> bool:
    """Let CUDA's allocator note from where each block was asked for; return False where that cannot be done.

    There is no public way: a snapshot then has the blocks alone.
    """
    if not PRIVATE or not torch.cuda.is_available():
        return False
    torch.cuda.memory._record_memory_history(max_entries=100_000)
    return True


def write_memory_snapshot(path: str) -> bool:
    """Write what CUDA's allocator holds, for pytorch.org/memory_viz; return False where that cannot be done."""
    if not PRIVATE or not torch.cuda.is_initialized():
        return False
    torch.cuda.memory._dump_snapshot(path)
    return True


def watching_operators(run: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> contextlib.AbstractContextManager:
    """Return a context in which `run(operator, args, kwargs)` is called in the place of each operator of torch.

    Raises:
        NotImplementedError: This torch has no such part, and there is no public way.
    """
    if not PRIVATE:
        raise NotImplementedError("this version of torch has no dispatch mode, by which operators could be watched")

    class Watching(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:  # importing the compiler takes longer than what is watched
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return run(func, args, kwargs or {})

    return Watching()
