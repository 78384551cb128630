"""Local and remote paths, and files that are whole or absent."""

import fcntl
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lazyengine import fileio


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; gives its URL, the folder and the paths asked for."""
    folder = tmp_path / "served"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "a.pth").write_bytes(b"content of a")
    monkeypatch.setenv("LAZYENGINE_CACHE", str(tmp_path / "cache"))
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{running.server_port}", folder=folder, asked=asked)
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", False),
        ("a.pth", False),
        ("~/a", False),
        ("file:///a", False),
        ("C:\\a", False),
        ("https://host/a", True),
        ("s3://bucket/a", True),
    ],
)
def test_is_remote(path, expected):
    assert fileio.is_remote(path) is expected


def test_join():
    assert fileio.join("a", "b", "c") == os.path.join("a", "b", "c")
    assert fileio.join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"


def test_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with fileio.open(f"file://{tmp_path}/f.txt", "w", encoding="utf-8") as file:
        file.write("é")
    with fileio.open("~/f.txt", encoding="utf-8") as file:
        assert file.read() == "é"
    assert fileio.isfile("~/f.txt")
    assert not fileio.isfile("~")
    assert fileio.get_local_path("~/x") == str(tmp_path / "x")


def test_local_paths_do_not_import_iopath(tmp_path):
    code = """
import sys
from lazyengine import fileio
with fileio.atomic_write(sys.argv[1]) as file:
    file.write(b"x")
assert fileio.isfile(sys.argv[1]) and fileio.get_local_path(sys.argv[1]) == sys.argv[1]
print([name for name in ("iopath", "torch", "tqdm", "portalocker") if name in sys.modules])
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-c", code, str(tmp_path / "f")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": root})
    assert done.stdout.strip() == "[]"


def test_url_is_downloaded_once(server, tmp_path):
    url, asked = server.url, server.asked
    local = fileio.get_local_path(f"{url}/models/a.pth")
    assert Path(local).read_bytes() == b"content of a"
    assert os.path.commonpath([local, tmp_path / "cache"]) == str(tmp_path / "cache")
    with fileio.open(f"{url}/models/a.pth", "rb") as file:
        assert file.read() == b"content of a"
    assert len(asked) == 1


def test_hosts_and_queries_do_not_share_a_file(server):
    url = server.url
    (server.folder / "models" / "a.pth").write_bytes(b"version 2")
    first = fileio.get_local_path(f"{url}/models/a.pth?version=1/../../x")
    second = fileio.get_local_path(f"{url}/models/a.pth?version=2")
    third = fileio.get_local_path(f"{url.replace('127.0.0.1', 'localhost')}/models/a.pth")
    assert len({first, second, third}) == 3


def test_an_archive_that_was_cut_off_is_not_kept(server, tmp_path):
    """The server itself has only half of it, for once."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"content" * 1000)
    whole, file = buffer.getvalue(), server.folder / "models" / "b.pth"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"the archive has no end; nothing was kept in .*b\.pth\.part"):
        fileio.get_local_path(f"{server.url}/models/b.pth")
    assert [path.name for path in tmp_path.glob("cache/*/models/*") if path.suffix != ".lock"] == []
    file.write_bytes(whole)
    assert Path(fileio.get_local_path(f"{server.url}/models/b.pth")).read_bytes() == whole


@pytest.mark.parametrize(
    "path",
    [
        "../../../evil.pth",
        "a/../../../../evil.pth",
        "a/..",
        "%2e%2e/%2e%2e/evil.pth",
        "..%2f..%2fevil.pth",
        "a\\..\\evil.pth",
        "",
    ],
)
def test_url_that_leaves_the_cache_is_refused_before_it_is_asked_for(server, tmp_path, path):
    url, asked = server.url, server.asked
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"refused to download|cannot download"):
        fileio.get_local_path(f"{url}/{path}")
    assert asked == []
    assert sorted(tmp_path.rglob("*")) == before


def test_link_in_the_cache_that_leads_out_is_refused(server, tmp_path):
    url = server.url
    host = url.removeprefix("http://").replace(":", "_")
    (tmp_path / "cache" / host).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache" / host / "models").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="outside of"):
        fileio.get_local_path(f"{url}/models/a.pth")
    assert list((tmp_path / "outside").iterdir()) == []


def test_failed_download_leaves_no_file(server, tmp_path):
    url = server.url
    with pytest.raises(OSError, match="404"):
        fileio.get_local_path(f"{url}/models/missing.pth")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_handlers_of_ones_own(tmp_path):
    from iopath.common.file_io import PathHandler

    class Memory(PathHandler):
        def _get_supported_prefixes(self):
            return ["memory://"]

        def _get_local_path(self, path, force=False, **kwargs):
            target = tmp_path / path.removeprefix("memory://")
            target.write_text("from memory")
            return str(target)

        def _isfile(self, path, **kwargs):
            return path.endswith("here")

    fileio.path_manager().register_handler(Memory(), allow_override=True)
    assert Path(fileio.get_local_path("memory://x")).read_text() == "from memory"
    assert fileio.isfile("memory://here")
    assert not fileio.isfile("memory://absent")


def test_atomic_write(tmp_path):
    path = tmp_path / "f"
    with fileio.atomic_write(path, "w", encoding="utf-8") as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(ValueError, match="mode"), fileio.atomic_write(path, "a"):
        pass


def test_atomic_write_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    writing = fileio.atomic_write(path)
    writing.__enter__().write(b"new")
    assert writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is not True
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(FileNotFoundError) as caught, fileio.atomic_write(tmp_path / "no" / "f"):
        pass
    assert caught.value.filename == str(tmp_path / "no" / "f")


def test_leftovers(tmp_path):
    leftover = tmp_path / ".c.pth.0123abcd.tmp"
    leftover.write_text("half")
    keep = [".hidden", ".other.tmp", "c.pth.0123abcd.tmp"]
    for name in keep:
        (tmp_path / name).write_text("x")
    young = tmp_path / ".d.pth.00000000.tmp"
    young.write_text("")  # its writer may be about to lock it
    with fileio.atomic_write(tmp_path / "running") as file:
        file.write(b"x" * 100_000)
        (running,) = (name for name in os.listdir(tmp_path) if name.startswith(".running"))
        assert fileio.remove_leftovers(tmp_path) == [str(leftover)]
        assert sorted(os.listdir(tmp_path)) == sorted([*keep, young.name, running])
    with open(tmp_path / ".e.0123abcd.tmp", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"x")
        other.flush()
        assert fileio.remove_leftovers(tmp_path) == []
    assert len(fileio.remove_leftovers(tmp_path)) == 1
    assert fileio.remove_leftovers(tmp_path / "absent") == []


def test_temporary_files_follow_no_link(tmp_path, monkeypatch):
    """Even one that was put where the name is expected."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr(os, "urandom", lambda n: bytes(n))
    (tmp_path / f".target.{bytes(8).hex()}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), fileio.atomic_write(tmp_path / "target") as file:
        file.write(b"new")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "target").exists()


def test_leftovers_are_not_followed_as_links(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".x.0123456789abcdef.tmp").symlink_to(victim)
    fileio.remove_leftovers(tmp_path)
    assert victim.read_text() == "untouched"


def test_a_folder_that_cannot_be_written_to_is_told_with_the_advice(tmp_path):
    fileio.check_writable(tmp_path / "new", "advice")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        fileio.check_writable(tmp_path / "file" / "new", "choose another")
    assert caught.value.__notes__ == ["choose another"]
