#!/usr/bin/env python3
"""A Slurm of one machine for tests: sbatch, srun, sacct, scontrol, scancel and squeue, by the name it is called by.

Each job is a process that runs the batch script, again each time that it was queued again. What is known of jobs stands
in files of the folder FAKE_SLURM.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SLURM"])


def sbatch(args):
    script = Path(args[-1])
    text = script.read_text()
    number = str(1000 + len(list(FOLDER.glob("job.*"))))
    (FOLDER / f"job.{number}").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for index in range(int(array[1]) + 1) if array else (None,):
        name = number if index is None else f"{number}_{index}"
        (FOLDER / f"state.{name}").write_text("PENDING")
        subprocess.Popen(
            [sys.executable, __file__, "--run", name, str(script)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    print(f"Submitted batch job {number}")


def run_job(name, script):
    """Run a job, again as often as it is queued again; at most two at once."""
    number, _, index = name.partition("_")
    env = {**os.environ, "SLURM_JOB_ID": name.replace("_", "0"), "SLURM_JOB_NODELIST": "localhost"}
    env |= {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0"}
    env |= {"SLURM_LOCALID": "0", "FAKE_JOB": name}
    if index:
        env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    state, again = FOLDER / f"state.{name}", FOLDER / f"again.{name}"
    place = None
    while place is None:
        for each in ("place.0", "place.1"):
            try:
                os.close(os.open(FOLDER / each, os.O_CREAT | os.O_EXCL))
                place = FOLDER / each
                break
            except FileExistsError:
                time.sleep(0.05)
    for restart in range(10):
        state.write_text("RUNNING")
        env["SLURM_RESTART_COUNT"] = str(restart)
        code = subprocess.run(["bash", script], env=env, check=False).returncode
        if not again.exists():
            break
        again.unlink()
    state.write_text("COMPLETED" if code == 0 else "FAILED")
    place.unlink()


def srun(args):
    command = args[next(i for i, each in enumerate(args) if "python" in each) :]
    output = args[args.index("--output") + 1].replace("%t", "0")
    number, _, index = os.environ["FAKE_JOB"].partition("_")
    for mark, value in (("%j", number), ("%A", number), ("%a", index)):
        output = output.replace(mark, value)
    with open(output, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    (FOLDER / f"pid.{os.environ['FAKE_JOB']}").write_text(str(os.getpid()))
    os.execvp(command[0], command)


def sacct(args):
    print("JobID|State|NodeList")
    wanted = {args[i + 1] for i, each in enumerate(args) if each == "-j"}
    for file in sorted(FOLDER.glob("state.*")):
        name = file.name.removeprefix("state.")
        if name.partition("_")[0] in wanted:
            print(f"{name}|{file.read_text()}|localhost")


def scontrol(args):
    assert args[0] == "requeue", shlex.join(args)
    (FOLDER / f"again.{args[1]}").touch()


def scancel(args):
    os.kill(int((FOLDER / f"pid.{args[0]}").read_text()), signal.SIGTERM)


def squeue(args):
    sacct(args)


if __name__ == "__main__":
    name, args = Path(sys.argv[0]).name, sys.argv[1:]
    run_job(*args[1:]) if args[:1] == ["--run"] else globals()[name](args)
