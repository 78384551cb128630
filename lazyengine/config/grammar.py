"""The text of overrides: paths and values. Nothing here evaluates, imports or calls anything.

A value is a Python literal (numbers with ``inf`` and ``nan``, quoted strings, lists, tuples, dicts, sets and
``set()``), one of ``true false null``, or plain text. Inside brackets, words need no quotes: ``[a, b]``.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from .errors import OverrideError
from .graph import INSTEAD, INTERPOLATION

MAX_DEPTH = 50  # brackets within brackets; keeps hostile input away from the interpreter's recursion limit

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True"), True),
    **dict.fromkeys(("false", "False"), False),
    **dict.fromkeys(("null", "None"), None),
    **{word: float(word) for word in ("inf", "+inf", "-inf", "nan")},
}
_NUMBER = re.compile(r"[+-]?\.?[0-9][0-9a-fA-F_xXoO.+-]*((?<=[0-9.])[jJ])?")  # what Python's own readers decide on
_QUOTE = r"(?P<prefix>[rRbBuUfF]{0,2})(?P<quote>'''|\"\"\"|'|\")"
_OPENED = re.compile(_QUOTE)
_LITERAL = rf"{_QUOTE}(?P<body>(?:\\.|(?!(?P=quote)).)*)(?P=quote)"
_STRING = re.compile(_LITERAL, re.DOTALL)
_INTERPOLATION = re.compile(rf"(?:^|[\[(,:{{'\"]\s*)({INTERPOLATION})\s*(?:$|[\]),}}'\"])")
_SPACE = re.compile(r"\s*")
_BARE = re.compile(r"[^,\[\](){}]*")
_BARE_KEY = re.compile(r"[^,\[\](){}:]*")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_NAME = r"[^\s.\[\]='\"~+][^\s.\[\]='\"]*"
# One step of a path: a name, or [3], or [a key], or ["any key"].
_STEP = re.compile(
    rf"(?P<dot>\.)?(?P<name>{_NAME})|\[\s*(?:(?P<quoted>(?=['\"]){_LITERAL})"
    rf"|(?P<key>[^\]'\"\s](?:[^\]'\"]*[^\]'\"\s])?))\s*\]",
    re.DOTALL,
)
_PLAIN_PATH = re.compile(r"[a-z_]\w*(\.([a-z_]\w*|0|[1-9][0-9]{0,17}))*(?=[=\s]|$)", re.ASCII | re.IGNORECASE)
_INDEX = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_PATHS = 'write a.b, a[0], a.0 or a["any key"]'


def parse_override(argument: str) -> tuple[str, list[str | int], str]:
    """Read ``a.b=v``, ``+a.b=v`` or ``~a.b``: how (``=`` sets, ``+`` adds, ``~`` deletes), path, text of the value."""
    argument = argument.strip()
    if argument.startswith(("-", "++")):
        raise OverrideError(f"an override is no option: write {argument.lstrip('-+')}")
    if not argument.isascii() and (match := re.search("^[\u2012-\u2015]|^[^=]*\uff1d|=\\s*[\u201c-\u201f]", argument)):
        raise OverrideError(f"{match[0][-1]!r} is a sign of print: type -, = or a straight quote")
    kind = argument[0] if argument[:1] in ("+", "~") else "="
    path, end = _read_path(argument, int(kind != "=")) if kind == "~" or "=" in argument else ([], 0)
    rest = argument[end:].strip()
    if kind == "~":
        if rest:
            raise OverrideError(f"'~' deletes and takes no value: write {argument[:end]}")
    elif not rest.startswith("="):
        name = re.match(r"(\+?[^\W\d][\w.]*)?", argument)[0] or "path"  # type: ignore[index]
        raise OverrideError(
            "an override has the form path=value, +path=value (add) or ~path (delete); no '=' follows the path: write "
            f"{name}=... as one word of the shell, without spaces or in quotes"
        )
    value = rest[1:].strip()
    if "${" in value and (match := _INTERPOLATION.search(value)):
        raise OverrideError(f"{match[1]} would be text: write the value; in a file, {INSTEAD.format(match[1][2:-1])}")
    return kind, path, value


def _read_path(text: str, start: int) -> tuple[list[str | int], int]:
    """Read a path from `start`; return its steps and where it ends."""
    if match := _PLAIN_PATH.match(text, start):
        return [int(step) if step[0].isdigit() else step for step in match[0].split(".")], match.end()
    steps: list[str | int] = []
    position = start
    while (match := _STEP.match(text, position)) is not None:
        name, key = match.group("name", "key")
        if name is not None:
            if (match["dot"] is None) == bool(steps):
                break
            steps.append(int(name) if name[0].isdigit() and _INDEX.fullmatch(name) else name)
        elif key is not None:
            steps.append(int(key) if _INDEX.fullmatch(key) else key)
        else:
            steps.append(str(_Reader(match["quoted"]).quoted()))
        position = match.end()
    if not steps or (position < len(text) and text[position] != "=" and not text[position].isspace()):
        raise OverrideError(f"the path cannot be read from {text[position : position + 20]!r} on; {_PATHS}")
    return steps, position


def parse_path(text: str) -> list[str | int]:
    """Read a path such as ``hooks[0].interval``, ``hooks.0.interval`` or ``keys["a.b"].lr_mult``."""
    steps, end = _read_path(text, 0)
    if end != len(text):
        raise OverrideError(f"{text!r} is not a path; {_PATHS}")
    return steps


def read_value(text: str) -> Any:
    """Read one value, given without outer spaces: a literal, or the text itself when it is none.

    Items of lists, tuples and dicts that are written without quotes are `Word`; `plain` makes values of them.
    """
    if text[:1] not in _CLOSERS and not starts_quoted(text):
        return set() if text == "set()" else _word(text)
    reader = _Reader(text)
    value, rest = reader.value(), text[reader.position :]
    if rest:
        raise OverrideError(f"{rest!r} follows a whole value; if all of it is one text, write {text!r}")
    return value


def starts_quoted(text: str) -> bool:
    """Return whether a text begins as a string literal does."""
    return _OPENED.match(text) is not None


def _word(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
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
    """A recursive-descent reader over one text, from `position` on."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0

    def takes(self, mark: str) -> bool:
        """Skip white space, and the mark if it follows; return whether it does."""
        self.position = _SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]
        found = self.text.startswith(mark, self.position)
        self.position += len(mark) if found else 0
        return found

    def value(self, depth: int = 0, bare: re.Pattern[str] = _BARE) -> Any:
        """Read one value; `bare` says what an unquoted word may hold."""
        if depth > MAX_DEPTH:
            raise OverrideError(f"more than {MAX_DEPTH} brackets within one another")
        for opening in _CLOSERS:
            if self.takes(opening):
                return self.bracket(opening, depth + 1)
        if self.takes("set()"):
            return set()
        if _OPENED.match(self.text, self.position):
            return self.quoted()
        match = bare.match(self.text, self.position)
        word = match[0].strip() if match else ""
        if not match or not word:
            first = self.text[self.position : self.position + 1]
            found = f"{first!r} at position {self.position + 1}" if first else "the end"
            raise OverrideError(f"a value is missing before {found} of {self.text!r}")
        self.position = match.end()
        return Word(_word(word), word)

    def quoted(self) -> str | bytes:
        """Read a string literal."""
        match = _STRING.match(self.text, self.position)
        if match is None:
            raise OverrideError(f"the quote opened at position {self.position + 1} of {self.text!r} is never closed")
        self.position = match.end()
        if not match["prefix"] and not set(match["body"]) & set("\\\n\r\0"):
            return match["body"]  # also what Python's reader refuses: half of a surrogate pair
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Python is to refuse "\\d", too
                return ast.literal_eval(match[0])
        except (SyntaxError, ValueError, UnicodeError) as error:
            reason = getattr(error, "msg", None) or str(error).partition(" on line")[0]
            quote = match["quote"][0] * 3 if "\n" in match["body"] else match["quote"]
            raw = f"{'b' * ('b' in match['prefix'].lower())}r{quote}{match['body']}{quote}"
            raise OverrideError(
                f"{match[0]} is not a string literal: {reason}; write {raw}, or leave the quotes out"
            ) from None

    def bracket(self, opening: str, depth: int) -> Any:
        """Read the items after an opening bracket, up to and with the closing one."""
        items: list[Any] = []
        keys: list[Any] = []
        has_comma, closer, bare = True, _CLOSERS[opening], _BARE_KEY if opening == "{" else _BARE
        while not self.takes(closer):
            if not has_comma:
                end = "the end (close it; quote what has spaces)"
                found = repr(self.text[self.position]) if self.position < len(self.text) else end
                raise OverrideError(f"',' or {closer!r} is expected, not {found}, in {self.text!r}")
            item = self.value(depth, bare)
            if opening == "{" and len(keys) == len(items) and self.takes(":"):
                keys.append(plain(item))
                item = self.value(depth)
            items.append(item)
            has_comma = self.takes(",")
        if opening == "[":
            return items
        if opening == "{":
            return self.braces(items, keys)
        if len(items) != 1 or has_comma:
            return tuple(items)
        item = plain(items[0])
        if isinstance(item, str):
            raise OverrideError(f"({item}) is one word in parentheses: write ({item},) for a tuple, or quotes")
        return item

    def braces(self, items: list[Any], keys: list[Any]) -> dict[Any, Any] | set[Any]:
        """Return the dict or set of what stands between braces."""
        try:
            if items and not keys:
                return {plain(item) for item in items}
            value = dict(zip(keys, items))
        except TypeError as error:
            raise OverrideError(f"a dict's key or a set's item must be hashable: {error}") from None
        if len(keys) != len(items):
            raise OverrideError("a dict needs 'key: value' for every item, a set for none")
        if len(value) != len(keys):
            raise OverrideError(f"a key is given twice in {self.text!r}")
        return value
