"""Damage is noticed, foreign files are explained, and nothing in a file is run."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import (
    CheckpointError,
    SkippedObject,
    find_latest_checkpoint,
    find_valid_checkpoint,
    list_checkpoints,
    mark_latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    summary_of,
    verify_checkpoint,
)

OLD_FILE = Path(__file__).parent / "golden" / "version_0_1_0.pth"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "iter_1.pth"
    save_checkpoint({"state_dict": {"w": torch.arange(300.0), "b": torch.ones(5)}, "meta": {"iter": 1}}, path)
    return path


def test_every_flipped_byte_of_every_record_is_noticed(path):
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [(info.header_offset, info) for info in archive.infolist()]
    num_flipped = 0
    for offset, info in records:
        start = offset + 30 + len(info.filename) + int.from_bytes(content[offset + 28 : offset + 30], "little")
        step = max(1, info.file_size // 40)
        for position in range(start, start + info.file_size, step):
            flipped = bytearray(content)
            flipped[position] ^= 1 << (position % 8)
            path.write_bytes(flipped)
            for function in (verify_checkpoint, read_checkpoint):
                with pytest.raises(CheckpointError, match="damaged") as caught:
                    function(path)
                assert str(path) in str(caught.value)
            num_flipped += 1
    assert num_flipped > 100
    path.write_bytes(content)
    assert read_checkpoint(path)["meta"] == {"iter": 1}


def test_a_flipped_byte_anywhere_is_noticed_or_harmless(path):
    content = path.read_bytes()
    expected = read_checkpoint(path)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    places = [(position, 0xFF) for position in range(0, directory, 11)]
    places += [(position, 1 << bit) for position in range(directory, len(content)) for bit in (4,)]
    for position, mask in places:
        flipped = bytearray(content)
        flipped[position] ^= mask
        path.write_bytes(flipped)
        try:
            loaded = read_checkpoint(path)
        except CheckpointError:
            continue
        assert loaded["meta"] == expected["meta"]
        assert all(torch.equal(loaded["state_dict"][k], expected["state_dict"][k]) for k in "wb")


def test_torch_alone_does_not_notice(path):
    """Why the checksums are compared at all; if this fails, torch has learned it."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/0")
    extra = int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], "little")
    content[info.header_offset + 30 + len(info.filename) + extra + 402] ^= 0x40
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state_dict"]["w"], torch.arange(300.0))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_truncated(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=r"damaged|empty") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web page"),
        (b"  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x1f\x8b\x08 something else", "starts with"),
    ],
)
def test_not_a_checkpoint_shows_the_first_bytes(tmp_path, content, part):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint") as caught:
        read_checkpoint(tmp_path / "c.pth")
    assert repr(content[:60]) in str(caught.value)
    assert part in str(caught.value)


def test_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        verify_checkpoint(tmp_path / "c.pth")


def test_missing_file_lists_close_names(path):
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'iter_1\.pth'"):
        read_checkpoint(path.parent / "iter1.pth")
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        read_checkpoint(path.parent / "no" / "iter1.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(path.parent)


class Malicious:
    def __init__(self, sentinel):
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return os.mkdir, (self.sentinel,)


class Malicious2(Malicious):
    def __reduce__(self):
        return exec, (f"open({self.sentinel!r}, 'w').close()",)


@pytest.mark.parametrize("new_format", [True, False])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, new_format):
    torch.save({"x": Malicious(tmp_path / "sentinel")}, tmp_path / "c.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"mkdir.*trusted=True"):
        read_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "sentinel").exists()
    read_checkpoint(tmp_path / "c.pth", trusted=True)
    assert (tmp_path / "sentinel").exists()  # so the file did hold the call


class Foreign:
    """A class that the reader does not have."""

    def __init__(self):
        self.value = torch.ones(2)


def test_objects_can_be_left_out_without_running_them(tmp_path):
    state = {"w": torch.ones(3), "hub": {"loss": Foreign(), "n": 1}, "x": [Malicious2(tmp_path / "sentinel")]}
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="skip_objects=True"):
        read_checkpoint(tmp_path / "c.pth")
    loaded = read_checkpoint(tmp_path / "c.pth", skip_objects=True)
    assert loaded["w"].tolist() == [1, 1, 1]
    assert loaded["hub"]["n"] == 1
    assert isinstance(loaded["hub"]["loss"], SkippedObject)
    assert vars(loaded["hub"]["loss"]) == {}
    assert isinstance(loaded["x"][0], SkippedObject)
    assert not (tmp_path / "sentinel").exists()
    with pytest.raises(CheckpointError):  # nothing stays allowed
        read_checkpoint(tmp_path / "c.pth")
    torch.save({"x": Malicious(tmp_path / "sentinel")}, tmp_path / "c.pth")  # os, sys, posix are never replaced
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "c.pth", skip_objects=True)
    assert not (tmp_path / "sentinel").exists()


def test_plain_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "sentinel"), protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "sentinel").exists()


def test_files_of_torch_itself_and_of_old_versions(tmp_path):
    state = {"w": torch.arange(5.0)}
    torch.save(state, tmp_path / "new.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "unchecked.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("new", "old", "unchecked"):
        verify_checkpoint(tmp_path / f"{name}.pth")
        assert torch.equal(read_checkpoint(tmp_path / f"{name}.pth")["w"], state["w"])


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors")
    assert read_checkpoint(tmp_path / "m.safetensors")["w"].tolist() == [1, 1]
    (tmp_path / "m.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        read_checkpoint(tmp_path / "m.safetensors")


def _make(folder, name, iteration=None):
    path = folder / name
    save_checkpoint({"meta": {} if iteration is None else {"iter": iteration}, "w": torch.zeros(10)}, path)
    return str(path)


def test_newest_valid_checkpoint_and_why_the_others_are_not(tmp_path):
    assert find_valid_checkpoint(tmp_path) is None
    assert find_valid_checkpoint(tmp_path / "absent") is None
    old, middle, new = (_make(tmp_path, f"{name}.pth", n) for name, n in [("z", 2), ("y", 9), ("x", 10)])
    (tmp_path / ".iter_3.pth.0123abcd.tmp").write_text("half")
    (tmp_path / "notes.txt").write_text("")
    assert list_checkpoints(tmp_path) == [new, middle, old]
    mark_latest_checkpoint(old)
    assert find_valid_checkpoint(tmp_path) == new  # newer than the pointer knows
    with open(new, "r+b") as file:
        file.truncate(500)
    rejected = []
    assert find_valid_checkpoint(tmp_path, lambda *why: rejected.append(why)) == middle
    assert [path for path, _ in rejected] == [new]
    assert "damaged" in rejected[0][1]
    rejected.clear()
    refuse = lambda path: "too new" if path == middle else None  # noqa: E731
    assert find_valid_checkpoint(tmp_path, lambda *why: rejected.append(why), refuse) == old
    assert rejected[1] == (middle, "too new")
    for path in (middle, old):
        open(path, "w").close()
    assert find_valid_checkpoint(tmp_path) is None


def test_files_that_do_not_say_where_they_are_are_ordered_by_number(tmp_path):
    paths = [_make(tmp_path, f"iter_{n}.pth") for n in (9, 10)]
    assert list_checkpoints(tmp_path) == paths[::-1]


def test_pointer(tmp_path):
    assert find_latest_checkpoint(tmp_path) is None
    path = _make(tmp_path, "iter_1.pth")
    for content in ("iter_1.pth\n", path):  # mmengine writes absolute paths
        (tmp_path / "last_checkpoint").write_text(content)
        assert find_latest_checkpoint(tmp_path) == path
    for content in ("../secret.pth", "/etc/passwd", "sub/x.pth", "", "."):
        (tmp_path / "last_checkpoint").write_text(content)
        with pytest.raises(CheckpointError, match="last_checkpoint"):
            find_latest_checkpoint(tmp_path)
    (tmp_path / "last_checkpoint").write_text("iter_2.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_latest_checkpoint(tmp_path)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_latest_checkpoint(tmp_path)


def test_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    path = _make(tmp_path, "outside.pth")
    (tmp_path / "run" / "a.pth").symlink_to(path)
    (tmp_path / "run" / "last_checkpoint").write_text("a.pth")
    with pytest.raises(CheckpointError, match="not in the folder"):
        find_latest_checkpoint(tmp_path / "run")


def test_zeros_behind_a_file_are_told_with_its_name(tmp_path):
    """As after a power cut."""
    save_checkpoint({"w": torch.ones(3)}, tmp_path / "a.pth")
    with open(tmp_path / "a.pth", "ab") as file:
        file.write(bytes(4096))
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged and cannot be loaded"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_of_version_0_1_0_is_read_with_its_checksums(tmp_path):
    """It was written by a zip writer of the package's own."""
    verify_checkpoint(OLD_FILE)
    loaded = read_checkpoint(OLD_FILE)["state_dict"]
    assert torch.equal(loaded["weight"], torch.arange(12.0).reshape(3, 4))
    assert loaded["weight"].data_ptr() == loaded["transposed"].data_ptr()
    assert summary_of(OLD_FILE)[:4] == (10, 2, True, "20260131_115900")
    content = bytearray(OLD_FILE.read_bytes())
    content[content.index(torch.arange(12.0).numpy().tobytes()) + 7] ^= 1
    (tmp_path / "old.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "old.pth")
