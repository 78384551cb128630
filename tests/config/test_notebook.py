"""What a notebook shows of nodes and configs."""

from __future__ import annotations

from html.parser import HTMLParser

from torch import nn
from torch.optim import SGD

from lazyengine.config import LazyCall as L
from lazyengine.config import LazyConfig


class Text(HTMLParser):
    """The text of a page, line by line, and whether its tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.lines += [""] * (tag in ("div", "details"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.lines[-1] += data


def shown(value) -> list[str]:
    page = Text(value._repr_html_())
    assert not page.open
    return [line for line in page.lines if line]


def test_a_node_is_a_tree_with_the_places_of_its_nodes():
    model = L(nn.Sequential)(L(nn.Linear)(2, 3), L(nn.Linear)(3, 2))
    lines = shown(L(SGD)(params=model, lr=0.1))
    assert lines[0].startswith("SGD ")
    assert "test_notebook.py:" in lines[0]
    assert [line.split(" tests")[0].split(" /")[0] for line in lines[1:3]] == ["params = Sequential", "0 = Linear"]
    assert "lr = 0.1" in lines


def test_a_value_is_text_and_not_a_part_of_the_page():
    assert "name = '<b>&amp;'" in shown(L(dict)(name="<b>&amp;"))


def test_what_is_used_twice_is_shown_once_and_named():
    shared = L(nn.Linear)(2, 2)
    lines = shown(L(dict)(first=shared, second=[shared, shared]))
    assert "0 = same as first" in lines
    assert "1 = same as first" in lines


def test_a_config_begins_with_its_file(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("from lazyengine.config import LazyCall as L\n\nmodel = L(dict)(width=4)\nepochs = 3\n")
    lines = shown(LazyConfig.load(str(file)))
    assert lines[0] == f"Config {file}"
    assert lines[1].startswith("model = dict ")
    assert lines[2:] == ["width = 4", "epochs = 3"]
