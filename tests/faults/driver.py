"""Runs experiments in processes of their own, which faults may kill.

``python driver.py`` is a server: it imports everything once, then forks for each line that it reads, so that a test
costs a fork and not the import of torch. With an argument (a request as JSON), it runs that one as this very process,
which is what torchrun starts.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import threading
import traceback
import warnings
from typing import Any

from lazyengine.runner import preemption
from tests.faults import experiments, faults
from tests.forks import lead_group, leave, serve, wait_for

preemption.ASK_S = 0  # ranks ask one another at every second step, so that a test can tell where they stop


def _module_of(spec: dict[str, Any]) -> Any:
    """Return the module whose `build` makes an experiment, and take its name out of the specification."""
    return importlib.import_module(spec.pop("module", experiments.__name__))


def run(request: dict[str, Any]) -> None:
    """Train as a request says; its faults are for one rank, or for all where it names none."""
    rank = int(os.environ.get("RANK", "0"))
    spec = dict(request["spec"])
    evaluated = spec.pop("evaluate", None)
    hooks = {}
    in_loss = []
    for number, fault in enumerate(request.get("faults", [])):
        fault = dict(fault)
        if fault.pop("rank", rank) != rank or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            continue
        if "point" in fault:
            hooks[f"fault_{number}"] = faults.AtPoint(**fault)
        elif "call" in fault:
            faults.around(**fault)
        elif "spec" in fault:  # another experiment on this rank
            spec.update(fault["spec"])
        else:
            in_loss.append(fault)
    if "dataset" in spec:
        spec["dataset"] = getattr(experiments, spec["dataset"][0])(*spec["dataset"][1:])
    runner = _module_of(spec).build(hooks=hooks, **spec)
    for fault in in_loss:
        faults.in_loss(runner.model, **fault)
    try:
        if evaluated is not None:
            runner.test(checkpoint=evaluated)
            print(
                "EVALUATED " + json.dumps({key: runner.loaded_meta.get(key) for key in ("run_id", "iter")}), flush=True
            )
            return
        runner.train()
    except BaseException:
        report = {
            "num_optimizer_steps": runner.optim_wrapper.num_optimizer_steps,
            "parameters": experiments.digest({k: v for k, v in runner.model.state_dict().items() if "head" in k}),
        }
        print("REPORT " + json.dumps(report), flush=True)
        raise


def _child(request: dict[str, Any], rank: int) -> None:
    """Run a request in a forked process, which ends as an interpreter would."""
    lead_group()
    log = os.open(f"{request['log']}_{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdin.close()
    if request["world"] > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"]), "LOCAL_WORLD_SIZE": "2"}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["world"])}
        os.environ.update(address | ranks)
    code = 1
    try:
        run(request)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    leave(code)


def _warm_up() -> None:
    """Train once, so that everything that is imported late is there before the first fork."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for resume in (False, True):
            experiments.build(f"{folder}/run", resume=resume).train()
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1, "a process to fork has one thread"


def answer(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the exit codes of all ranks of a request, and the ranks in the order of their ends."""
    _module_of(dict(request["spec"]))  # imported before forking, once for all
    pids = []
    for rank in range(request["world"]):
        pid = os.fork()
        if pid == 0:
            _child(request, rank)
        pids.append(pid)
    codes = wait_for(pids, request["timeout_s"])
    return {"codes": [codes[pid] for pid in pids], "order": [pids.index(pid) for pid in codes]}


if __name__ == "__main__":
    warnings.simplefilter("default")
    if len(sys.argv) > 1:
        run(json.loads(sys.argv[1]))
    else:
        _warm_up()
        serve(answer)
