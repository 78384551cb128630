"""Text for people."""

from __future__ import annotations

import pytest

from lazyengine.text import counted, did_you_mean, fill_line, listed, near, short, table


class Rude:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_columns_are_aligned_and_nothing_trails():
    assert table([("a", "long"), ("bbb", 1), ("c",)]) == "a    long\nbbb  1\nc"
    assert table([("a", "b")], indent="  ", gap=" | ") == "  a | b"
    assert table([]) == ""


def test_a_table_for_a_terminal_breaks_its_widest_cells_and_leaves_empty_columns_out():
    rows = [("run", "speed", "what it says"), ("a", "", "one two three"), ("b", "", "four")]
    assert table(rows, columns=80) == "run  what it says\na    one two three\nb    four"
    assert table(rows, columns=13) == "run  what it\n     says\na    one two\n     three\nb    four"
    assert table(rows, columns=3) == "run  what\n     it\n     says\na    one\n     two\n     three\nb    four"
    assert table([], columns=80) == ""


def test_a_table_breaks_words_where_its_words_alone_are_wider_than_the_terminal():
    path, name = "work_dirs/" + "long/" * 20, "x" * 50
    for rows in ([("run", "path"), ("a", path)], [("run", "path"), (name, path)], [(path, "path"), ("a", "b")]):
        lines = table(rows, columns=40).splitlines()
        assert max(map(len, lines)) <= 40
        assert sorted("".join(lines).replace(" ", "")) == sorted("".join(map("".join, rows)))


def test_a_table_breaks_paths_behind_slashes_before_it_breaks_words():
    rows = [("run", "curve", "speed"), ("work_dirs/some_name", "val/accuracy/top1", "44.5 it/s")]
    broken = table(rows, columns=32).splitlines()
    assert broken[1:] == ["work_dirs/  val/       44.5 it/s", "some_name   accuracy/", "            top1"]
    assert [line[23:] for line in table(rows, columns=27).splitlines()[1:3]] == ["44.5", "it/s"]
    assert table(rows, columns=80).splitlines()[1] == "work_dirs/some_name  val/accuracy/top1  44.5 it/s"


@pytest.mark.parametrize("end", ["", " ", "  ", "   x "])
def test_a_line_that_ends_with_blanks_is_broken_like_another(end):
    text = "a line that has no second column and is too long for the width" + end
    lines = fill_line(text, 30).splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(lines).split() == text.split()


def test_one_is_no_plural():
    assert [counted(n, "epoch") for n in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
    assert counted(2, "batch", "batches") == "2 batches"


def test_the_near_name_is_found_or_none():
    assert near("shufle", ["shuffle", "size"]) == "shuffle"
    assert near(3, ["shuffle"]) is None
    assert did_you_mean("shufle", ["shuffle"]) == " Did you mean 'shuffle'?"
    assert did_you_mean("xyz", ["shuffle"]) == ""


def test_lists_are_cut_and_say_so():
    assert listed([1, 2]) == "1, 2"
    assert listed([]) == "none"
    assert listed(range(12), 2) == "0, 1, … (12 in all)"


def test_values_are_cut_to_a_line():
    assert short([1, 2]) == "[1, 2]"
    assert short("x" * 100, 10) == "'xxxxxx..."
    assert short("a\nb") == r"'a\nb'"
    assert short(Rude()) == "<Rude, whose repr raised ZeroDivisionError>"
