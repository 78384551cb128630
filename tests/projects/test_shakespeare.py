"""The character GPT at small size, through its configs."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lazyengine.cli.train import main
from lazyengine.config import LazyConfig
from lazyengine.runner import Runner
from projects.shakespeare import plain_loop, sample
from projects.shakespeare.gpt import GPT, rotate
from projects.shakespeare.text import CharText, decode, encode

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "shakespeare"
SMALL = (
    *("model.width=16", "model.num_layers=2", "model.num_heads=2", "dataset.context=16", "val_dataset.num_windows=24"),
    *("train_loop.max_iters=8", "train_loop.val_interval=4", "default_hooks.checkpoint.interval=4"),
    *(
        "warmup.end=2",
        "decay.begin=2",
        "default_hooks.sample_text.num_characters=20",
        "default_hooks.logger.interval=4",
    ),
)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text of few characters, 65 different ones, as Shakespeare's."""
    characters = "".join(chr(code) for code in range(33, 97)) + "\n"
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text(characters * 20, encoding="utf-8")
    return str(path)


def run(name: str, text_file: str, work_dir: Path, *overrides: str, **kwargs: Any) -> Runner:
    """Train a config of the project at small size."""
    cfg = LazyConfig.load(PROJECT / f"{name}.py")
    LazyConfig.apply_overrides(cfg, [f"dataset.file={text_file}", *SMALL, *overrides])
    runner = Runner.from_cfg(cfg, work_dir=str(work_dir), **kwargs)
    runner.train()
    return runner


@pytest.mark.parametrize("name", ["config", "better_config"])
def test_trains_writes_text_and_keeps_the_best(name, text_file, tmp_path):
    runner = run(name, text_file, tmp_path)
    assert runner.iter == 8
    losses = runner.message_hub.get_scalar("val/loss").data[0]
    assert losses[-1] < losses[0] < 4.3  # ln 65 = 4.17 at the start
    samples = (Path(runner.log_dir) / "samples.txt").read_text(encoding="utf-8")
    assert [line for line in samples.split("\n") if line.startswith("==== ")] == [
        "==== after 4 iterations",
        "==== after 8 iterations",
    ]
    assert (tmp_path / "best_loss_iter_8.pth").exists()


def test_a_resumed_run_ends_with_the_same_weights(text_file, tmp_path):
    whole = run("config", text_file, tmp_path / "whole", "model.dropout=0.1")
    resumed = run(
        *("config", text_file, tmp_path / "resumed", "model.dropout=0.1"), resume=str(tmp_path / "whole" / "iter_4.pth")
    )
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_the_sample_script_writes_from_a_checkpoint_without_the_text(text_file, tmp_path, capsys):
    cfg = LazyConfig.load(PROJECT / "config.py")
    LazyConfig.apply_overrides(cfg, [f"dataset.file={text_file}", *SMALL, "train_loop.max_iters=4"])
    Runner.from_cfg(cfg, work_dir=str(tmp_path)).train()
    capsys.readouterr()
    assert sample.main([str(tmp_path / "iter_4.pth"), "--prompt", "AB", "--length", "7"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("AB")
    assert len(written) == 2 + 7 + 1
    with pytest.raises(ValueError, match="knows no 'é'"):
        sample.main([str(tmp_path / "iter_4.pth"), "--prompt", "é"])


def test_the_gpu_config_trains_on_a_cpu_too(text_file, tmp_path):
    loader = "train_loop.dataloader."
    cpu = [f"{loader}num_workers=0", f"{loader}pin_memory=false", f"{loader}persistent_workers=false"]
    runner = run("gpu_config", text_file, tmp_path, *cpu, "model_setup.compile=false", f"{loader}batch_size=4")
    assert runner.iter == 8


@pytest.mark.parametrize(("name", "parameters"), [("gpu_config", "10,745,088"), ("fsdp_config", "10,745,088")])
def test_the_large_configs_can_be_dry_run(name, parameters, capsys):
    assert main(["--config", str(PROJECT / f"{name}.py"), "--dry-run", "dataset.file=missing.txt"]) == 0
    out = capsys.readouterr().out
    assert f"GPT: {parameters} parameters" in out
    assert ("FSDP2" in out) == (name == "fsdp_config")


def test_the_plain_loop_runs(text_file, capsys):
    assert 0 < plain_loop.run(text_file, num_iters=2, num_val_batches=2) < 4.5
    assert "iteration 0: loss 4." in capsys.readouterr().out


@pytest.mark.parametrize("rotary", [False, True])
def test_generate_takes_the_likeliest_character_each_time(rotary):
    torch.manual_seed(0)
    model = GPT(vocab_size=11, context=8, num_layers=2, num_heads=2, width=16, rotary=rotary, qk_norm=rotary).eval()
    text = [3, 1]
    for _ in range(12):  # goes beyond the context
        text.append(int(model(torch.tensor([text[-8:]]))[0, -1].argmax()))
    assert model.generate(torch.tensor([3, 1]), 12, temperature=0).tolist() == text


def test_rotated_products_depend_on_the_distance_alone():
    q, k = (torch.randn(8).expand(10, 8) for _ in range(2))
    products = rotate(q) @ rotate(k).T
    for distance in range(-9, 10):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_windows_and_what_follows(text_file):
    data = CharText(text_file, "val", context=5, num_windows=3)
    characters = data.metainfo["characters"]
    text = Path(text_file).read_text(encoding="utf-8")
    assert len(characters) == 65
    for index in range(3):
        seen, following = (decode(data[index][name].tolist(), characters) for name in ("tokens", "targets"))
        assert seen[1:] == following[:-1]
        assert seen + following[-1] in text
    assert decode(encode("ABBA\n", characters).tolist(), characters) == "ABBA\n"
    with pytest.raises(ValueError, match="a window takes 201"):
        CharText(text_file, "val", context=200)


def test_the_text_comes_by_url_once(text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LAZYENGINE_CACHE", str(tmp_path))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(Path(text_file).parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/input.txt"
        first = CharText(url, "val", context=5)
        server.shutdown()
    assert torch.equal(CharText(url, "val", context=5).tokens, first.tokens)
    assert torch.equal(CharText(text_file, "val", context=5).tokens, first.tokens)
