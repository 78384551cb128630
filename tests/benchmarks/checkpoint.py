"""Saving: how long the loop stands still, how fast it is while a thread writes, and how long a whole save takes."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from .ddp import TWO_RANKS
from .table import Options, Row, Sample, Samples, in_process, rows_over, take_turns

WIDTH = 2048  # of the layers: 16 MB of weights each, 48 MB with the state of AdamW
OURS = "lazyengine, asynchronous"


def run(options: Options) -> list[Row]:
    """Return the rows of a checkpoint of 576 MB (192 MB with --quick)."""
    mb = options.checkpoint_mb or (192 if options.quick else 576)
    found = in_process("checkpoint:measure", mb=mb, rounds=options.rounds, peers=options.find_peers(["mmengine"]))
    with tempfile.TemporaryDirectory() as folder:  # that both ranks know
        split = in_process("checkpoint:measure_split", TWO_RANKS, mb=mb, rounds=options.rounds, folder=folder)
    ms: dict[str, Any] = {"unit": "ms", "scale": 1e3}
    work = f"checkpoint {mb} MB: "
    return [
        *rows_over("copy into kept memory", found["blocked"], work + "loop stands", {OURS: "<= 1.15"}, **ms),
        *rows_over("copy into kept memory", split, work + "split over 2 ranks, loop stands", {OURS: "<= 1.2"}, **ms),
        *rows_over("write + fsync", found["whole"], work + "whole save", {"lazyengine": "<= 1.5"}, **ms),
        *rows_over("nothing written", found["beside"], work + "iteration meanwhile", {OURS: "<= 1.15"}),
    ]


def measure(mb: int, rounds: int, peers: list[str]) -> dict[str, Samples]:
    """In a fresh process: all ways of saving one model and optimizer, in turns."""
    import torch
    from torch import nn

    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(max(1, round(mb / 48)))))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, WIDTH)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    tensors = [*state["model"].values(), *(t for s in optimizer.state.values() for t in s.values())]
    kept = [tensor.clone() for tensor in tensors]
    # A virtual machine gets memory from its host at the first touch, and slowly: touch what the files' pages will take.
    torch.ones(6 * mb, 2**18).sum()
    with tempfile.TemporaryDirectory() as folder:
        in_background = asynchronous(model, optimizer, f"{folder}/background")

        def copy() -> None:
            for target, source in zip(kept, tensors):
                target.copy_(source)

        def stand() -> Sample:
            start = time.perf_counter()
            wait = in_background()
            sample = {"wall": time.perf_counter() - start}
            wait()
            return sample

        def write() -> None:
            with open(f"{folder}/raw", "wb", buffering=0) as file:
                for tensor in tensors:
                    data = memoryview(tensor.detach().reshape(-1).numpy()).cast("B")
                    while data:
                        data = data[file.write(data) :]
                os.fsync(file.fileno())

        def in_thread() -> Callable[[], None]:
            thread = threading.Thread(target=torch.save, args=(state, f"{folder}/thread.pth"))
            thread.start()
            return thread.join

        def mmengine() -> None:
            from mmengine.runner import save_checkpoint, weights_to_cpu

            whole = {"state_dict": weights_to_cpu(model.state_dict()), "optimizer": optimizer.state_dict()}
            save_checkpoint(whole, f"{folder}/mmengine.pth")

        theirs = {"mmengine": mmengine} if peers else {}
        whole = {"write + fsync": write, "lazyengine": synchronous(model, optimizer, f"{folder}/whole")}
        whole |= {"torch.save": lambda: torch.save(state, f"{folder}/torch.pth"), **theirs}
        samples = {"blocked": take_turns({"copy into kept memory": copy, OURS: stand, **theirs}, rounds)}
        samples["whole"] = take_turns({name: _on_a_quiet_disk(save) for name, save in whole.items()}, rounds)
        torch.set_num_threads(1)
        step = _small_step()
        saves = {"nothing written": None, OURS: in_background, "torch.save in a thread": in_thread}
        samples["beside"] = take_turns({n: lambda s=s: _time_steps(step, s) for n, s in saves.items()}, rounds)
    return samples


def measure_split(mb: int, rounds: int, folder: str) -> Samples:
    """On each of two ranks: saves in the background of a model that FSDP2 splits, in a run; beside copies by hand."""
    import torch
    from torch import nn

    from lazyengine.config import LazyCall as L
    from lazyengine.config import instantiate
    from lazyengine.dataset import DataLoader
    from lazyengine.dist import init_dist
    from lazyengine.hooks import Hook
    from lazyengine.model import FSDP2, ModelSetup
    from lazyengine.optim import OptimWrapper, param_groups
    from lazyengine.runner import IterBasedTrainLoop, Runner

    from .training import BATCH_SIZE, WithLoss

    samples: Samples = {"copy into kept memory": [], OURS: []}
    kept: list[torch.Tensor] = []

    class Saves(Hook):
        @torch.no_grad()
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            states = runner.optim_wrapper.optimizer.state.values()
            tensors = [*runner.model.parameters(), *(v for each in states for v in each.values() if v.ndim)]
            parts: list[torch.Tensor] = [tensor.to_local() for tensor in tensors]  # type: ignore[operator]
            kept.extend(part.clone() for part in parts[len(kept) :])
            torch.distributed.barrier()
            begin = time.perf_counter()
            for target, source in zip(kept, parts):
                target.copy_(source)
            copied = time.perf_counter() - begin
            torch.distributed.barrier()
            begin = time.perf_counter()
            runner.save_checkpoint("last.pth", async_save=True)
            stood = time.perf_counter() - begin
            runner.wait_for_checkpoints()
            if runner.iter:  # not the first, which takes the memory
                samples["copy into kept memory"].append({"wall": copied})
                samples[OURS].append({"wall": stood})

    torch.set_num_threads(1)
    init_dist("pytorch")
    data = [(torch.randn(WIDTH), number % 10) for number in range(2 * BATCH_SIZE)]
    layers = [L(nn.Linear)(WIDTH, WIDTH, bias=False) for _ in range(max(1, round(mb / 48)))]
    model = L(WithLoss)(net=L(nn.Sequential)(*layers))
    node = L(Runner)(
        model=model,
        train_loop=L(IterBasedTrainLoop)(dataloader=DataLoader(data, BATCH_SIZE), max_iters=rounds + 1),
        optim_wrapper=L(OptimWrapper)(optimizer=L(torch.optim.AdamW)(params=L(param_groups)(model=model))),
        model_setup=ModelSetup(wrapper=FSDP2("net")),
        hooks=[Saves()],
        work_dir=folder,
    )
    instantiate(node).train()
    return samples


def _on_a_quiet_disk(save: Callable[[], Any]) -> Callable[[], Sample]:
    """Time a save; what others have left to be written is written before, so that no fsync waits for it."""

    def timed() -> Sample:
        os.sync()
        wall, cpu = time.perf_counter(), time.process_time()
        save()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    return timed


def _time_steps(step: Callable[[], None], save: Callable[[], Callable[[], None]] | None) -> Sample:
    """Microseconds of an iteration: for half a second, or until what `save` began is on disk."""
    wait = (lambda: time.sleep(0.5)) if save is None else save()
    thread = threading.Thread(target=wait)
    thread.start()
    num_steps, cpu, wall = 0, time.thread_time(), time.perf_counter()
    while thread.is_alive():
        step()
        num_steps += 1
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    return {"wall": wall / max(num_steps, 1) * 1e6, "cpu": cpu / max(num_steps, 1) * 1e6}


def _small_step() -> Callable[[], None]:
    """An iteration of about a millisecond."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(64, 256)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def synchronous(model: Any, optimizer: Any, folder: str, async_save: bool = False) -> Callable[[], Any]:
    """Return a function that saves; it returns None, or with `async_save` what waits until the file is on disk."""
    from lazyengine.checkpoint import CheckpointWriter, get_state_dict

    os.makedirs(folder, exist_ok=True)
    writer = CheckpointWriter(async_save)

    def save() -> Any:
        state = {"state_dict": get_state_dict(model), "optimizer": optimizer.state_dict()}
        writer.save(state, os.path.join(folder, "last.pth"))
        return writer.wait if async_save else None

    return save


def asynchronous(model: Any, optimizer: Any, folder: str) -> Callable[[], Any]:
    """`synchronous` with `async_save`."""
    return synchronous(model, optimizer, folder, async_save=True)
