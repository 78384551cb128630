"""tools/checkpoint.py: show, verify, export, average."""

import hashlib

import pytest
import torch

from lazyengine.checkpoint import CheckpointError, mark_latest_checkpoint, save_checkpoint
from lazyengine.cli.checkpoint import average_checkpoints, main


@pytest.fixture
def run(tmp_path):
    for epoch in (1, 2):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(epoch)
        model[1].num_batches_tracked.fill_(epoch)
        checkpoint = {"state_dict": model.state_dict(), "meta": {"epoch": epoch, "seed": 5}, "message": "x" * 300}
        save_checkpoint(checkpoint, tmp_path / f"epoch_{epoch}.pth")
    mark_latest_checkpoint(tmp_path / "epoch_2.pth")
    return tmp_path


def test_show(run, capsys):
    assert main(["show", str(run)]) == 0
    out = capsys.readouterr().out
    assert hashlib.sha256((run / "epoch_2.pth").read_bytes()).hexdigest() in out
    assert "7 tensors, 15 elements" in out
    assert "  epoch: 2" in out
    assert "  0.weight: float32 (2, 2)" in out
    assert "1.num_batches_tracked: int64 () = 2" in out
    assert max(map(len, out.splitlines())) < 250
    main(["show", str(run), "--depth", "1"])
    assert "0.weight" not in capsys.readouterr().out


def test_keys_of_others_do_not_reach_the_terminal_as_they_are(tmp_path, capsys):
    torch.save({"a\x1b[31m\n\x07": 1, "meta": {"\x1b]0;title\x07\r": "\x1b[2J"}}, tmp_path / "c.pth")
    assert main(["show", str(tmp_path / "c.pth"), "--depth", "3"]) == 0
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "a\\x1b[31m\\n\\x07: 1\n" in out


def test_verify(run, capsys):
    good, bad = run / "epoch_1.pth", run / "epoch_2.pth"
    assert main(["verify", str(good), str(run)]) == 0
    assert capsys.readouterr().out.count("ok ") == 2
    bad.write_bytes(bad.read_bytes()[:-100])
    assert main(["verify", str(good), str(bad), str(run / "none.pth")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "damaged", "damaged"]


def test_export(run, capsys):
    assert main(["export", str(run / "epoch_1.pth"), str(run / "model.pth")]) == 0
    assert list(torch.load(run / "model.pth")) == ["state_dict"]
    assert main(["export", str(run), str(run / "part.pth"), "--prefix", "0"]) == 0
    assert torch.load(run / "part.pth")["state_dict"]["weight"].eq(2).all()
    assert main(["export", str(run), str(run / "x.pth"), "--key", "ema"]) == 1
    assert "'state_dict', 'meta', 'message'" in capsys.readouterr().err
    assert main(["export", str(run), str(run / "x.safetensors"), "--key", "meta"]) == 1


def test_export_safetensors(run):
    from safetensors.torch import load_file

    assert main(["export", str(run), str(run / "m.safetensors")]) == 0
    expected = torch.load(run / "epoch_2.pth")["state_dict"]
    loaded = load_file(run / "m.safetensors")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[k], expected[k]) for k in expected)


def test_average(run):
    paths = [str(run / "epoch_1.pth"), str(run / "epoch_2.pth")]
    assert main(["average", *paths, "-o", str(run / "soup.pth")]) == 0
    state = torch.load(run / "soup.pth")["state_dict"]
    assert state["0.weight"].tolist() == [[1.5, 1.5]] * 2
    assert state["1.num_batches_tracked"].item() == 2
    assert state._metadata["1"] == {"version": 2}


def test_average_of_different_models(run, capsys):
    save_checkpoint({"0.weight": torch.ones(3, 2), "new": torch.ones(1)}, run / "other.pth")
    with pytest.raises(CheckpointError, match=r"'new'.*0\.weight: \(2, 2\) and \(3, 2\)"):
        average_checkpoints([run / "epoch_1.pth", run / "other.pth"])
    with pytest.raises(ValueError, match="at least one"):
        average_checkpoints([])


def test_mistakes(run, capsys):
    assert main(["show", str(run / "nothing.pth")]) == 1
    assert main(["show", str(run.parent)]) == 1
    assert "no last_checkpoint" in capsys.readouterr().err


class Foreign:
    pass


def test_objects_of_other_classes_are_shown_as_left_out(run, capsys):
    torch.save({"state_dict": {"w": torch.ones(1)}, "hub": Foreign()}, run / "foreign.pth")
    assert main(["show", str(run / "foreign.pth")]) == 0
    assert "hub: <an object that was not loaded>" in capsys.readouterr().out
    assert main(["export", str(run / "foreign.pth"), str(run / "w.pth")]) == 0
    assert torch.load(run / "w.pth")["state_dict"]["w"].item() == 1
