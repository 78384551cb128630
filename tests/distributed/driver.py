"""Run by torchrun in each of two ranks: ``driver.py kill FOLDER`` or ``driver.py checks FOLDER``.

The checks share one process group, since starting one takes longer than all of them. ``FOLDER/alone.pt`` holds what one
process did with the same global batches (see test_two_ranks.py). Each rank writes ``FOLDER/results<rank>.json``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lazyengine import dist
from lazyengine.checkpoint import read_checkpoint
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.hooks import Hook, LoggerHook
from lazyengine.logging import MessageHub
from lazyengine.model import FSDP2, ModelSetup
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop
from lazyengine.runner.sharing import check_sampler_is_distributed
from tests.distributed.experiment import (
    SEVERAL_THINGS,
    MetaNet,
    Net,
    NormNet,
    Points,
    assert_close,
    assert_same,
    averaging,
    curve,
    experiment,
    saving_often,
    several_hooks,
    weights,
)
from tests.distributed.launching import STEP_LIMIT_S


class At(Hook):
    """Does something after an iteration."""

    priority = "LOWEST"

    def __init__(self, iteration: int, action: Callable[[], None]) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action()


def interrupt() -> None:
    """End the run on this rank; the other does the same."""
    raise InterruptedError("interrupted")


def kill_rank_1() -> None:
    """Die without a word, on one rank."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def kill(folder: Path) -> None:
    """Begin the run that `resumed_after_a_kill` continues; rank 1 dies in it."""
    experiment(folder / "killed", hooks={**saving_often(), "kill": At(10, kill_rank_1)}).train()


# ---------------------------------------------------------------- checks
def as_one_process(folder: Path, alone: dict[str, Any]) -> None:
    """The curve, the data order, the metrics, and one writer of everything."""
    runner = experiment(folder / "ddp")
    runner.train()
    assert_close(curve(runner), alone["curve"], rtol=1e-5)
    for key, value in alone["weights"].items():
        torch.testing.assert_close(weights(runner)[key], value, rtol=1e-4, atol=1e-6)
    batches = dist.all_gather_object(runner.model.batches)
    assert [[i for pair in zip(*parts) for i in pair] for parts in zip(*batches)] == alone["batches"]
    if dist.is_main_process():
        assert [index for index, _ in runner.val_loop.evaluators[""].metrics[0].seen] == list(range(13))
    assert_close(curve(runner, "val/error"), alone["val"], rtol=1e-5)
    assert len(set(dist.all_gather_object(json.dumps([curve(runner), curve(runner, "val/error")])))) == 1
    assert len(set(dist.all_gather_object(runner.log_dir))) == 1
    dist.barrier()
    names = {path.name for path in (folder / "ddp").iterdir()}
    best = {name for name in names if name.startswith("best_error_epoch_")}
    assert len(best) == 1
    assert names - best == {
        runner.timestamp,
        "run.json",
        "code",
        "last_checkpoint",
        *(f"epoch_{i}.pth" for i in (1, 2, 3)),
    }
    (log,) = Path(runner.log_dir).glob("*.log")
    assert log.read_text().count("saving epoch_2.pth") == 1
    lines = [json.loads(line) for line in Path(runner.log_dir, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [4, 10, 16]
    assert_close([line["loss"] for line in lines if "loss" in line], alone["logged"], rtol=1e-5)
    assert len(list(Path(runner.log_dir, "tensorboard").iterdir())) == 1


def resumed_after_a_kill(folder: Path, alone: dict[str, Any]) -> None:
    """Rank 1 was killed at iteration 10 of the run in ``killed``; iteration 8 is saved."""
    whole = experiment(folder / "whole", hooks=saving_often())
    whole.train()
    resumed = experiment(folder / "killed", hooks=saving_often(), resume=True)
    resumed.train()
    assert len(whole.model.batches) - len(resumed.model.batches) == 8
    assert_same(weights(resumed), weights(whole))
    assert curve(resumed) == curve(whole)
    assert curve(resumed, "val/error") == curve(whole, "val/error")
    assert resumed.optim_wrapper.state_dict()["param_groups"] == whole.optim_wrapper.state_dict()["param_groups"]


def several_things_at_once(folder: Path, alone: dict[str, Any]) -> None:
    """Accumulation, EMA, bfloat16, clipping, the best checkpoint and early stopping decide as in one process."""
    hooks = several_hooks()
    runner = experiment(folder / "several", global_batch=4, max_epochs=6, hooks=hooks, **SEVERAL_THINGS)
    runner.train()
    expected = alone["several"]
    assert (runner.epoch, runner.optim_wrapper.num_optimizer_steps) == expected["stopped"]
    assert runner.epoch < 6
    assert set(dist.all_gather_object((runner.epoch, hooks["early"].reason))) == {(runner.epoch, hooks["early"].reason)}
    assert_close(curve(runner), expected["curve"], rtol=2e-2, atol=1e-3)  # bfloat16 has 8 bits
    assert_close(curve(runner, "val/error"), expected["val"], rtol=2e-2)
    average = dict(hooks["ema"].ema_model.module.state_dict())
    for key, value in expected["ema"].items():
        torch.testing.assert_close(average[key], value, rtol=2e-2, atol=2e-3)
    for state in (average, weights(runner)):
        for value in state.values():
            assert torch.equal(*dist.all_gather(value.contiguous()))


def fsdp2(folder: Path, alone: dict[str, Any]) -> None:
    """Trains as one process does, resumes to the bit, and takes over from one process."""
    setup = {"setup": ModelSetup(wrapper=FSDP2("net"))}
    whole = experiment(folder / "fsdp2", hooks=saving_often(), **setup)
    whole.train()
    assert_close(curve(whole), alone["curve"], rtol=1e-5)
    assert all(hasattr(p, "full_tensor") for p in whole.model.parameters())
    dist.barrier()
    names = sorted(path.name for path in (folder / "fsdp2").glob("*.shards"))
    assert [name.partition(".pth")[0] for name in names] == ["iter_12", "iter_16", "iter_18", "iter_4", "iter_8"]
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata"} <= set(os.listdir(folder / "fsdp2" / names[0]))
    saved = read_checkpoint(folder / "fsdp2" / "iter_8.pth")
    assert {type(value) for value in saved["state_dict"].values()} == {torch.Tensor}
    assert saved["optimizer"]["state"][0]["exp_avg"].shape == (8, 4)
    cut = experiment(folder / "fsdp2_cut", hooks={**saving_often(), "stop": At(10, interrupt)}, **setup)
    with pytest.raises(InterruptedError, match="interrupted"):
        cut.train()
    resumed = experiment(folder / "fsdp2_cut", hooks=saving_often(), resume=True, **setup)
    resumed.train()
    assert_same(weights(resumed), weights(whole))
    assert curve(resumed) == curve(whole)
    from_one = experiment(folder / "fsdp2_from_one", resume=str(folder / "alone" / "epoch_1.pth"), **setup)
    from_one.train()
    assert len(from_one.model.batches) == 12
    assert_close(curve(from_one), alone["curve"], rtol=1e-5)
    assert_close(from_one.val()["error"], alone["val"][-1], rtol=1e-5)


def fsdp2_averages_its_parts(folder: Path, alone: dict[str, Any]) -> None:
    """EMA validates and saves what one process does, and resumes to the bit, also where a forward does not reshard."""
    setup = {"setup": ModelSetup(wrapper=FSDP2("net", reshard_after_forward=False))}
    hooks = averaging()
    whole = experiment(folder / "fsdp2_ema", hooks=hooks, **setup)
    whole.train()
    expected = alone["averaged"]
    assert_close(curve(whole), expected["curve"], rtol=1e-5)
    assert_close(curve(whole, "val/error"), expected["val"], rtol=1e-5)
    saved = read_checkpoint(folder / "fsdp2_ema" / "iter_18.pth")
    for key, value in expected["ema"].items():
        torch.testing.assert_close(saved["state_dict"][key], value, rtol=1e-4, atol=1e-6)
    for key, value in expected["weights"].items():
        torch.testing.assert_close(saved["ema_state_dict"][key], value, rtol=1e-4, atol=1e-6)
    cut = experiment(folder / "fsdp2_ema_cut", hooks={**averaging(), "stop": At(10, interrupt)}, **setup)
    with pytest.raises(InterruptedError, match="interrupted"):
        cut.train()
    hooks_again = averaging()
    resumed = experiment(folder / "fsdp2_ema_cut", hooks=hooks_again, resume=True, **setup)
    resumed.train()
    assert_same(weights(resumed), weights(whole))
    average, again = (each["ema"].ema_model.module.state_dict() for each in (hooks, hooks_again))
    assert_same({k: v.full_tensor() for k, v in again.items()}, {k: v.full_tensor() for k, v in average.items()})
    assert curve(resumed, "val/error") == curve(whole, "val/error")


def batch_norm_is_evaluated_as_it_is_saved(folder: Path, alone: dict[str, Any]) -> None:
    """Each rank has other statistics after a step; all evaluate with those of the checkpoint."""
    trained = experiment(folder / "norm", net=NormNet, max_epochs=1)
    trained.train()
    loaded = experiment(folder / "norm", net=NormNet, load_from=str(folder / "norm" / "epoch_1.pth"))
    assert curve(trained, "val/error") == [loaded.val()["error"]]


def a_model_on_the_meta_device_takes_its_share_of_a_file(folder: Path, alone: dict[str, Any]) -> None:
    """FSDP2 shards it before it has memory; then it is loaded."""
    setup = ModelSetup(wrapper=FSDP2("net"))
    path = str(folder / "alone" / "epoch_3.pth")
    runner = experiment(folder / "meta", net=MetaNet, setup=setup, load_from=path)
    runner.setup()
    runner.prepare_model(skip_weights=False, train=True)
    assert_same(weights(runner), alone["weights"])


def every_rank_keeps_its_generator(folder: Path, alone: dict[str, Any]) -> None:
    """Registered generators stand elsewhere on each rank."""
    first = experiment(folder / "generators", max_epochs=1)
    first.register_generator("mine", torch.Generator().manual_seed(dist.get_rank()))
    first.train()
    generator = torch.Generator()
    again = experiment(folder / "generators", max_epochs=1, resume=True)
    again.register_generator("mine", generator)
    again.train()
    assert generator.initial_seed() == dist.get_rank()


def the_learning_rate_follows_the_global_batch(folder: Path, alone: dict[str, Any]) -> None:
    """4 samples, 2 ranks, 3 accumulated batches."""
    runner = experiment(folder / "scaled", max_epochs=1, wrapper_options={"accumulative_counts": 3}, auto_scale_lr=48)
    runner.train()
    assert curve(runner, "train/lr")[0] == pytest.approx(0.01 * 24 / 48)
    if dist.is_main_process():
        (log,) = Path(runner.log_dir).glob("*.log")
        assert "times 0.5: 24 samples in an optimizer step, chosen for 48" in log.read_text()


def iterations_without_epochs(folder: Path, alone: dict[str, Any]) -> None:
    """An endless sampler gives the same global batches to any number of ranks."""
    runner = experiment(folder / "iters", max_iters=14, hooks=saving_often())
    runner.train()
    batches = dist.all_gather_object(runner.model.batches)
    assert [[i for pair in zip(*parts) for i in pair] for parts in zip(*batches)] == alone["iters"]["batches"]
    assert_close(curve(runner), alone["iters"]["curve"], rtol=1e-5)


def scalars_are_means_where_all_ranks_have_them(folder: Path, alone: dict[str, Any]) -> None:
    """Values since the last call; ranks with other keys keep their own, and say so."""
    rank = dist.get_rank()
    hub = MessageHub("means")
    for value in (1.0, torch.tensor(2.0), 3):
        hub.update_scalar("train/a", value + rank)
    hub.update_scalar("val/a", rank)
    hub.average_over_ranks()
    assert (hub.get_scalar("train/a").data[0].tolist(), hub.get_scalar("val/a").current()) == ([1.5, 2.5, 3.5], rank)
    hub.update_scalar("train/a", 10 * rank)
    hub.average_over_ranks()
    assert hub.get_scalar("train/a").data[0].tolist() == [1.5, 2.5, 3.5, 5.0]
    hub.update_scalar(f"train/of_rank{rank}", 1.0)
    hub.average_over_ranks()
    assert hub.get_scalar(f"train/of_rank{rank}").current() == 1.0


def means_are_waited_for_when_somebody_reads(folder: Path, alone: dict[str, Any]) -> None:
    """What is recorded meanwhile comes after them, and is not seen by who writes the line."""
    rank = dist.get_rank()
    hub = MessageHub("later")
    seen: list[list[float]] = []

    def note() -> None:
        seen.append(hub.get_scalar("train/a").data[0].tolist())
        assert [len(hub.get_scalar(key)) for key in ("train/late", "val/a")] == [0, 1]

    hub.update_scalar("train/a", rank)
    hub.start_average_over_ranks(note)
    hub.update_scalars({"train/a": 5.0 + rank, "train/late": rank, "val/a": rank})
    assert seen == []
    assert hub.get_scalar("train/a").mean() == (0.5 + 5.0 + rank) / 2
    assert (seen, hub.get_scalar("train/late").current()) == ([[0.5]], rank)
    hub.start_average_over_ranks(lambda: seen.append([]))
    assert hub.state_dict()["log_scalars"]["train/a"]["values"].tolist() == [0.5, 5.5]
    hub.settle()
    assert seen == [[0.5], []]
    dist.barrier()
    has_given_up = folder / "rank 0 has given up"
    if rank == 0:
        hub.start_average_over_ranks(note)
        with pytest.raises(TimeoutError, match="the other ranks have not sent their values within 0 s"):
            hub.settle(timeout_s=0.0)
        assert (len(seen), hub.get_scalar("train/a").current()) == (2, 5.5)
        has_given_up.touch()
    else:
        while not has_given_up.exists():  # the deadline is that of every check
            time.sleep(0.01)
        hub.average_over_ranks()


class LineAtOnce(LoggerHook):
    """Waits for the other ranks where a line is due."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        runner.message_hub.settle()


def lines_written_later_are_those_written_at_once(folder: Path, alone: dict[str, Any]) -> None:
    """In epochs and without, validations between, also the last line of a run that fails."""
    lines = {}
    for kind in (LineAtOnce, LoggerHook):
        for name, options in {"epochs": {}, "iterations": {"max_iters": 13}, "fails": {}}.items():
            hooks = {"logger": kind(interval=2, ignore_last=False)}
            if name == "fails":
                hooks["fail"] = At(8, interrupt)
            runner = experiment(folder / f"line_{kind.__name__}_{name}", hooks=hooks, **options)
            if name == "fails":
                with pytest.raises(InterruptedError):
                    runner.train()
            else:
                runner.train()
            if dist.is_main_process():
                written = map(json.loads, Path(runner.log_dir, "metrics.jsonl").read_text().splitlines())
                timed = ("time", "_s", "eta")
                lines[kind, name] = [{k: v for k, v in line.items() if not k.endswith(timed)} for line in written]
    for (_, name), found in lines.items():
        assert found == lines[LineAtOnce, name]
        assert len(found) >= {"epochs": 12, "iterations": 8, "fails": 5}[name]


def what_cannot_be_right_is_refused(folder: Path, alone: dict[str, Any]) -> None:
    """Loaders that give every rank all samples, and a position that means something else."""
    points = Points(n=48)
    with pytest.raises(ValueError, match="every one of 2 ranks would read all samples of Points, since RandomSampler"):
        check_sampler_is_distributed(torch.utils.data.DataLoader(points, 4, shuffle=True))
    check_sampler_is_distributed(
        torch.utils.data.DataLoader(points, 4, sampler=torch.utils.data.DistributedSampler(points))
    )
    early = DefaultSampler(points)
    early.world_size = 1
    with pytest.raises(RuntimeError, match=r"among 1, but there are 2 ranks: it was made before the process group"):
        check_sampler_is_distributed(DataLoader(points, 4, sampler=early))
    smaller = experiment(folder / "smaller", global_batch=4, resume=str(folder / "ddp" / "epoch_1.pth"))
    with pytest.raises(RuntimeError, match=r"now 4 \(2 x batch_size=2\).*set the batch_size of the train loader to 4"):
        smaller.train()
    uneven = experiment(folder / "uneven")
    uneven.train_loop = EpochBasedTrainLoop(DataLoader(Points(n=48), 4 + 4 * dist.get_rank()), max_epochs=1)
    with pytest.raises(ValueError, match=r"number of batches on each rank \(rank 0: 6, rank 1: 3\)") as caught:
        uneven.train()
    assert f"on rank {dist.get_rank()} of 2" in caught.value.__notes__
    by_hand = experiment(folder / "by_hand", setup=ModelSetup(wrapper=FSDP2("net")))
    by_hand.optim_wrapper = OptimWrapper(torch.optim.SGD(by_hand.model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="over one that FSDP2 splits, only nodes can"):
        by_hand.train()


class StopOnOneRank(Hook):
    """Sets `stop_training` on rank 1 alone, at a point."""

    def __init__(self, point: str) -> None:
        setattr(self, point, self._stop)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): ...

    def after_train_epoch(self, runner): ...

    def after_val_epoch(self, runner, metrics=None): ...

    def _stop(self, runner: Any, **_: Any) -> None:
        runner.train_loop.stop_training |= dist.get_rank() == 1


def one_rank_that_stops_stops_all(folder: Path, alone: dict[str, Any]) -> None:
    """At the end of the epoch, or of the validation; in a loop that counts iterations, when the ranks have asked."""
    for point in ("after_train_iter", "after_train_epoch", "after_val_epoch"):
        runner = experiment(folder / f"stop_{point}", hooks={"stop": StopOnOneRank(point)})
        runner.train()
        assert runner.iter == 6, point
    late = 50_000
    for point, interval, counts in [
        ("after_train_iter", late, 1),
        ("after_train_iter", late, 3),
        ("after_val_epoch", 4, 1),
    ]:
        options = {"accumulative_counts": counts}
        name = f"stop_iterations_{point}_{counts}"
        hooks = {"stop": StopOnOneRank(point)}
        runner = experiment(folder / name, hooks=hooks, wrapper_options=options, max_iters=100_000)
        runner.train_loop.val_interval = interval
        runner.train()
        assert runner.iter == 4 if interval == 4 else 0 < runner.iter < late
        assert {number for (number,) in dist.exchange_numbers([runner.iter])} == {runner.iter}
        assert runner.iter % counts == 0


class Fails(Net):
    """Its eighth training step raises: in the backward pass, or behind the update."""

    num_calls, place = 0, "backward"

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            loss = self(**data, mode="loss")["loss"]
        self.num_calls += 1
        if self.num_calls == 8 and self.place == "backward":
            loss.register_hook(self.fail)
        optim_wrapper.update_params(loss)
        if self.num_calls == 8:
            self.fail()
        return {"loss": loss.detach()}

    def fail(self, *_: Any) -> None:
        raise InterruptedError("failed")


def gradients_of_a_cut_iteration_are_refused(folder: Path, alone: dict[str, Any]) -> None:
    """What DDP or FSDP2 holds of it would come into the next step; behind a whole update training goes on."""
    fsdp = ModelSetup(wrapper=FSDP2(modules=["net.*"]))
    for name, setup, place, counts in [
        ("cut_ddp", None, "backward", 1),
        ("cut_fsdp", fsdp, "backward", 1),
        ("waiting_fsdp", fsdp, "behind", 3),
        ("whole_ddp", None, "behind", 1),
        ("whole_fsdp", fsdp, "behind", 1),
    ]:
        options = {"accumulative_counts": counts}
        runner = experiment(folder / name, net=Fails, setup=setup, wrapper_options=options)
        runner.model.place = place
        with pytest.raises(InterruptedError):
            runner.train()
        if name.startswith("whole"):
            runner.train()
            assert runner.iter == 18, name
            continue
        with pytest.raises(RuntimeError, match="start the ranks again, and resume"):
            runner.train()


CHECKS = [
    one_rank_that_stops_stops_all,
    gradients_of_a_cut_iteration_are_refused,
    as_one_process,
    resumed_after_a_kill,
    several_things_at_once,
    fsdp2,
    fsdp2_averages_its_parts,
    batch_norm_is_evaluated_as_it_is_saved,
    a_model_on_the_meta_device_takes_its_share_of_a_file,
    every_rank_keeps_its_generator,
    the_learning_rate_follows_the_global_batch,
    iterations_without_epochs,
    scalars_are_means_where_all_ranks_have_them,
    means_are_waited_for_when_somebody_reads,
    lines_written_later_are_those_written_at_once,
    what_cannot_be_right_is_refused,
]


def checks(folder: Path) -> None:
    """Run all checks; the first that fails is the last, since the ranks would no longer call the same things.

    A check that does not end within `STEP_LIMIT_S` ends the rank, and the traceback on stderr shows where it waits.
    """
    alone = torch.load(folder / "alone.pt", weights_only=True)
    dist.init_dist("pytorch", timeout_s=STEP_LIMIT_S / 2)
    results = {}
    for check in CHECKS:
        print(f"rank {dist.get_rank()}: {check.__name__}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(STEP_LIMIT_S, exit=True)
        try:
            check(folder, alone)
            results[check.__name__] = "ok"
        except Exception:
            results[check.__name__] = traceback.format_exc()
            break
    faulthandler.cancel_dump_traceback_later()
    (folder / f"results{dist.get_rank()}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"kill": kill, "checks": checks}[sys.argv[1]](Path(sys.argv[2]))
