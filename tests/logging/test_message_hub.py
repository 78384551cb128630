import io

import numpy as np
import pytest
import torch

from lazyengine.logging import MessageHub


@pytest.fixture
def hub():
    return MessageHub("test")


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_scalars_of_all_kinds(hub):
    for value in (1.5, 2, np.float32(0.5), torch.tensor(3.0), np.array([4.0]), torch.ones(1, 1)):
        hub.update_scalar("train/loss", value)
    assert hub.get_scalar("train/loss").data[0].tolist() == [1.5, 2, 0.5, 3, 4, 1]
    assert list(hub.log_scalars) == ["train/loss"]


def test_several_scalars_with_counts(hub):
    hub.update_scalars({"a": 1, "b": {"value": torch.tensor(6.0), "count": 3}, "c": {"value": 2.0}})
    assert [hub.get_scalar(key).mean() for key in "abc"] == [1, 2, 2]
    with pytest.raises(ValueError, match=r"'a' needs `value`, got the keys \['val'\]"):
        hub.update_scalars({"a": {"val": 1}})


def test_errors_name_the_key(hub):
    with pytest.raises(TypeError, match=r"must be a number or have one element, got tensor\(\[1., 1.\]\)") as caught:
        hub.update_scalar("train/loss", torch.ones(2))
    assert caught.value.__notes__ == ["scalar 'train/loss' of the message hub 'test'"]
    hub.update_scalar("train/acc", 1.0)
    with pytest.raises(KeyError, match=r"no scalar 'acc'.*recorded are: train/acc, train/loss"):
        hub.get_scalar("acc")


def test_nothing_is_read_before_it_is_asked_for_and_then_all_at_once(hub, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    for i in range(4):
        hub.update_scalar("a", torch.tensor(float(i)))
        hub.update_scalar("b", torch.tensor(float(10 * i)))
    a = hub.get_scalar("a")
    copies = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))
    assert a.mean(2) == 2.5
    assert copies == [(8,)]
    assert hub.get_scalar("b").current() == 30
    assert copies == [(8,)]


def test_flush_reads_everything(hub, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    hub.update_scalar("a", torch.tensor(1.0))
    assert len(hub.get_scalar("a")._pending) == 1
    hub.flush()
    assert not hub.get_scalar("a")._pending


def test_the_quick_way(hub):
    update = hub.scalar_updater("train/time")
    update(0.5)
    update(torch.tensor(1.5))
    hub.update_scalar("train/time", 2.5)
    assert hub.get_scalar("train/time").data[0].tolist() == [0.5, 1.5, 2.5]
    assert hub.scalar_updater("train/time") == update
    hub.load_state_dict(MessageHub("other").state_dict())
    other = MessageHub("other")
    other.update_scalar("train/time", 9.0)
    hub.load_state_dict(other.state_dict())
    update(1.0)
    assert hub.get_scalar("train/time").data[0].tolist() == [9.0, 1.0]


def test_information(hub):
    hub.update_info("iter", 3)
    hub.update_info_dict({"epoch": 1, "loop_stage": "train"})
    assert (hub.get_info("iter"), hub.get_info("none"), hub.get_info("none", 5)) == (3, None, 5)
    assert hub.pop_info("loop_stage") == "train"
    assert hub.pop_info("loop_stage", "gone") == "gone"
    assert hub.runtime_info == {"iter": 3, "epoch": 1}


def test_a_key_is_resumed_or_not(hub):
    hub.update_scalar("a", 1.0, resumed=False)
    with pytest.raises(ValueError, match=r"'a' was recorded with resumed=False and now with resumed=True"):
        hub.update_scalar("a", 1.0)
    hub.update_info("b", 1)
    with pytest.raises(ValueError, match="'b' was recorded with resumed=True"):
        hub.update_info("b", 1, resumed=False)
    with pytest.raises(TypeError, match="keys are str, got 3"):
        hub.update_info(3, 1)  # type: ignore[arg-type]


def test_state_has_plain_types_and_comes_back(hub):
    hub.update_scalar("train/loss", torch.tensor(2.0))
    hub.update_scalar("secret", 1.0, resumed=False)
    info = {
        "iter": np.int64(7), "meta": {"classes": ("cat", "dog"), "palette": np.array([[1, 2]])}, "none": None,
        "tensor": torch.ones(2), "flag": True, "names": ["a"],
    }  # fmt: skip
    hub.update_info_dict(info)
    hub.update_info("local", object(), resumed=False)
    new = MessageHub("new")
    new.update_scalar("kept", 5.0)
    new.load_state_dict(through_file(hub.state_dict()))
    new.update_scalar("train/loss", 4.0)
    assert new.get_scalar("train/loss").mean() == 3
    assert new.get_scalar("kept").current() == 5
    assert "secret" not in new.log_scalars
    loaded = new.runtime_info
    assert set(loaded) == set(info)
    assert (loaded["iter"], loaded["none"], loaded["flag"], loaded["names"]) == (7, None, True, ["a"])
    assert loaded["meta"]["classes"] == ("cat", "dog")
    assert loaded["meta"]["palette"].tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="resumed=True"):
        new.update_scalar("train/loss", 4.0, resumed=False)


def test_a_state_is_a_copy(hub):
    names = ["a"]
    hub.update_info("names", names)
    hub.update_scalar("loss", 1.0)
    state = hub.state_dict()
    names.append("b")
    hub.update_scalar("loss", 2.0)
    assert state["runtime_info"]["names"] == ["a"]
    assert state["log_scalars"]["loss"]["values"].tolist() == [1.0]


def test_information_without_a_plain_form_is_reported_once(hub, log_lines):
    hub.update_info("model", object())
    for _ in range(2):
        assert through_file(hub.state_dict()) == {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
    assert len(log_lines) == 1
    assert log_lines[0].startswith("cannot save runtime information 'model' of type builtins.object")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recording_never_waits_for_the_device(hub):
    loss = torch.ones((), device="cuda", requires_grad=True) * 2
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            hub.update_scalars({"train/loss": loss, "train/half": loss.half(), "train/lr": 0.1})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [hub.get_scalar(key).mean() for key in ("train/loss", "train/half")] == [2, 2]
