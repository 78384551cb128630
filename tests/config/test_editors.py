"""Editors on a config: completion and go-to-definition, asked of pyright's language server and of jedi.

Two things neither does, whatever a config looks like: pyright goes nowhere from the name of an argument of a call whose
signature is a ParamSpec (it shows the signature), and jedi, which knows no ParamSpec, completes no arguments of a node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
MODEL = '''
class Net:
    """A network."""

    def __init__(self, width: int = 4, depth: int = 2, dropout: float = 0.0) -> None:
        self.width = width
'''
BASE = """
from lazyengine.config import LazyCall as L
from parts import Net

model = L(Net)(width=4)
learning_rate = 0.1
"""
CHILD = """
from base import *
from lazyengine.config import LazyCall as L
from parts import Net

other = L(Net)(width=8, dropout=0.1)
model.width = 16
copied = learning_rate
more = L(Net)()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class, a base config and a config over it."""
    tmp_path = tmp_path_factory.mktemp("project")
    for name, text in (("parts", MODEL), ("base", BASE), ("child", CHILD)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(REPO)]}))
    return tmp_path


def place(text: str, marker: str, offset: int = 0) -> tuple[int, int]:
    """Return line and column, both from 0, of a text's part."""
    before = text[: text.index(marker) + offset]
    return before.count("\n"), len(before) - before.rfind("\n") - 1


class Server:
    """A language server that is spoken to over its standard input and output."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        self._answers: Queue[dict[str, Any]] = Queue()
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()
        uri = folder.as_uri()
        workspace = [{"uri": uri, "name": "project"}]
        capabilities = {"workspace": {"configuration": True, "workspaceFolders": True}}
        options = {"processId": None, "rootUri": uri, "capabilities": capabilities, "workspaceFolders": workspace}
        self.ask("initialize", **options)
        self.tell("initialized")

    def tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def ask(self, method: str, **params: Any) -> Any:
        """Send a request and return its result."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            try:
                answer = self._answers.get(timeout=120)
            except Empty:
                raise TimeoutError(f"the language server did not answer {method} within 120 s") from None
            if answer["id"] == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def ask_about(self, method: str, path: Path, text: str, line: int, character: int) -> Any:
        """Open a file with a text, which need not be the one that it has, and ask about a place of it."""
        document = {"uri": path.as_uri(), "languageId": "python", "version": 1, "text": text}
        self.tell("textDocument/didOpen", textDocument=document)
        answer = self.ask(
            f"textDocument/{method}", textDocument=document, position={"line": line, "character": character}
        )
        self.tell("textDocument/didClose", textDocument=document)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> None:
        out: Any = self._process.stdout
        while header := out.readline():
            length = int(header.split(b":")[1])
            while out.readline().strip():
                pass
            message = json.loads(out.read(length))
            if "method" not in message:
                self._answers.put(message)
            elif "id" in message:  # a question of the server's: it has no settings
                items = message.get("params", {}).get("items", [])
                self._send({"id": message["id"], "result": [None] * len(items) if items else None})


@pytest.fixture(scope="module")
def pyright(project: Path) -> Iterator[Server]:
    """Pyright's language server on the project."""
    pytest.importorskip("pyright")
    command = shutil.which("pyright-langserver")
    if command is None:
        pytest.skip("pyright-langserver is not on the PATH")
    server = Server([command, "--stdio"], project)
    yield server
    server.close()


def completions(server: Server, path: Path, text: str, marker: str) -> set[str]:
    """Return what is offered behind a part of a text that is being typed."""
    found = server.ask_about("completion", path, text, *place(text, marker, len(marker)))
    return {item["label"] for item in (found["items"] if isinstance(found, dict) else found)}


def definition(server: Server, path: Path, marker: str) -> list[tuple[str, int]]:
    """Return file and line, from 1, of where a name is defined."""
    text = path.read_text()
    found = server.ask_about("definition", path, text, *place(text, marker, 1))
    return [(each["uri"].rpartition("/")[2], each["range"]["start"]["line"] + 1) for each in found or ()]


@pytest.mark.slow
def test_pyright_completes_the_arguments_of_a_node(pyright, project):
    text = CHILD.replace("more = L(Net)()", "more = L(Net)(d)")
    assert {"depth=", "dropout="} <= completions(pyright, project / "child.py", text, "L(Net)(d")


@pytest.mark.slow
def test_pyright_goes_from_a_class_in_a_node_to_its_definition(pyright, project):
    assert definition(pyright, project / "child.py", "Net)(width=8") == [("parts.py", 2)]


@pytest.mark.slow
def test_pyright_shows_the_signature_and_the_page_of_the_class_behind_a_node(pyright, project):
    path, text = project / "child.py", CHILD.replace("more = L(Net)()", "more = L(Net)(")
    (signature,) = pyright.ask_about("signatureHelp", path, text, *place(text, "L(Net)(\n", 7))["signatures"]
    assert "width: int = 4, depth: int = 2, dropout: float = 0" in signature["label"]


@pytest.mark.slow
def test_pyright_goes_from_a_name_of_the_base_to_where_it_is_set(pyright, project):
    assert definition(pyright, project / "child.py", "learning_rate") == [("base.py", 6)]
    assert definition(pyright, project / "child.py", "model.width") == [("base.py", 5)]


@pytest.mark.slow
def test_pyright_completes_the_names_of_the_base(pyright, project):
    text = CHILD + "last = lea"
    assert "learning_rate" in completions(pyright, project / "child.py", text, "last = lea")


@pytest.fixture
def jedi(project: Path) -> Any:
    """Return what asks jedi at a place of the child."""
    library = pytest.importorskip("jedi")
    environment = library.Project(path=project, added_sys_path=[str(REPO)])

    def at(text: str, marker: str, offset: int) -> tuple[Any, int, int]:
        line, column = place(text, marker, offset)
        return library.Script(text, path=project / "child.py", project=environment), line + 1, column

    return at


def test_jedi_goes_to_classes_and_to_names_of_the_base(jedi):
    for marker, offset, expected in (
        ("Net)(width=8", 1, ("parts.py", 2)),
        ("learning_rate", 2, ("base.py", 6)),
        ("model.width", 2, ("base.py", 5)),
    ):
        script, line, column = jedi(CHILD, marker, offset)
        found = script.goto(line, column, follow_imports=True)
        assert [(each.module_path.name, each.line) for each in found] == [expected]


def test_jedi_completes_the_names_of_the_base(jedi):
    script, line, column = jedi(CHILD + "last = lea", "last = lea", len("last = lea"))
    assert "learning_rate" in {each.name for each in script.complete(line, column)}
