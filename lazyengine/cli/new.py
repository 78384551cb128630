"""Make a project that runs at once: dataset, model, metric, two experiments, a test.

examples:
  %(prog)s shapes
  %(prog)s words --template language

exit codes: 0 made; 2 the name cannot be used, or there is something of that name.
"""

from __future__ import annotations

import keyword
import os
from importlib.util import find_spec
from pathlib import Path

from ..errors import UsageValueError
from ..text import listed
from .command import Arguments, CommandParser, command

_TEMPLATES = Path(__file__).parent / "templates"
_COMMON = "common"  # what every project gets
TEMPLATES = {
    "classification": "Recognises shapes in pictures with a small convolutional network",
    "segmentation": "Finds discs and squares in pictures, pixel by pixel, with a small U-Net",
    "language": "Learns the sentences of a tiny language, character by character, with a small transformer",
    "gan": "Draws points with two networks against one another, two optimizers and a training step of its own",
    "plain": "Fits a curve with a network of plain torch",
}
DEFAULT = "classification"
OBJECTIVES = {
    "classification": ("val/accuracy/top1", "maximize"),
    "segmentation": ("val/mean_iou", "maximize"),
    "language": ("val/bits", "minimize"),
    "gan": ("val/near", "maximize"),
    "plain": ("val/error", "minimize"),
}
"""What a search in each template looks for."""


_LISTING = "\n".join(f"  {name:<16}{what}{' (the default)' * (name == DEFAULT)}" for name, what in TEMPLATES.items())


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", help="the folder to make; its last part names project and package")
    parser.add_argument("--template", choices=TEMPLATES, metavar="TEMPLATE", default=DEFAULT, help="see below")


@command(f"{__doc__}\n\ntemplates:\n{_LISTING}", add_arguments)
def main(args: Arguments) -> object:
    """Make a project."""
    files = make_project(args.name, args.template)
    made = "\n".join(f"  {os.path.join(args.name, name)}" for name in files)
    next_ = [f"cd {args.name}", "lazyengine train configs/base.py", "python -m pytest    (after pip install pytest)"]
    return "\n  ".join([f"{made}\n\nmade. Now:", *next_])


def make_project(folder: str | os.PathLike[str], template: str = DEFAULT) -> list[str]:
    """Make a project and return the names of its files.

    Args:
        folder: The folder, which must not exist, or be empty; its last part is the project's name.
        template: What it is about, see `TEMPLATES`.

    Raises:
        UsageValueError: There is something in the folder, no such template, or the name is no name of a package.
    """
    path = Path(folder)
    name = path.resolve().name
    package = name.replace("-", "_")
    if template not in TEMPLATES:
        raise UsageValueError(f"template {template!r}: expected one of {listed(TEMPLATES)}.")
    if not package.isidentifier() or keyword.iskeyword(package) or package in ("configs", "tests"):
        raise UsageValueError(
            f"{name!r} cannot be the name of a Python package: use letters, digits, - and _, as in shapes or my-shapes."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageValueError(f"{os.fspath(folder)} exists and is not empty. Name another folder.")
    if find_spec(package) is not None:
        raise UsageValueError(f"a package {package!r} is installed already, and would be imported. Use another name.")
    values = {"__NAME__": name, "__PACKAGE__": package, "__WHAT__": TEMPLATES[template]}
    values["__OBJECTIVE__"], values["__DIRECTION__"] = OBJECTIVES[template]
    texts: dict[str, str] = {}
    for root in (_TEMPLATES / _COMMON, _TEMPLATES / template):
        for source in root.rglob("*.in"):
            target, text = source.relative_to(root).as_posix().removesuffix(".in"), source.read_text(encoding="utf-8")
            for key, value in values.items():
                target, text = target.replace(key, value), text.replace(key, value)
            texts[target] = text
    for target, text in texts.items():
        (path / target).parent.mkdir(parents=True, exist_ok=True)
        (path / target).write_text(text, encoding="utf-8")
    return sorted(texts)
