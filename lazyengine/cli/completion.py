"""Print what lets a shell complete commands, options, paths of configs and keys of overrides.

examples:
  bash: eval "$(%(prog)s bash)"      in ~/.bashrc
  zsh:  eval "$(%(prog)s zsh)"       in ~/.zshrc, after compinit
  fish: %(prog)s fish | source       in ~/.config/fish/config.fish

exit codes: 0 printed; 2 no such shell.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from ..config import LazyConfig
from .command import Arguments, CommandParser, command
from .keys import format_keys

_ASK = "lazyengine completion words --"
_SCRIPTS = {
    "bash": f"""\
_lazyengine() {{
    local IFS=$'\\n'
    COMPREPLY=($({_ASK} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
    if [[ ${{COMPREPLY[0]}} == *[=/] ]]; then compopt -o nospace; fi
}}
complete -o default -F _lazyengine lazyengine
""",
    "zsh": f"""\
#compdef lazyengine
_lazyengine() {{
    local -a found
    found=(${{(f)"$({_ASK} "${{(@)words[2,CURRENT]}}" 2>/dev/null)"}})
    if (( $#found )); then compadd -S '' -a found; else _files; fi
}}
compdef _lazyengine lazyengine
""",
    "fish": f"""\
complete -c lazyengine -a '({_ASK} (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}
_TAKE_CONFIGS = {
    *("train", "test", "show", "plan", "summary", "profile", "lr-find", "batch-find", "schedule", "sweep", "submit"),
    "check",
}


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=[*_SCRIPTS, "words"], help="words: what the last of the words can become")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Print the script of a shell, or what the last word can become."""
    if args.shell != "words":
        return _SCRIPTS[args.shell].rstrip()
    with contextlib.suppress(Exception), contextlib.redirect_stderr(None):  # nobody reads errors while typing
        return "\n".join(complete(args.words))
    return 0


def complete(words: Sequence[str]) -> list[str]:
    """Return what the last word can become.

    Args:
        words: The command line without the program's name; the last one is being typed, and may be empty.
    """
    from .main import COMMANDS

    *before, typed = words or [""]
    if not before:
        known = list(COMMANDS)
    elif before[0] not in COMMANDS:
        known = []
    elif typed.startswith("-"):
        parser = import_module(f".{COMMANDS[before[0]][0]}", __package__).main.build_parser()
        known = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_help())))
    elif before[0] in _TAKE_CONFIGS:
        known = _keys_or_configs(before, typed)
    else:
        known = []
    return [word for word in known if word.startswith(typed)]


def _keys_or_configs(before: Sequence[str], typed: str) -> list[str]:
    """Return the keys of the config that is named before; without one, configs and the folders on the way there."""
    configs = [word for word in before if word.endswith(".py")]
    if configs and "=" not in typed:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        lines = format_keys(LazyConfig.load(configs[0]), "").splitlines()[1:]  # below the header
        return [f"{key}=" for key in (re.split(r"[\s:=]", line, maxsplit=1)[0] for line in lines) if key]
    paths = glob.glob(glob.escape(typed) + "*")
    folders = [f"{path}/" for path in paths if os.path.isdir(path) and not path.endswith("__pycache__")]
    return sorted([*folders, *(path for path in paths if path.endswith(".py"))])
