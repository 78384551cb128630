"""tools/evaluate.py: metrics from saved predictions."""

import sys

import pytest
import torch

from lazyengine.cli.evaluate import main, parse_metric
from lazyengine.config import LazyConfig
from lazyengine.errors import UsageError
from lazyengine.evaluator import Accuracy, save_results
from lazyengine.runner import Runner

CONFIG = """
from lazyengine.config import LazyCall as L
from lazyengine.evaluator import Accuracy, DumpResults, Evaluator
from {module} import Loader, Loop, Runner

val_loop = L(Loop)(
    dataloader=L(Loader)(),
    evaluator=L(Evaluator)(metrics=[L(Accuracy)(topk=(1, 2)), L(DumpResults)(out_file_path={dump!r})]),
)
runner = L(Runner)(val_loop=val_loop)
"""

METRIC = """
from lazyengine.evaluator import TensorMetric

class Right(TensorMetric):
    def __init__(self, of_data=False):
        super().__init__()
        self.of_data = of_data

    def process(self, data_batch, data_samples):
        label = data_batch["label"] if self.of_data else data_samples["label"]
        self.results.append(data_samples["scores"].argmax(1) == label)

    def compute_metrics(self, results):
        return {"right": results.double().mean()}
"""

PARTS = """
class Dataset:
    metainfo = {"classes": ["a", "b", "c", "d", "e"]}
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return {"label": 0}

class Loader:
    def __init__(self):
        self.dataset = Dataset()

class Loop:
    def __init__(self, dataloader, evaluator):
        raise AssertionError("no loop is built")

class Runner(Loop):
    def __init__(self, val_loop):
        pass
"""


@pytest.fixture
def results(tmp_path):
    path = str(tmp_path / "results.pt")
    scores = torch.eye(4, 5) + torch.linspace(0.4, 0, 5)
    save_results([{"scores": s, "label": y} for s, y in zip(scores, (0, 1, 2, 0))], path)
    return path


@pytest.fixture
def config(tmp_path, monkeypatch, results):
    module = f"parts_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(module=module, dump=results))
    return str(path)


def test_metrics_given_one_by_one(results, capsys):
    assert main([results, "--metric", "Accuracy(topk=(1, 2))", "--metric", "ConfusionMatrix(num_classes=5)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 samples of {results}"
    assert lines[1:3] == ["accuracy/top1: 0.75", "accuracy/top2: 1.0"]
    assert lines[3].startswith("confusion_matrix/mean_recall: ")


def test_metrics_of_a_config_which_does_not_overwrite_the_results(results, config, capsys):
    with open(results, "rb") as file:
        before = file.read()
    assert main([results, "--config", config, "val_loop.evaluator.metrics[0].topk=(1,)"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["accuracy/top1: 0.75"]
    with open(results, "rb") as file:
        assert file.read() == before


def test_one_of_several_loaders_of_a_config(results, config, capsys):
    with open(config, "a") as file:
        file.write("val_loop.evaluator = dict(clean=L(Accuracy)(), noisy=L(Accuracy)(topk=(2,)))\n")
    assert main([results, "--config", config, "--loader", "noisy"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["accuracy/top2: 1.0"]
    assert main([results, "--config", config]) == 2
    assert "has the loaders clean, noisy · name one by --loader" in capsys.readouterr().err


def test_the_data_of_a_config(tmp_path, config, capsys):
    path = str(tmp_path / "unlabelled.jsonl")
    save_results([{"scores": s} for s in torch.eye(4, 5)], path)
    assert main([path, "--config", config, "--with-data", "--metric", "ConfusionMatrix"]) == 0
    assert "accuracy/top1: 0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loader", "is_known"),
    [
        ("DataLoader(Dataset(), batch_size=3, sampler=[0, 2, 3])", True),
        ("DataLoader(Dataset(), batch_size=3, drop_last=True)", True),
        ("TorchLoader(Dataset(), batch_sampler=[[0, 1], [3]])", True),
        ("DataLoader(Dataset(), batch_size=3, shuffle=True)", False),
        ("TorchLoader(Dataset(), batch_sampler=[[3, 1], [0]])", False),
        ("TorchLoader(Stream(), batch_size=3)", False),
    ],
)
def test_the_data_belongs_to_the_predictions(tmp_path, config, capsys, loader, is_known):
    """What was predicted of a shuffled dataset was compared with the labels of the dataset in order."""
    with open(config) as file:
        text = file.read().replace("import Loader, Loop", "import make, Loop").replace("L(Loader)()", "L(make)()")
    (tmp_path / "made_loaders.py").write_text(
        PARTS.replace('"label": 0', '"label": index')
        + "from torch.utils.data import DataLoader as TorchLoader, IterableDataset\n"
        + "from lazyengine.dataset import DataLoader\n"
        + "class Stream(IterableDataset):\n    def __iter__(self):\n        return iter([{'label': 0}] * 3)\n"
        + f"def make():\n    return {loader}\n"
    )
    sys.modules.pop("made_loaders", None)
    lines = [
        line.replace(line.split()[1], "made_loaders") if "import make" in line else line for line in text.splitlines()
    ]
    (tmp_path / "made_config.py").write_text("\n".join(lines))
    path = str(tmp_path / "unlabelled.pt")
    order = [0, 1, 3] if "[3]" in loader else [0, 2, 3] if "[0, 2" in loader else [0, 1, 2]
    save_results([{"scores": s} for s in torch.eye(4, 5)[order]], path)
    code = main([path, "--config", str(tmp_path / "made_config.py"), "--with-data"])
    out, err = capsys.readouterr()
    assert (code, "accuracy/top1: 1.0" in out) == ((0, True) if is_known else (2, False))
    assert is_known or "is shuffled, or a stream · save predictions with the labels" in err


DATA = """
import torch
from lazyengine.model import BaseModel

class Data(torch.utils.data.Dataset):
    def __init__(self, labels, path="none"):
        self.labels, self.path = torch.tensor(labels), path
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        return {"label": self.labels[index]}

class Others(Data):
    pass

class Zeros(BaseModel):
    def forward(self, label, mode="tensor"):
        return {"scores": torch.eye(2)[torch.zeros_like(label)]}
"""
LOOPS = """
from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.evaluator import Accuracy, DumpResults
from lazyengine.runner import Runner, ValLoop
from {module} import Data, Others, Zeros

def loop(data):
    metrics = [L(Accuracy)(), L(DumpResults)(out_file_path={dump!r})]
    return L(ValLoop)(dataloader=L(DataLoader)(dataset=data, batch_size=2), evaluator=metrics)

val_loop = loop(L(Data)(labels=[0, 1, 0, 0]))
test_loop = loop({other})
runner = L(Runner)(model=L(Zeros)(), val_loop=val_loop, test_loop=test_loop)
"""


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ("L(Data)(labels=[1, 1, 1, 0])", "data: the data are other ones (labels, path)"),
        ("L(Data)(labels=[0, 1, 0, 0], path='cropped')", "data: the data are other ones (labels, path)"),
        ("L(Others)(labels=[0, 1, 0, 0])", "data: the class of the data was "),
        ("L(Data)(labels=[0, 1, 0, 0, 1])", "data: the number of samples was 4 and is 5"),
        ("L(Data)(labels=[0, 1, 0, 0])", None),
    ],
    ids=["labels", "argument", "class", "length", "the same"],
)
def test_predictions_are_compared_with_the_samples_that_they_are_of(tmp_path, monkeypatch, capsys, other, differs):
    """Those of another dataset of as many samples were taken for them."""
    module = f"data_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(DATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    dump = str(tmp_path / "results.pt")
    config = tmp_path / "config.py"
    config.write_text(LOOPS.format(module=module, dump=dump, other=other))
    Runner.from_cfg(LazyConfig.load(str(config)), work_dir=str(tmp_path / "run")).val()
    capsys.readouterr()
    arguments = [dump, "--config", str(config), "--with-data"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["accuracy/top1: 0.75"]
    assert main([*arguments, "--loop", "test_loop"]) == (0 if differs is None else 2)
    err = capsys.readouterr().err
    if differs is not None:
        assert f"results.pt are of other data than {config} has (test_loop): {differs}" in " ".join(err.split())
        assert "add --other-data" in err
        code = 2 if "number" in differs else 0  # they cannot be paired
        assert main([*arguments, "--loop", "test_loop", "--other-data"]) == code


def test_predictions_that_do_not_say_of_what_they_are(config, results, capsys):
    assert main([results, "--config", config, "--with-data"]) == 0
    assert "does not say of which data its predictions are" in " ".join(capsys.readouterr().err.split())
    assert main([results, "--metric", "Accuracy", "--with-data"]) == 2
    assert "--with-data: the data are those of a config: name it with --config FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "samples", "message"),
    [
        ("Accuracy", [{"label": 0}], "Accuracy: no 'scores' in the predictions"),
        ("Accuracy", [{"scores": torch.ones(2)}], "Accuracy: no 'label' in the predictions"),
        ("Accuracy(topk=5)", [{"scores": torch.ones(2), "label": 0}], "needs scores (N, C) with C >= 5, got (1, 2)"),
        ("Accuracy(pred_key='name')", [{"name": "a", "label": 0}], "Accuracy: 'name' must be a tensor or numbers"),
        ("Accuracy", [{"scores": 0.5, "label": 0}], "tells no class"),
        ("ConfusionMatrix", [{"label": 0}], "ConfusionMatrix: no 'scores' in the predictions"),
        ("ConfusionMatrix", [{"scores": torch.ones(2), "label": -1}], "1 times a label is none of the"),
        ("MeanIoU", [{"label": 0}], "MeanIoU: no 'scores' in the predictions"),
        (
            "MeanIoU",
            [{"scores": torch.ones(2, dtype=torch.long), "label": torch.ones(2, dtype=torch.long)}],
            "needs num_classes",
        ),
        ("MeanLoss", [{"label": 0}], "MeanLoss: no 'loss' in the predictions"),
        ("Perplexity(weight_key='tokens')", [{"loss": 1.0}], "Perplexity: no 'tokens' in the predictions"),
        ("MeanLoss", [{"loss": torch.ones(2, 2)}], "'loss' must be (N,) or a scalar, got (1, 2, 2)"),
        ("DumpResults('x.pt', keys=['boxes'])", [{"label": 0}], "no 'boxes' in the predictions"),
        ("Accuracy", [], "Accuracy has no samples to compute from"),
        ("Accuracy", [1, 2], "Accuracy: no 'scores' in the predictions"),
    ],
)
def test_predictions_without_what_a_metric_reads(tmp_path, monkeypatch, capsys, metric, samples, message):
    """A missing field was a traceback."""
    monkeypatch.chdir(tmp_path)
    save_results(samples, "lacking.pt")
    assert main(["lacking.pt", "--metric", metric]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_metric_for_batches_of_a_project_that_is_not_installed(tmp_path, results, config, capsys, monkeypatch):
    package = f"project_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "metrics.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    assert main([results, "--metric", f"{package}.metrics.Right"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["right: 0.75"]
    assert main([results, "--config", config, "--with-data", "--metric", f"{package}.metrics.Right(of_data=True)"]) == 0
    assert "right: 0.25" in capsys.readouterr().out


def test_a_refusal_of_a_metric_ends_with_code_2(results, capsys):
    assert main([results, "--metric", "Accuracy(results_per_sample=3)"]) == 2
    assert "Accuracy kept 4 results" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no metric to compute"),
        (["--metric", "Acuracy"], "has no 'Acuracy'. Did you mean 'Accuracy'?"),
        (["--metric", "torch.nn.Linear(2, 2)"], "torch.nn.Linear: expected the name of a metric"),
        (["--metric", "no_such_package.Metric"], "Cannot import target 'no_such_package.Metric'"),
        (["--metric", "Accuracy(topk=open('x'))"], "expected a name, or a call with literal arguments"),
        (["--metric", "Accuracy(topk=0)"], "topk needs different numbers"),
        (["--config", "nowhere.py"], "nowhere.py"),
    ],
)
def test_mistakes_end_with_code_2(results, capsys, arguments, message):
    assert main([results, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_results_file_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "none.jsonl"), "--metric", "Accuracy"]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pt"), "--metric", "Accuracy"]) == 2
    assert "none.pt" in capsys.readouterr().err
    (tmp_path / "results.pkl").write_bytes(b"")
    assert main([str(tmp_path / "results.pkl"), "--metric", "Accuracy"]) == 2
    assert "reading a pickle can run any code" in capsys.readouterr().err


def test_parse_metric():
    metric = parse_metric("lazyengine.evaluator.Accuracy((1, 3), prefix='a')")
    assert isinstance(metric, Accuracy)
    assert (metric.topk, metric.prefix) == ((1, 3), "a")
    with pytest.raises(UsageError, match="expected a name"):
        parse_metric("Accuracy(")
