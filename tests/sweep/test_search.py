"""What a search may say, what is refused before anything runs, and which trials it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lazyengine.cli.main import main
from lazyengine.config import LazyConfig
from lazyengine.errors import UsageError
from lazyengine.sweep import (
    Search,
    Study,
    choice,
    grid,
    log_uniform,
    planned,
    read_search,
    supervision_of,
    uniform,
    zipped,
)
from lazyengine.sweep.spaces import as_overrides

from .lab import make_project

pytest.importorskip("optuna")
DIGITS = Path(__file__).resolve().parents[2] / "projects" / "digits" / "config.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_project(tmp_path_factory.mktemp("search"))


def search(config: str, space: dict, **options) -> Search:
    return Search(config, space, objective="val/error", **options)


def test_grids_are_crossed_and_drawn_values_are_shared_by_them(config):
    space = {"optimizer.lr": log_uniform(1e-4, 1e-1), "runner.seed": range(3)}
    trials = planned(search(config, space, trials=7))
    assert [text for each in trials for text in each if "seed" in text] == [f"runner.seed={i % 3}" for i in range(7)]
    rates = [next(text for text in each if "lr" in text) for each in trials]
    assert Counter(Counter(rates).values()) == {3: 2, 1: 1}
    assert all(1e-4 <= float(text.partition("=")[2]) <= 1e-1 for text in rates)


def test_what_is_drawn_is_a_function_of_seed_and_number(config):
    space = {"optimizer.lr": uniform(0.1, 0.2), "model.width": choice(4, 8, 16)}
    few, many = (planned(search(config, space, trials=n, sampler="random")) for n in (3, 8))
    assert many[:3] == few
    assert planned(search(config, space, trials=3, sampler="random", seed=1)) != few


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_neighbouring_seeds_draw_other_values(config, sampler):
    space = {"optimizer.lr": log_uniform(1e-4, 1e-1)}
    drawn = [planned(search(config, space, trials=6, sampler=sampler, seed=seed)) for seed in range(3)]
    assert len({text for trials in drawn for (text,) in trials}) == 3 * 6
    with pytest.raises(UsageError, match="seed=-1: expected at least 0"):
        search(config, space, trials=1, seed=-1)


def read_back(config, value):
    """What a config gets for a value of a space, where nothing says what is expected."""
    given = Path(config).with_name("given.py")
    given.write_text("from lazyengine.config import LazyCall as L\n\nnode = L(dict)(value=None)\n")
    return LazyConfig.apply_overrides(LazyConfig.load(str(given)), as_overrides({"node.value": value})).node.value


@pytest.mark.parametrize(
    "value",
    ["1", "2e3", "nan", "None", "true", "(1, 2)", "set()", "[a", "it's", "", " x ", "a=b", "plain", True, None, 1, 1e-5,
     float("inf"), [1, "2"], (1, 2), {"a": None}],
)  # fmt: skip
def test_a_value_arrives_as_it_is_written(config, value):
    assert (type(found := read_back(config, value)), found) == (type(value), value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.float64(0.1), 0.1), (np.int64(3), 3), (np.bool_(True), True), (np.arange(2), [0, 1]), (Path("a/b"), "a/b")],
)
def test_what_has_a_plain_form_arrives_in_it(config, value, expected):
    assert (type(found := read_back(config, value)), found) == (type(expected), expected)


def test_classes_and_arrays_are_tried_as_they_are(config):
    space = {
        "optimizer._target_": grid(torch.optim.Adam, torch.optim.AdamW),
        "optimizer.lr": grid(*np.logspace(-2, -1, 2)),
    }
    found = search(config, space)
    found.check()
    assert planned(found)[-1] == ["optimizer._target_=torch.optim.adamw:AdamW", "optimizer.lr=0.1"]
    assert found.identity()["space"]["optimizer._target_"] == "grid(torch.optim.adam:Adam, torch.optim.adamw:AdamW)"


@pytest.mark.parametrize("rows", [(0.1, 0.2), ("ab", "cd"), ((0.1, 4), {1, 2})])
def test_a_row_of_zipped_is_a_value_for_each_path(rows):
    """A text would have been taken apart into its letters, and a set has no order."""
    with pytest.raises(TypeError, match=r"a row is a value for each path, as in zipped.*; got "):
        zipped(*rows)


def test_zipped_rows_belong_together(config):
    space = {("optimizer.lr", "model.width"): zipped((0.1, 4), (0.2, 8)), "runner.seed": grid(1, 2)}
    assert planned(search(config, space)) == [
        [f"optimizer.lr={lr}", f"model.width={width}", f"runner.seed={seed}"]
        for lr, width in ((0.1, 4), (0.2, 8))
        for seed in (1, 2)
    ]


def test_a_function_makes_parts_conditional(config):
    def conditional(values):
        return {"+optimizer.amsgrad": grid(True, False)} if values["model.width"] == 8 else {"model.depth": 3}

    trials = planned(search(config, {"model.width": grid(4, 8)}, conditional=conditional))
    assert trials == [
        ["model.width=4", "model.depth=3"],
        ["model.width=8", "+optimizer.amsgrad=True"],
        ["model.width=8", "+optimizer.amsgrad=False"],
    ]


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        ({"optimizer.lrr": grid(0.1)}, {}, "Did you mean 'lr'"),
        ({"model.width": grid(4, "wide")}, {}, "accepts"),
        ({"optimizer.lr": log_uniform(0.1, 0.2)}, {}, "how many trials"),
        ({"optimizer.lr": grid(0.1)}, {"objective": "val/error", "pruner": "ashaa"}, "Did you mean 'asha'"),
        ({"optimizer.lr": grid(0.1)}, {"objective": "val/goodness"}, "does not tell by its name"),
        ({"optimizer.lr": grid(0.1)}, {"objective": "train/loss", "pruner": "median"}, "acts at validations"),
        ({("optimizer.lr", "model.width"): zipped((0.1, 4), (0.2,))}, {}, "does not fit"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(config, space, options, said):
    with pytest.raises(UsageError) as caught:
        Search(config, space, **{"objective": "val/error", **options}).check()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optimizer.lr": grid(0.1, -1)}, "AdamW refuses optimizer.lr=-1: Invalid learning rate"),
        (
            {("optimizer.betas", "optimizer.lr"): zipped(((0.9, 1.5), 0.1))},
            "optimizer.betas=(0.9, 1.5), optimizer.lr=0.1:",
        ),
        ({"runner.optim_wrapper.optimizer.weight_decay": grid(-1)}, "optimizer.weight_decay=-1: Invalid weight_decay"),
        ({"runner.hooks.checkpoint.interval": grid(1, 0)}, "CheckpointHook refuses runner.hooks.checkpoint.interval=0"),
        (
            {"optimizer._target_": "torch.optim.SGD", "+optimizer.nesterov": grid(True)},
            "SGD refuses optimizer._target_=",
        ),
    ],
)
def test_a_value_that_a_constructor_refuses_is_refused_where_it_can_be_tried_alone(config, space, said):
    with pytest.raises(UsageError, match="space: ") as caught:
        search(config, space).check()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        {"+optimizer.fused": grid(True, False)},  # is for parameters of other devices
        {"optimizer._target_": grid("torch.optim.Muon", "torch.optim.SGD")},  # is for matrices
        {"model.width": grid(0)},  # a model is not built for a check
        {"runner.hooks.trouble.plan": grid("no.json")},  # nor is a class of the user
    ],
)
def test_what_may_be_right_in_the_run_is_not_refused(config, space):
    search(config, space).check()


def test_what_the_config_has_wrong_itself_is_no_fault_of_the_space(config):
    search(config, {"optimizer.weight_decay": grid(0.1, 0.2)}, overrides=["optimizer.lr=-1"]).check()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("val/acurracy/top1", "Did you mean 'val/accuracy/top1'"),
        ("acurracy/top1", "Did you mean 'accuracy/top1'"),
        ("val/map", "There are: val/accuracy/top1"),
        ("val/acurracy", "does not tell by its name whether more of it is better: set direction"),
        ("val/top1", "Did you mean 'top1'"),
        ("top1", None),
        ("loss", None),  # of training: known when a run has it
    ],
)
def test_an_objective_that_no_metric_has_is_refused_where_their_names_are_known(objective, said):
    def check() -> None:
        Search(str(DIGITS), {"model.width": 8}, objective=objective).check()

    if said is None:
        check()
    else:
        with pytest.raises(UsageError, match=said):
            check()


@pytest.mark.parametrize("path", ["runner.work_dir", "+runner.experiment_name"])
def test_what_a_sweep_sets_itself_is_not_varied(config, path):
    with pytest.raises(UsageError, match=r"a sweep sets runner\.work_dir, .* of each trial itself"):
        search(config, {path: grid("a", "b")}).check()


def test_a_space_that_is_no_dict_is_refused(config, tmp_path):
    (tmp_path / "sweep.py").write_text(f"config = {config!r}\nspace = ['optimizer.lr']\nobjective = 'val/error'\n")
    with pytest.raises(UsageError, match="space is a list: expected a dict of paths"):
        read_search(str(tmp_path / "sweep.py"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--ranks", "0"], "--ranks 0: expected at least 1"),
        (["--storage", "nosuch://x"], "--storage nosuch://x: Can't load plugin"),
        (["--storage", "sqlite:////no/such/folder/study.db"], "unable to open database file"),
    ],
)
def test_options_of_the_command_are_checked(config, tmp_path, words, said, capsys):
    given = ["sweep", config, "runner.seed=range(2)", "--objective", "val/error", "--work-dir", str(tmp_path / "sweep")]
    assert main([*given, *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_names_of_metrics_are_not_all_known_beside_a_hook_that_is_not_the_engines(config):
    Search(config, {"model.width": 4}, objective="val/errror", direction="minimize").check()


def test_code_that_was_imported_by_its_folder_is_not_the_engines(tmp_path):
    """Of two packages of one name in a process the second is imported so."""
    lines = "from projects.digits.config import *\nfrom lazyengine.config import LazyCall as L\nfrom .own import Own\n"
    for name in ("one", "two"):
        folder = tmp_path / name / "same_name"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "own.py").write_text("from lazyengine.hooks import Hook\n\n\nclass Own(Hook):\n    pass\n")
        (folder / "config.py").write_text(f"{lines}\nrunner.hooks['own'] = L(Own)()\n")
        Search(
            str(folder / "config.py"), {"model.width": 8}, objective="val/acurracy/top1", direction="maximize"
        ).check()


def test_ends_of_a_drawn_range_are_tried_on_the_config(config):
    with pytest.raises(UsageError, match="momentumm"):
        search(config, {"optimizer.momentumm": uniform(0, 1)}, trials=3).check()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lr=log_unifrom(1e-4,1e-1)", "Did you mean 'log_uniform'"),
        ("optimizer.lr=log_uniform(0,1)", "0 < low < high"),
        ("optimizer.lr=grid(a,b)", "plain values"),
        ("optimizer.lr=uniform(1)", "missing"),
    ],
)
def test_the_command_line_names_what_it_does_not_know(config, word, said, capsys):
    assert main(["sweep", config, word, "--objective", "error", "--trials", "2", "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_a_file_holds_a_search_and_the_command_line_wins(config, tmp_path, capsys):
    file = Path(config).with_name("sweep.py")
    file.write_text(
        "from lazyengine.sweep import choice, log_uniform\n"
        "config = 'config.py'\n"
        "space = {'optimizer.lr': log_uniform(1e-4, 1e-1), 'model.width': choice(4, 8)}\n"
        "objective = 'val/error'\n"
        "trials = 3\n"
    )
    found = read_search(str(file), ["train_loop.max_epochs=1", "runner.seed=range(2)"], trials=4)
    assert (found.num_trials, found.overrides, found.direction) == (4, ["train_loop.max_epochs=1"], "minimize")
    assert main(["sweep", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("optimizer.lr=") == 3
    file.write_text(file.read_text() + "direktion = 'minimize'\n")
    with pytest.raises(UsageError, match="Did you mean 'direction'"):
        read_search(str(file))


def test_the_policy_of_supervision_can_be_varied_like_any_other_value(config):
    search(config, {"supervision.max_retries": grid(1, 2)}).check()
    with pytest.raises(UsageError, match="Did you mean 'hang'"):
        search(config, {"supervision.hank": grid("stop")}).check()


def test_a_policy_under_another_name_is_refused(config, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from lazyengine.config import LazyCall as L\nfrom lazyengine.sweep import Supervision\n"
        "supervison = L(Supervision)(error='stop')\n"
    )
    with pytest.raises(UsageError, match="supervison is a Supervision that nothing reads: call it supervision"):
        supervision_of(LazyConfig.load(str(other)))
    assert supervision_of(LazyConfig.load(config))["silence_s"] == 60


def test_a_journal_whose_end_a_killed_writer_has_torn_is_mended(config, tmp_path):
    space = search(config, {"optimizer.lr": grid(0.1, 0.2, 0.3)})
    study = Study(str(tmp_path), space)
    trials = [study.next_trial(), study.next_trial()]
    with open(tmp_path / "study.journal", "ab") as file:
        file.write(b'{"op_code":6,"worker_id":"')
    again = Study(str(tmp_path), space)
    assert again.trials() == trials
    assert again.next_trial().overrides == ["optimizer.lr=0.3"]
    assert again.next_trial() is None
    assert [each.point for each in Study(str(tmp_path), space).trials()] == [0, 1, 2]
