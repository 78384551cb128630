"""What every command shares: the page that is its ``--help``, how it reads arguments, how it answers, how it ends."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, NoReturn

from .. import interpreter
from ..config import ConfigError, ConfigFileError, LazyConfig, arguments_of, is_node
from ..nesting import map_leaves
from ..text import did_you_mean, fill_line, fit
from .mistakes import ignore_broken_pipe, refuse

_EPILOG = re.compile(r"^(?=overrides:|examples:|templates:|exit codes:)", re.MULTILINE)  # where it begins in a page


Arguments = argparse.Namespace
"""What a command line says, parsed."""


class CommandParser(argparse.ArgumentParser):
    """A parser that knows whether its command takes overrides, which may stand between the options."""

    takes_overrides = False

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the command line, and exit with code 2."""
        if unknown := re.match(r"unrecognized arguments: ((--[\w-]+).*)", message):
            hint = did_you_mean(unknown[2], self._option_string_actions, 0.75)
            if self.takes_overrides and not hint:
                hint = " A value of the config is changed without dashes, as in optimizer.lr=0.1."
            message = f"there is no option {unknown[1]}.{hint}"
        self.print_usage(sys.stderr)
        self.exit(2, fit(f"{self.prog}: error: {message}", sys.stderr) + "\n")


class _Page(argparse.HelpFormatter):
    """Fills a page to the width of the terminal: paragraphs whole, those with indented lines line by line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for part in re.split(r"\n\s*\n", text.strip("\n")):
            if re.search("^ ", part, re.MULTILINE):
                filled.append("\n".join(fill_line(line, width) for line in part.splitlines()))
            else:
                filled.append(textwrap.fill(" ".join(part.split()), width, break_on_hyphens=False))
        return "\n\n".join(filled)


def add_config(parser: CommandParser) -> None:
    """Add the config of an experiment, as the first argument or as ``--config``, and its overrides."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the experiment: a Python config file")
    parser.add_argument("--config", dest="config_option", metavar="FILE", help="the same, as an option")
    add_overrides(parser)


def add_keys(parser: CommandParser) -> None:
    """Add the names of curves, as `choose_keys` takes them."""
    parser.add_argument(
        "--keys", nargs="+", metavar="KEY", help="train/loss, loss, top1 or a pattern such as 'val/*' (losses, metrics)"
    )


def add_overrides(parser: CommandParser, values: str = "value", what: str = "changes to the config") -> None:
    """Add the overrides of a config; call it after the other positional arguments are added."""
    parser.takes_overrides = True
    parser.add_argument("overrides", nargs="*", metavar=f"key.sub={values}", help=what)


@dataclass(frozen=True)
class Main:
    """The ``main`` of a command: see `command`, whose arguments the first four are.

    Attributes:
        answer: Answers the parsed arguments.
    """

    page: str | None
    add_arguments: Callable[[CommandParser], object]
    with_json: bool
    prepare: Callable[[Sequence[str]], Sequence[str]]
    answer: Callable[[Arguments], Any]

    def build_parser(self) -> CommandParser:
        """Return the parser of the command."""
        description, *epilog = _EPILOG.split(self.page or "", maxsplit=1)
        parser = CommandParser(description=description, epilog="".join(epilog), formatter_class=_Page)
        if self.with_json:
            parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
        self.add_arguments(parser)
        return parser

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command with a command line (None: that of the process), and return its exit code."""
        if argv is None:
            interpreter.keep()
        try:
            with ignore_broken_pipe():
                args = parse_arguments(self.build_parser(), self.prepare(sys.argv[1:] if argv is None else argv))
                return _print(self.answer(args), args)
            return 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            return refuse(error)


def command(
    page: str | None,
    add_arguments: Callable[[CommandParser], object],
    *,
    with_json: bool = False,
    prepare: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Callable[[Callable[[Arguments], Any]], Main]:
    """Return a decorator that makes the ``main`` of a command of a function that answers its parsed arguments.

    The function returns text to print, or a result with ``as_text()`` (with ``--json`` its ``as_json()``, else its
    fields), or one of these with the exit code, or only the exit code. A mistake of the user ends with code 2 and a
    message, Ctrl-C with 130; another error is raised.

    Args:
        page: What ``--help`` shows: the docstring of the command's module, with examples and exit codes.
        add_arguments: Adds the arguments to the parser of the command.
        with_json: Whether ``--json`` is one of them.
        prepare: Changes the words of the command line before they are parsed.
    """
    return functools.partial(Main, page, add_arguments, with_json, prepare)


def parse_arguments(parser: CommandParser, argv: Sequence[str]) -> Arguments:
    """Parse a command line; ``args.config`` is the config that was named in either way.

    Raises:
        ConfigError: An override is written as an option, `--optimizer.lr=1`.
    """
    if not parser.takes_overrides:
        return parser.parse_args(argv)
    for argument in argv:
        if re.match(r"--[\w-]+[.\[]", argument):
            raise ConfigError(f"{argument} is no option. An override has no dashes: write {argument[2:]}.")
    args = parser.parse_intermixed_args(argv)
    if getattr(args, "config_option", None) is not None:
        args.overrides = [*([args.config] if args.config is not None else []), *args.overrides]
        args.config = args.config_option
    elif hasattr(args, "config_option") and (args.config is None or re.match(r"[+~]?[\w.]+=", args.config)):
        parser.error(f"name the config of the experiment, as in: {parser.prog} path/to/config.py")
    return args


def _print(answer: Any, args: Arguments) -> int:
    """Print what a command answered, and return its exit code."""
    found, code = answer if isinstance(answer, tuple) else (answer, 0)
    if isinstance(found, int):
        return found
    is_data = any(getattr(args, form, False) for form in ("json", "csv", "latex"))
    if not isinstance(found, str):
        data = getattr(found, "as_json", lambda: found)
        found = as_json(data()) if is_data else found.as_text()
    print(found if is_data else fit(found, sys.stdout), flush=True)
    return code


def load_config(path: str, overrides: Sequence[str] = (), *mixins: str, needs_runner: bool = True) -> Any:
    """Load a config and apply overrides.

    Args:
        path: The config.
        overrides: Changes to it.
        *mixins: Configs that change it before, in order.
        needs_runner: Refuse one that describes no experiment.

    Raises:
        ConfigError: For anything wrong with it.
    """
    cfg = LazyConfig.apply_overrides(LazyConfig.load(path, *mixins), list(overrides))
    if needs_runner and not is_node(runner := arguments_of(cfg).get("runner")):
        has = f"has {type(runner).__name__} as `runner`, no node" if hasattr(cfg, "runner") else "has no `runner`"
        raise ConfigError(
            f"{path} {has}: the command needs a top-level runner = LazyCall(Runner)(...); its names "
            f"are {', '.join(sorted(arguments_of(cfg))) or 'none'}"
        )
    return cfg


def config_in(path: str) -> str:
    """Return a config that was named, by itself or by the run folder that keeps it.

    Raises:
        ConfigFileError: The folder keeps none.
    """
    if not os.path.isdir(path):
        return path
    if not os.path.isfile(found := os.path.join(path, "config.py")):
        raise ConfigFileError(f"{path!r} is a folder without config.py. Name a config, or the folder of a run.")
    return found


def say(line: str) -> None:
    """Print to stderr what happens; a terminal that was closed ends no sweep."""
    with contextlib.suppress(OSError):
        print(fit(line, sys.stderr), file=sys.stderr, flush=True)


def say_running(line: str) -> None:
    """Print to stderr what a command has begun to do."""
    say(f"running {line} ...")


def as_json(value: Any) -> str:
    """Return data, also with dataclasses and paths in it, as JSON text; what is not finite is null there."""
    finite = map_leaves(lambda leaf: None if isinstance(leaf, float) and not math.isfinite(leaf) else leaf, value)
    return json.dumps(finite, indent=1, default=lambda each: vars(each) if is_dataclass(each) else os.fspath(each))
