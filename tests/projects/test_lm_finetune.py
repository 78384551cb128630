"""A language model of transformers from scratch, then LoRA in it, at small size; the text is made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lazyengine.config import LazyConfig
from lazyengine.runner import Runner
from projects.lm_finetune.text import IGNORED, Speeches, decode, encode, loss_of_each, pad, pieces_of

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "lm_finetune"
SMALL = (
    *("llama.hidden_size=16", "llama.intermediate_size=16", "llama.num_hidden_layers=1", "dataset.context=24"),
    *("train_loop.max_iters=12", "train_loop.val_interval=6", "warmup.end=2", "decay.begin=2"),
    *("default_hooks.checkpoint.interval=4", "default_hooks.write_text.num_bytes=8", "optimizer.lr=1e-2"),
)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Speeches of 8 to 32 bytes."""
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text("".join(f"Nr {i}:\n{'la ' * (i % 9)}.\n\n" for i in range(200)), encoding="utf-8")
    return str(path)


def run(name: str, text_file: str, work_dir: Path, *overrides: str, **kwargs: Any) -> Runner:
    """Train a config at small size: 12 iterations, 6 steps."""
    cfg = LazyConfig.load(PROJECT / f"{name}.py")
    LazyConfig.apply_overrides(cfg, [f"dataset.file={text_file}", *SMALL, *overrides])
    runner = Runner.from_cfg(cfg, work_dir=str(work_dir), **kwargs)
    runner.train()
    return runner


@pytest.fixture(scope="module")
def base(text_file: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The model from scratch."""
    return run("config", text_file, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapted(base: Runner, text_file: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Adapters in it."""
    pytest.importorskip("peft")
    return run("lora_config", text_file, tmp_path_factory.mktemp("lora"), load_from(base))


def load_from(base: Runner) -> str:
    return f"runner.load_from.path={base.work_dir}/iter_12.pth"


def same(one: Runner, other: Runner) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.model.state_dict().items())


def test_it_learns_steps_every_second_iteration_and_writes(base):
    assert base.optim_wrapper.num_optimizer_steps == 6
    losses = base.message_hub.get_scalar("val/loss").data[0]
    assert losses[-1] < losses[0] < 5.6  # ln 256 = 5.55 at the start
    perplexity = base.message_hub.get_scalar("val/perplexity").current()
    assert perplexity == pytest.approx(torch.tensor(losses[-1]).exp().item(), rel=1e-5)
    rates = base.message_hub.get_scalar("train/lr").data[0]
    assert max(rates) == pytest.approx(1e-2)
    assert base.optim_wrapper.precision["dtype"] == "bfloat16"
    samples = (Path(base.log_dir) / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("==== after ") == 2
    assert samples.split("\n")[1].startswith("KING")


def test_the_logged_loss_is_by_tokens(base):
    assert len({tuple(piece["labels"].shape) for piece in map(base.train_dataloader.dataset.__getitem__, range(9))}) > 1
    batch = pad([base.train_dataloader.dataset[i] for i in range(8)])
    with torch.no_grad():
        total = base.model(**batch, mode="loss")["loss"]
        each = base.model(**batch, mode="predict")
    assert int(total.count) == int((batch["labels"][:, 1:] != IGNORED).sum()) == int(each["num"].sum())
    torch.testing.assert_close(total.sum, (each["loss"] * each["num"]).sum(), rtol=1e-4, atol=1e-4)


def test_a_resumed_run_ends_with_the_same_weights(base, text_file, tmp_path):
    resumed = run("config", text_file, tmp_path, resume=f"{base.work_dir}/iter_4.pth")
    assert same(base, resumed)
    texts = [(Path(each.log_dir) / "samples.txt").read_text(encoding="utf-8") for each in (base, resumed)]
    assert texts[0] == texts[1]


def test_the_adapters_alone_are_trained_and_saved(base, adapted):
    before = {name.removeprefix("network."): value for name, value in base.model.state_dict().items()}
    inside: Any = adapted.model.network
    with inside.disable_adapter():
        for name, value in inside.get_base_model().state_dict().items():
            if "lora_" not in name:
                assert torch.equal(value, before[name.replace(".base_layer", "")]), name
    saved = torch.load(Path(adapted.work_dir) / "iter_12.pth", weights_only=True)["state_dict"]
    trained = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    assert saved.keys() == trained
    assert all("lora_" in name for name in trained)
    losses = adapted.message_hub.get_scalar("val/loss").data[0]
    assert len(losses) == 3  # with the one before the first iteration
    assert losses[-1] < losses[0]
    assert set("abcdefghijklmnopqrstuvwxyz").isdisjoint(b"".join(adapted.train_dataloader.dataset.pieces).decode())


def test_adapters_resume_with_the_same_weights(base, adapted, text_file, tmp_path):
    resumed = run("lora_config", text_file, tmp_path, load_from(base), resume=f"{adapted.work_dir}/iter_4.pth")
    assert same(adapted, resumed)


def test_pieces_are_whole_speeches_and_all_of_the_text(text_file):
    speeches = [b"ab\n\n", b"c\n\n", b"defghijk\n\n", b"l\n\n"]
    assert pieces_of(speeches, 8) == [b"ab\n\nc\n\n", b"defghijk", b"\n\nl\n\n"]
    parts = [Speeches(text_file, split, context=24) for split in ("train", "val")]
    whole = b"".join(piece for part in parts for piece in part.pieces)
    text = Path(text_file).read_bytes()
    assert whole.replace(b"\n", b"") == text.replace(b"\n", b"")
    assert all(len(piece) <= 24 for part in parts for piece in part.pieces)
    assert decode(encode("ä\n".encode())) == "ä\n"
    with pytest.raises(ValueError, match="expected 'train' or 'val'"):
        Speeches(text_file, "test")  # type: ignore[arg-type]


def test_the_loss_of_each_sample_by_hand():
    class Output:
        logits = torch.zeros(2, 4, 256)

    labels = torch.tensor([[1, 2, 3, 4], [1, 2, IGNORED, IGNORED]])
    found = loss_of_each(Output(), labels)
    torch.testing.assert_close(found["loss"], torch.full((2,), 256.0).log())
    assert found["num"].tolist() == [3, 1]
