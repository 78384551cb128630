"""The text of overrides: paths and values, read and printed. Nothing here evaluates, imports or calls anything.

A value is a Python literal (numbers with ``inf`` and ``nan``, quoted strings, lists, tuples, dicts, sets and
``set()``), one of ``true false null``, or plain text. Inside brackets, words need no quotes: ``[a, b]``.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import OverrideError

MAX_DEPTH = 50  # brackets within brackets; keeps hostile input away from the interpreter's recursion limit

_WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
    "inf": float("inf"),
    "+inf": float("inf"),
    "-inf": float("-inf"),
    "nan": float("nan"),
}
_NUMBER = re.compile(r"[+-]?\.?[0-9][0-9a-fA-F_xXoO.+-]*((?<=[0-9.])[jJ])?")  # what Python's own readers decide on
_QUOTE = re.compile(r"([rRbBuU]{0,2})('''|\"\"\"|'|\")")
_SPACE = re.compile(r"\s*")
_BARE = re.compile(r"[^,\[\](){}]*")
_BARE_KEY = re.compile(r"[^,\[\](){}:]*")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
# One step of a path: a name, or [3], or ["any key"].
_STEP = re.compile(
    r"""\.?(?P<name>[^\s.\[\]='"~+]+[^\s.\[\]='"]*)|\[\s*(?P<index>[^\]'"]*?)\s*\]|\[\s*(?P<quote>(?=['"]))"""
)
_PLAIN_KEY = re.compile(r"[^\s.\[\]='\"~+][^\s.\[\]='\"]*")
_INDEX = re.compile(r"-?(?:0|[1-9][0-9]*)")


class Override(NamedTuple):
    """One override, read but not yet applied."""

    kind: str
    """``"="`` sets, ``"+"`` adds, ``"~"`` deletes."""
    path: list[str | int]
    """Names, dict keys and list positions, outermost first."""
    text: str
    """The value as it was written, without outer spaces; empty for a deletion."""


def parse_override(argument: str) -> Override:
    """Read ``a.b=v``, ``+a.b=v`` or ``~a.b``."""
    kind, start = "=", 0
    argument = argument.strip()
    if argument[:1] in ("+", "~"):
        kind, start = argument[0], 1
    equals = argument.find("=")
    if equals >= 0:
        name = argument[start:equals].strip()
        if "[" not in name:
            if kind == "~":
                raise OverrideError(f"'~' deletes and takes no value: write ~{name}")
            return Override(kind, _dotted(name), argument[equals + 1 :].strip())
    path, end = _scan_path(argument, start)
    rest = argument[end:].strip()
    if kind == "~":
        if rest:
            raise OverrideError(f"'~' deletes and takes no value: write {argument[:end]}")
        return Override(kind, path, "")
    if not rest.startswith("="):
        raise OverrideError(
            "an override has the form path=value, +path=value (add) or ~path (delete); no '=' follows the path"
        )
    return Override(kind, path, rest[1:].strip())


def _dotted(name: str) -> list[str | int]:
    """Split a path that has no brackets, the common case."""
    steps: list[str | int] = []
    for part in name.split("."):
        if part.isidentifier():
            steps.append(part)
        elif part.isascii() and part.isdigit() and (part[0] != "0" or len(part) == 1) and len(part) < 19:
            steps.append(int(part))
        elif _PLAIN_KEY.fullmatch(part):
            steps.append(part)
        else:
            raise OverrideError(
                f'{name!r} is not a path: {part!r} cannot be a step of one; write a.b, a[0], a.0 or a["any key"]'
            )
    return steps


def _scan_path(text: str, start: int) -> tuple[list[str | int], int]:
    """Read a path with brackets from `start`; returns its steps and where it ends."""
    steps: list[str | int] = []
    position = start
    while position < len(text) and text[position] != "=" and not text[position].isspace():
        match = _STEP.match(text, position)
        if match is None or (match["name"] and bool(steps) != (text[position] == ".")):
            break
        if match["name"]:
            steps += _dotted(match["name"])
            position = match.end()
        elif match["quote"] is not None:
            key, position = _Reader(text).quoted(match.end())
            closing = re.compile(r"\s*\]").match(text, position)
            if closing is None or not isinstance(key, str):
                break
            steps.append(key)
            position = closing.end()
        elif match["index"]:
            index = match["index"]
            steps.append(int(index) if _INDEX.fullmatch(index) and len(index) < 19 else index)
            position = match.end()
        else:
            break
    else:
        if steps:
            return steps, position
    raise OverrideError(
        f'the path cannot be read from {text[position : position + 20]!r} on; write a.b, a[0], a.0 or a["any key"]'
    )


def parse_path(text: str) -> list[str | int]:
    """Read a path such as ``hooks[0].interval``, ``hooks.0.interval`` or ``keys["a.b"].lr_mult``."""
    steps, end = _scan_path(text, 0)
    if end != len(text):
        raise OverrideError(f"{text!r} is not a path")
    return steps


def format_path(path: Sequence[str | int]) -> str:
    """Print a path so that `parse_path` reads the same steps."""
    out = ""
    for step in path:
        if isinstance(step, int) and not isinstance(step, bool):
            out += f"[{step}]"
        elif isinstance(step, str) and _PLAIN_KEY.fullmatch(step) and not (step.isascii() and step.isdigit()):
            out += f".{step}" if out else step
        else:
            out += f"[{step!r}]"
    return out


def parse_value(text: str) -> Any:
    """Read one value: a literal, or the text itself when it is none."""
    return plain(read_value(text.strip()))


def read_value(text: str) -> Any:
    """Read as `parse_value` does, without outer spaces, but leave items of lists, tuples and dicts as `Word`."""
    if not text:
        return ""
    first = text[0]
    if first.isalpha():
        if text in _WORDS:
            return _WORDS[text]
        if text == "set()":
            return set()
        if not _QUOTE.match(text):
            return text
    elif first not in "[({'\"":
        return _number_or_text(text)
    value, end = _Reader(text).value(0, 0)
    if end != len(text):
        raise OverrideError(f"{text[end:]!r} follows a whole value; put text that starts with {first!r} into quotes")
    return value


def _number_or_text(text: str) -> Any:
    if text.isascii() and text.isdigit() and len(text) < 4000 and (text[0] != "0" or len(text) == 1):
        return int(text)
    if not _NUMBER.fullmatch(text):
        return _WORDS.get(text, text)
    try:
        return int(text, 0)
    except ValueError:
        if len(text) > 4000 and text.lstrip("+-").replace("_", "").isdigit():  # the interpreter's limit
            raise OverrideError(f"a whole number of {len(text)} digits is too long; write it as 0x...") from None
    try:
        return complex(text) if text[-1] in "jJ" else float(text) if re.search("[.eE]", text) else text
    except ValueError:  # a date, a version
        return text


class Word:
    """An unquoted word inside brackets: its value, and how it was written should text be expected there."""

    __slots__ = ("text", "value")

    def __init__(self, value: Any, text: str):
        self.value = value
        self.text = text


def plain(value: Any) -> Any:
    """Replace every `Word` in a value by what it reads as."""
    kind = type(value)
    if kind is Word:
        return value.value
    if kind is list or kind is tuple:
        return kind(map(plain, value))
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


class _Reader:
    """A recursive-descent reader over one text; every method returns `(value, end position)`."""

    def __init__(self, text: str):
        self.text = text

    def skip(self, position: int) -> int:
        return _SPACE.match(self.text, position).end()  # type: ignore[union-attr]

    def value(self, depth: int, position: int, bare: re.Pattern[str] = _BARE) -> tuple[Any, int]:
        position = self.skip(position)
        if depth > MAX_DEPTH:
            raise OverrideError(f"more than {MAX_DEPTH} brackets within one another")
        first = self.text[position : position + 1]
        if first in _CLOSERS:
            return self.bracket(first, position + 1, depth + 1)
        if _QUOTE.match(self.text, position):
            return self.quoted(position)
        if self.text.startswith("set()", position):
            return set(), position + 5
        match = bare.match(self.text, position)
        assert match is not None
        word = match.group().strip()
        if not word:
            found = f"{first!r} at position {position + 1}" if first else "the end"
            raise OverrideError(f"a value is missing before {found} of {self.text!r}")
        return Word(_WORDS[word] if word in _WORDS else _number_or_text(word), word), match.end()

    def quoted(self, position: int) -> tuple[str | bytes, int]:
        text, opening = self.text, _QUOTE.match(self.text, position)
        assert opening is not None
        start = end = opening.end()
        while not text.startswith(opening[2], end):
            if end >= len(text):
                raise OverrideError(f"the quote opened at position {position + 1} of {text!r} is never closed")
            end += 2 if text[end] == "\\" else 1
        body, end = text[start:end], end + len(opening[2])
        if not opening[1] and not set(body) & set("\\\n\r\0"):
            return body, end
        try:
            return ast.literal_eval(text[position:end]), end
        except (SyntaxError, ValueError, UnicodeError) as error:
            reason = getattr(error, "msg", None) or error
            raise OverrideError(f"{text[position:end]!r} is not a string literal: {reason}") from None

    def bracket(self, opening: str, position: int, depth: int) -> tuple[Any, int]:
        """Read the items after an opening bracket, up to and with the closing one."""
        items: list[Any] = []
        keys: list[Any] = []
        has_comma, closer, bare = False, _CLOSERS[opening], _BARE_KEY if opening == "{" else _BARE
        position = self.skip(position)
        while not self.text.startswith(closer, position):
            before = position
            item, position = self.value(depth, position, bare)
            position = self.skip(position)
            if opening == "{" and self.text.startswith(":", position) and len(keys) == len(items):
                keys.append(plain(item))
                item, position = self.value(depth, position + 1)
                position = self.skip(position)
            items.append(item)
            if self.text.startswith(",", position):
                has_comma, position = True, self.skip(position + 1)
            elif not self.text.startswith(closer, position):
                found = repr(self.text[position]) if position < len(self.text) else "the end"
                raise OverrideError(f"',' or {closer!r} is expected, not {found}, after {self.text[before:position]!r}")
        return self.close(opening, items, keys, has_comma), position + 1

    def close(self, opening: str, items: list[Any], keys: list[Any], has_comma: bool) -> Any:
        if opening == "[":
            return items
        if opening == "(":
            if len(items) != 1 or has_comma:
                return tuple(items)
            item = plain(items[0])
            if isinstance(item, str):
                raise OverrideError(f"({item}) is one word in parentheses: write ({item},) for a tuple, or quotes")
            return item
        try:
            if items and not keys:
                return {plain(item) for item in items}
            if len(keys) != len(items):
                raise OverrideError("a dict needs 'key: value' for every item, a set for none")
            value = dict(zip(keys, items))
        except TypeError as error:
            raise OverrideError(f"a dict's key or a set's item must be hashable: {error}") from None
        if len(value) != len(keys):
            raise OverrideError(f"a key is given twice in {self.text!r}")
        return value


def format_value(value: Any, *, nested: bool = False) -> str:
    """Print a value so that `parse_value` gives an equal one; `nested` in brackets, where strings have quotes."""
    kind = type(value)
    if kind is str and not nested and _reads_as_text(value):
        return value
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int and value.bit_length() >= 10000:
        return hex(value)  # decimal digits are limited
    if kind is complex:
        return repr(value).strip("()").replace("inf", "1e999")
    if kind in (list, tuple, set) and value:
        inner = ", ".join(format_value(item, nested=True) for item in value)
        return f"[{inner}]" if kind is list else f"{{{inner}}}" if kind is set else f"({inner},)"
    if kind is dict:
        items = (f"{format_value(k, nested=True)}: {format_value(v, nested=True)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if kind in (str, int, float, bytes, list, tuple, set):
        return repr(value)
    raise OverrideError(f"an override cannot write a {kind.__module__}.{kind.__qualname__}")


def _reads_as_text(text: str) -> bool:
    if not text or text != text.strip() or text[0] in "[({'\"" or not text.isprintable():
        return False
    try:
        return parse_value(text) == text
    except OverrideError:
        return False
