"""Run in every process of a group: compares lazyengine.dist with torch.distributed called by hand.

``python driver.py`` with torchrun's variables set; prints one JSON line: {check: "ok" or the traceback}.
"""

import json
import os
import sys
import tempfile
import traceback
from itertools import zip_longest

import pytest
import torch
import torch.distributed as td

from lazyengine import dist

CHECKS = []
OPERATIONS = ["sum", "mean", "product", "min", "max", "band", "bor", "bxor"]


def check(function):
    CHECKS.append(function)
    return function


def own(rank, dtype=torch.float64):
    return (torch.arange(6, dtype=torch.float64).reshape(2, 3) * 3 + rank + 1).to(dtype)


def by_hand_gather(tensor):
    if dist.get_world_size() == 1:
        return [tensor]
    received = [torch.empty_like(tensor) for _ in range(td.get_world_size())]
    td.all_gather(received, tensor)
    return received


def raises(kind, part, function, *args, **kwargs):
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    assert part in str(caught.value)
    return caught.value


@check
def identity(rank, world):
    assert dist.is_distributed() == td.is_initialized()
    assert (dist.get_rank(), dist.get_world_size()) == (rank, world) == dist.get_dist_info()
    assert dist.get_backend() == ("gloo" if td.is_initialized() else None)
    assert dist.is_main_process() == (rank == 0)
    assert dist.get_local_rank() == rank
    assert dist.get_local_size() == world
    assert dist.get_comm_device() == torch.device("cpu")
    assert dist.get_default_group() is (td.group.WORLD if td.is_initialized() else None)
    assert dist.master_only(lambda: "ran")() == ("ran" if rank == 0 else None)


@check
def all_reduce(rank, world):
    for op in OPERATIONS:
        for dtype in [torch.int64] if op.startswith("b") else [torch.float32, torch.float64, torch.int64]:
            ours, theirs = own(rank, dtype), own(rank, dtype)
            assert dist.all_reduce(ours, op) is None
            if world > 1:
                td.all_reduce(theirs, getattr(td.ReduceOp, "SUM" if op == "mean" else op.upper()))
                theirs = (theirs / world).to(dtype) if op == "mean" else theirs
            assert ours.dtype == dtype
            assert torch.equal(ours, theirs), (op, dtype, ours, theirs)


@check
def all_reduce_in_place_views(rank, world):
    base = torch.zeros(3, 4) + rank + 1
    dist.all_reduce(base[:, 1])  # not contiguous: the result must reach the view
    assert base[:, 1].tolist() == [sum(range(1, world + 1))] * 3
    assert base[:, 0].tolist() == [rank + 1] * 3
    parameter = torch.nn.Parameter(torch.ones(2) * rank)
    dist.all_reduce(parameter, "max")
    assert parameter.tolist() == [world - 1] * 2


@check
def unknown_operation(rank, world):
    raises(ValueError, "op must be one of", dist.all_reduce, torch.ones(1), "avg")
    raises(ValueError, "op must be one of", dist.all_reduce_dict, {"a": torch.ones(1)}, "avg")
    raises(TypeError, "takes a tensor", dist.all_reduce, [torch.ones(1)])


@check
def all_gather(rank, world):
    for tensor in [own(rank), torch.tensor(rank), torch.zeros(0, 2), own(rank).t(), own(rank) > 3]:
        ours = dist.all_gather(tensor)
        theirs = by_hand_gather(tensor.contiguous())
        assert len(ours) == world
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs))


@check
def gather(rank, world):
    for dst in range(world):
        ours = dist.gather(own(rank), dst)
        expected = by_hand_gather(own(rank)) if rank == dst else by_hand_gather(own(rank))[:0]
        assert len(ours) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected))
    raises(ValueError, f"dst={world}", dist.gather, own(rank), world)


@check
def broadcast(rank, world):
    for src in range(world):
        ours, theirs = own(rank), own(rank)
        assert dist.broadcast(ours, src) is None
        if world > 1:
            td.broadcast(theirs, src)
        assert torch.equal(ours, theirs)
    raises(ValueError, "src=-1", dist.broadcast, own(rank), -1)


@check
def uneven(rank, world):
    if world == 1:
        return
    for function in [dist.all_gather, dist.gather, dist.all_reduce, dist.broadcast]:
        error = raises(ValueError, "same shape and dtype on every rank", function, torch.zeros(2 + rank, 3))
        assert "rank 0: (2, 3) torch.float32; rank 1: (3, 3) torch.float32" in str(error)
    raises(ValueError, "torch.int64", dist.all_reduce, torch.zeros(2, dtype=[torch.float32, torch.int64][rank % 2]))
    raises(ValueError, "same", dist.broadcast_object_list, [1] * (rank + 1))
    raises(ValueError, "('b', ", dist.all_reduce_dict, {"ab"[rank % 2]: torch.ones(1)})
    raises(ValueError, "same", dist.all_reduce_params, [torch.ones(2 + rank)])
    assert len(dist.all_gather(torch.ones(1))) == world  # nothing is left over in the group


@check
def seeds(rank, world):
    import numpy as np

    np.random.seed(rank)
    seed = dist.sync_random_seed()
    np.random.seed(0)
    assert seed == np.random.randint(2**31)


@check
def objects(rank, world):
    mine = {"rank": rank, "nested": [(rank, "x" * (10 * rank + 1)), None], "tensor": own(rank)}
    ours = dist.all_gather_object(mine)
    assert [o["nested"] for o in ours] == [[(r, "x" * (10 * r + 1)), None] for r in range(world)]
    assert all(torch.equal(o["tensor"], own(r)) for r, o in enumerate(ours))
    for dst in range(world):
        gathered = dist.gather_object(mine, dst)
        assert (gathered is None) == (rank != dst)
        if gathered is not None:
            theirs = ours
            assert [g["nested"] for g in gathered] == [t["nested"] for t in theirs]
    for src in range(world):
        data = [rank, {"from": rank}, torch.tensor([rank])]
        assert dist.broadcast_object_list(data, src) is None
        assert data == [src, {"from": src}, torch.tensor([src])]
    dist.broadcast_object_list([])
    raises(TypeError, "takes a list", dist.broadcast_object_list, (1,))


@check
def reduce_dict(rank, world):
    names = ["b", "a", "n"][:: -1 if rank % 2 else 1]  # another order on every second rank
    values = {"a": own(rank, torch.float32), "b": torch.tensor(rank + 1.0), "n": torch.tensor([rank, 7])}
    for op in ["sum", "mean", "max"]:
        data = {name: values[name].clone() for name in names}
        assert dist.all_reduce_dict(data, op) is None
        for name in names:
            expected = values[name].clone()
            if world > 1:
                stacked = torch.stack(by_hand_gather_any_order(values[name]))
                expected = {"sum": stacked.sum(0), "mean": stacked.sum(0) / world, "max": stacked.amax(0)}[op]
                expected = expected.to(values[name].dtype)
            assert data[name].dtype == values[name].dtype
            assert torch.equal(data[name], expected), (op, name)


def by_hand_gather_any_order(tensor):
    """Gather values that are a function of the rank only, without another collective in a differing order."""
    lookup = {(2, 3): lambda r: own(r, torch.float32), (): lambda r: torch.tensor(r + 1.0)}
    lookup[(2,)] = lambda r: torch.tensor([r, 7])
    return [lookup[tuple(tensor.shape)](r) for r in range(dist.get_world_size())]


@check
def reduce_params(rank, world):
    total = sum(range(1, world + 1))
    for coalesce, bucket in [(True, -1), (True, 1), (False, -1)]:
        model = torch.nn.Sequential(torch.nn.Linear(300, 1000), torch.nn.BatchNorm1d(1000))  # 1.2 MB: two buckets
        tensors = [*model.parameters(), *model.buffers()]
        for tensor in tensors:
            tensor.detach().fill_(rank + 1)
        dist.all_reduce_params(iter(tensors), coalesce, bucket)
        assert all((t.detach() == total).all() for t in tensors)
        dist.all_reduce_params([t for t in tensors if t.is_floating_point()], coalesce, bucket, op="mean")
        assert all((t.detach() == total).all() for t in tensors)


@check
def collect_objects(rank, world):
    size = 3 * world + 1
    samples = [{"i": i, "v": None if i % 5 == 0 else [i / 7]} for i in range(size)]
    padded = samples + samples[: -size % world]
    part = padded[rank::world]
    for way in [{"device": "cpu"}, {"device": "gpu"}, {"device": "cpu", "tmpdir": shared_path("parts")}]:
        ours = dist.collect_results(list(part), size, **way)
        assert ours == (samples if rank == 0 else None), (way, ours)
    nothing = dist.collect_results([None, rank], 2 * world)
    assert nothing == ([None] * world + list(range(world)) if rank == 0 else None)
    uneven = dist.collect_results(["x"] * rank + ["y"], 100, "gpu")
    rows = [["x"] * r + ["y"] for r in range(world)]
    expected = [v for row in zip_longest(*rows) for v in row if v is not None]
    assert uneven == (expected if rank == 0 else None)
    assert dist.collect_results([], 0) == ([] if rank == 0 else None)
    raises(ValueError, "tmpdir", dist.collect_results, [], 0, "gpu", "x")
    raises(ValueError, "device must be", dist.collect_results, [], 0, "tpu")


@check
def averages(rank, world):
    mine = {"a": [1.0 + rank, 2.0], "b": []}
    mean = (world - 1) / 2
    assert dist.start_average(mine)() == {"a": [1.0 + mean, 2.0], "b": []}
    others = dist.start_average({"a": [1.0] * (1 + rank)})()
    assert others == ({"a": [1.0]} if world == 1 else None)
    assert (dist.start_average({f"of rank {rank}": [1.0]})() is None) == (world > 1)
    many = {"a": [float("nan")] * 300, "b": [rank + i * 0.5 for i in range(1000)]}
    means = dist.start_average(many)()
    assert means is not None
    assert means["b"] == [mean + i * 0.5 for i in range(1000)]
    assert all(value != value for value in means["a"])
    assert dist.exchange_numbers([rank, 7]) == [[r, 7] for r in range(world)] if world > 1 else True


@check
def collect_tensors(rank, world):
    size = 4 * world + 1
    table = torch.arange(size * 2).reshape(size, 2)
    part = table[rank::world]  # rank 0 has one row more
    for device in ["cpu", "gpu"]:
        ours = dist.collect_results(part, size, device)
        assert (ours is None) == (rank != 0)
        assert ours is None or torch.equal(ours, table)
        ours = dist.collect_results(list(part), size, device)
        assert ours is None or (isinstance(ours, list) and torch.equal(torch.stack(ours), table))
        cut = dist.collect_results(table[rank::world], size - 1, device)
        assert cut is None or torch.equal(cut, table[:-1])
        mixed = dist.collect_results([torch.zeros(rank + 1)], world, device)  # shapes differ: sent as objects
        assert mixed is None or [len(t) for t in mixed] == list(range(1, world + 1))
        some = dist.collect_results([torch.tensor(rank)] if rank else [], world, device)
        expected = list(range(1, world)) if world > 1 else []
        assert some is None or [int(t) for t in some] == expected


@check
def collect_what_does_not_fit(rank, world):
    raises(TypeError, "must be a list", dist.collect_results_gpu, {1}, 1) if world > 1 else None
    if world > 1:
        rows = torch.zeros(2, 1 + rank % 2)
        raises(ValueError, "on every rank", dist.collect_results, rows, 2 * world)
        deep = dist.collect_results([torch.full((1,) * 7, rank)], world, "gpu")  # sent as objects
        assert deep is None or [(t.shape, t.item()) for t in deep] == [((1,) * 7, r) for r in range(world)]


@check
def collect_failure(rank, world):
    if world == 1:
        return
    part = [lambda: 0] if rank == world - 1 else [1]  # the last rank cannot pickle its part: all must know
    error = raises(RuntimeError, f"rank {world - 1}: ", dist.collect_results, part, world)
    assert "not every rank could write" in str(error)
    blocked = shared_path("a_file")
    if rank == 0:
        open(blocked, "w").close()
    dist.barrier()
    raises(RuntimeError, "rank 0 could not make the folder", dist.collect_results, [1], 1, "cpu", blocked)


@check
def groups(rank, world):
    if world == 1:
        assert dist.get_local_group() is None
        dist.init_local_group(0, 1)
        return
    raises(RuntimeError, "init_local_group", dist.get_local_group)
    raises(ValueError, "does not divide", dist.init_local_group, 0, world + 1)
    sub = td.new_group([world - 1, 0][: 2 if world > 1 else 1])
    if rank in (0, world - 1):
        assert dist.get_world_size(sub) == 2
        data = torch.tensor([float(rank)])
        dist.all_reduce(data, group=sub)
        assert data.item() == world - 1
        copied = torch.tensor(rank)
        dist.broadcast(copied, src=1, group=sub)  # rank 1 of the subgroup
        assert copied.item() == td.get_global_rank(sub, 1)
        gathered = dist.gather_object(rank, dst=1, group=sub)
        assert gathered == ([td.get_global_rank(sub, r) for r in (0, 1)] if dist.get_rank(sub) == 1 else None)
    dist.init_local_group(rank, 1)  # every process a machine of its own
    assert (dist.get_local_rank(), dist.get_local_size()) == (0, 1)
    raises(RuntimeError, "already", dist.init_local_group, rank, 1)


@check
def timeout_names_call(rank, world):
    """Must be the last check: afterwards the group is broken."""
    if world == 1:
        return
    dist.set_position_source(lambda: "iteration 12")
    if rank == 0:
        error = raises(RuntimeError, "", dist.all_reduce, torch.ones(1))
        notes = "\n".join(error.__notes__)
        assert "lazyengine.dist.all_reduce on rank 0" in notes
        assert "iteration 12" in notes
        assert "another rank did not take part" in notes, (error, notes)


def shared_path(name):
    return os.path.join(os.environ["DRIVER_FOLDER"], name)


def main():
    loaded = {name for name in sys.modules if name.startswith("torch.distributed")}
    import subprocess

    alone = "import torch, sys; print(*[n for n in sys.modules if n.startswith('torch.distributed')])"
    results = {}
    launcher = dist.infer_launcher()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        only_torch = set(subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True).stdout.split())
        results["imports_nothing"] = "ok" if loaded <= only_torch else f"imported {loaded - only_torch}"
    dist.init_dist(launcher, timeout_s=20)
    rank = dist.get_rank()
    for function in CHECKS:
        if function is timeout_names_call and world > 1:
            dist.destroy_dist()
            os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
            dist.init_dist(launcher, timeout_s=2)
        try:
            function(rank, world)
            results[function.__name__] = "ok"
        except BaseException:
            results[function.__name__] = traceback.format_exc()
            break  # the ranks are out of step
    print(json.dumps(results), flush=True)
    if world > 1:
        sys.stdin.read()  # leave together: the end of one process is an error in those that wait for it


if __name__ == "__main__":
    tempfile.tempdir = os.environ["DRIVER_FOLDER"]
    main()
