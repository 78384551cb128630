"""Port files and folders: which file is what, where its port goes, what is left to be done."""

from __future__ import annotations

import importlib
import keyword
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .classes import ClassTable, package_of, relative_module
from .errors import PortError, Todo
from .mmengine_configs import Translator
from .mmengine_files import ConfigFile, Reader, is_config, scopes_in, walk_bases
from .statements import write_file
from .yaml_configs import Composer, Composition, load_yaml, merge_at, translate, translate_lightning
from .yaml_configs import kind_of as yaml_kind

_MARK = "# TODO port: "


@dataclass
class Ported:
    """What became of the files.

    Attributes:
        written: Old file -> new file.
        todos: What needs a hand.
        failed: Old file -> why it could not be ported.
        flat: Old files that were written flat although a structured port was asked for, with the reason.
        dropped: Top-level names of configs that only serve to compute others; they were left out.
        keep: Whether new files that are there already stay as they are, since they were changed by hand.
    """

    written: dict[Path, Path] = field(default_factory=dict)
    todos: list[Todo] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    flat: dict[Path, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    keep: bool = False

    def write(self, old: Path, new: Path, make: Callable[..., str], *args: Any) -> None:
        """Write what `make(*args)` returns, and note its TODOs; a refusal is noted too."""
        try:
            text = make(*args)
        except (PortError, SyntaxError, UnicodeDecodeError) as error:
            self.failed[old] = str(error)
            return
        if self.keep and new.exists():
            text = new.read_text(encoding="utf-8")
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        self.written[old] = new
        for number, line in enumerate(text.splitlines(), 1):
            if _MARK in line:
                self.todos.append(Todo(str(new), number, line.partition(_MARK)[2]))


def project_root(path: Path) -> Path:
    """Return the folder of the project that a path belongs to: the nearest one above with a mark of a project."""
    start = path if path.is_dir() else path.parent
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in (".git", "pyproject.toml", "setup.py", "setup.cfg")):
            return folder
    return start


def module_name(name: str) -> str:
    """Return a file's or folder's name as one that can be imported."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() or keyword.iskeyword(name) else name


class Places:
    """Where the port of each file goes: the same tree, with names that can be imported."""

    def __init__(self, root: Path, target: Path):
        self.root, self.target = root, target
        self._given: dict[Path, Path] = {}
        self._taken: set[Path] = set()

    def of(self, file: Path) -> Path:
        """Return the new place of a file; a base config from outside of the root goes into `external`."""
        if file not in self._given:
            inside = file.is_relative_to(self.root)
            parts = file.relative_to(self.root).parts if inside else ("external", *file.parts[-3:])
            *folders, _ = map(module_name, parts)
            place = self.target.joinpath(*folders, module_name(file.stem))
            while place in self._taken:
                place = place.with_name(f"{place.name}_2")
            self._taken.add(place)
            self._given[file] = place.with_suffix(".py")
        return self._given[file]

    def module(self, file: Path, asking: Path) -> str:
        """Return how the port of one file imports the port of another, relatively."""
        return relative_module(self.of(file), self.of(asking).parent)


def port_path(
    path: Path, target: Path, *, classes: Sequence[Path] = (), flat: bool = False, keep: bool = False
) -> tuple[Ported, dict[str, list[Path]]]:
    """Port a file, or everything below a folder, by what each file is.

    Args:
        path: The file or folder.
        target: Folder for the ports; files that need none are copied there.
        classes: More source trees in which registered classes are looked up.
        flat: Whether each config becomes one file without bases.
        keep: Whether new files that are there already stay as they are.

    Returns:
        What became of the files, and the old files by kind.

    Raises:
        PortError: Nothing below the path can be ported.
    """
    path = path.resolve()
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in [path] if path.is_file() else sorted(_visible_files(path)):
        kinds[kind_of(file)].append(file)
    _join_data_files(kinds)
    if not any(files for kind, files in kinds.items() if kind != "other"):
        raise PortError(f"{path} has no config and no code of mmengine, detectron2, Hydra or LightningCLI.")
    table = ClassTable([project_root(path), *classes])
    root = path if path.is_dir() else path.parent
    if kinds["mmengine config"] and not flat:
        root = _common_root(root, kinds["mmengine config"], table)
    ported, places = Ported(keep=keep), Places(root, target)
    _port_mmengine(kinds["mmengine config"], places, table, ported, flat=flat)
    _port_hydra(kinds["Hydra config"], places, ported)
    for file in kinds["LightningCLI config"]:
        ported.write(file, places.of(file), _lightning_text, file, table)
    copied = [f for f in kinds["other"] if root.is_dir() and f.suffix in (".py", ".toml", ".md", ".txt", ".json")]
    for file in [*kinds["mmengine code"], *kinds["detectron2 config"], *copied]:
        ported.write(file, target / file.relative_to(root), _ported_text, file, kinds, table)
    return ported, {kind: files for kind, files in kinds.items() if files}


def _ported_text(file: Path, kinds: dict[str, list[Path]], table: ClassTable) -> str:
    text = file.read_text(encoding="utf-8")
    if file in kinds["mmengine code"]:
        return _with_libcst("code").port_code(text, package_of(file)[1], table)
    return _with_libcst("detectron2").port_config(text, file) if file in kinds["detectron2 config"] else text


def _lightning_text(file: Path, table: ClassTable) -> str:
    return write_file(translate_lightning(load_yaml(file), table))


def _join_data_files(kinds: dict[str, list[Path]]) -> None:
    """Let files that hold plain values only belong to the configs of detectron2 or Hydra beside which they lie."""
    joined: dict[str, list[Path]] = {}
    if kinds["detectron2 config"]:
        is_data = _with_libcst("detectron2").is_plain_data
        joined["detectron2 config"] = [f for f in kinds["other"] if f.suffix == ".py" and is_data(f.read_text("utf-8"))]
    if kinds["Hydra config"]:
        roots = _config_roots(kinds["Hydra config"])
        found = [f for f in kinds["other"] if f.suffix in (".yaml", ".yml") and roots & set(f.parents)]
        joined["Hydra config"] = found
    for kind, files in joined.items():
        kinds[kind] += files
        kinds["other"] = [f for f in kinds["other"] if f not in files]


def _with_libcst(name: str) -> Any:
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        raise PortError(f"Porting code needs {error.name}. Run: pip install 'lazyengine[port]'.") from None


# ----------------------------------------------------------------------------------------------------- mmengine
def _port_mmengine(
    files: Sequence[Path], places: Places, table: ClassTable, ported: Ported, *, flat: bool = False
) -> None:
    """Port configs of mmengine, and unless they are to be flat the base configs that they need."""
    reader = reader_for(table)
    configs: dict[Path, ConfigFile] = {}
    for file in files:
        try:
            configs[file] = config = reader.read(file)
            configs |= {base: reader.read(base) for base in (() if flat else walk_bases(config, reader))}
        except PortError as error:
            ported.failed[file] = str(error)
    scopes = dict.fromkeys(str(config.values.get("default_scope") or "mmengine") for config in configs.values())
    for scope in dict.fromkeys([*scopes, "mmcv", *scopes_in([config.values for config in configs.values()])]):
        table.add_installed(scope)
    translator = Translator(table, next(iter(scopes), ""))
    names = {file: translator.translate(config.values, reader.scopes.get(file, "")) for file, config in configs.items()}
    used = {base for config in configs.values() for base in config.bases}
    for file, config in configs.items():
        bases = [] if flat else config.bases
        is_part = file in used and "runner" not in names[file]
        reason = "it is a part of an experiment that changes another part" if bases and is_part else ""
        if reason := reason or _why_flat(bases, names, reader):
            ported.flat[file], bases = reason, []
        parents = [(places.module(base, file), names[base]) for base in bases]
        ported.write(file, places.of(file), write_file, names[file], parents)
    ported.dropped |= translator.dropped


def _why_flat(bases: Iterable[Path], names: dict[Path, dict], reader: Reader) -> str:
    """Return why a config cannot import its bases, or nothing."""
    seen: set[str] = set()
    above: set[Path] = set()
    for base in bases:
        if names[base].keys() & seen:
            return f"two of its base configs hold {', '.join(sorted(names[base].keys() & seen))}"
        files = {base, *walk_bases(reader.read(base), reader)}
        if files & above:
            return "two of its base configs inherit from the same file"
        seen |= names[base].keys()
        above |= files
    return ""


def _common_root(root: Path, configs: Sequence[Path], table: ClassTable) -> Path:
    """Return the folder above a path and all base configs of its files."""
    reader, above = reader_for(table), [root]
    for file in configs:
        try:
            above += [base.parent for base in walk_bases(reader.read(file), reader)]
        except PortError:
            continue  # reported when it is ported
    project = project_root(root)
    return Path(os.path.commonpath([f for f in above if f.is_relative_to(project)] or [root]))


def reader_for(table: ClassTable) -> Reader:
    """Return a reader that knows where the packages of a table are."""
    return Reader({name: f.parent for name, f in table.files.items() if f.name == "__init__.py" and "." not in name})


# -------------------------------------------------------------------------------------------------------- Hydra
_OF_ALL = re.compile(r"override /|^#\s*@package _global_", re.M)


def _port_hydra(files: Sequence[Path], places: Places, ported: Ported) -> None:
    """Port configs of Hydra: each file of a group on its own, each primary config importing what it chooses.

    A file of a group that overrides the choices of others (an experiment) is composed with the primary config that
    has this group.
    """
    for root in sorted(_config_roots(files)):
        composer, inside = Composer(root), [f for f in files if f.is_relative_to(root)]
        primaries = {f: f for f in inside if f.parent == root}  # each with the config that it is composed with
        for file in inside:
            group = file.parent.relative_to(root).as_posix()
            listed = re.compile(rf"^\s*- {group}\s*:", re.M)
            if file.parent != root and _OF_ALL.search(file.read_text(encoding="utf-8")):
                owners = (p for p in primaries if p.parent == root and listed.search(p.read_text(encoding="utf-8")))
                primaries.update({file: owner} if (owner := next(owners, None)) else {})

        for file in inside:
            if file.parent != root / "hydra":
                ported.write(file, places.of(file), _hydra_text, file, composer, primaries, places)


def _hydra_text(file: Path, composer: Composer, primaries: dict[Path, Path], places: Places) -> str:
    group = file.parent.relative_to(composer.root).as_posix()
    if file not in primaries:
        composed = composer.compose(file, group=group)
        return write_file(translate(composed.values, composed.notes))
    composed = composer.compose(primaries[file], {} if group == "." else {group: file.stem})
    bases = _importable_parts(composed, set(primaries), file, places, composer)
    return write_file(translate(composed.values, composed.notes), bases)


def _config_roots(files: Sequence[Path]) -> set[Path]:
    """Return the uppermost folders that hold a config with a defaults list, in which groups are folders."""
    roots = {f.parent for f in files if re.search(r"^defaults\s*:", f.read_text(encoding="utf-8"), re.M)}
    return {folder for folder in roots if not roots & set(folder.parents)} or {f.parent for f in files}


def _importable_parts(
    composed: Composition, own: set[Path], asking: Path, places: Places, composer: Composer
) -> list[tuple[str, dict[str, Any]]]:
    """Return the modules of the groups that a composition chose, each with what it holds."""
    entries: dict[Path, dict[str, Any]] = {}
    for part in composed.parts:
        merge_at(entries.setdefault(part.entry, {}), part.package, part.values)
    held = [name for values in entries.values() if len(values) == 1 for name in values]
    bases = []
    for file, values in entries.items():
        is_alone = len(values) == 1 and held.count(*values) == 1 and next(iter(values)).isidentifier()
        if is_alone and file not in own and "hydra" not in values:
            group = file.parent.relative_to(composer.root).as_posix()
            if composer.compose(file, group=group).values == values:  # it was not put into another package
                bases.append((places.module(file, asking), translate(values)))
    return bases


# ------------------------------------------------------------------------------------------------------- files
def kind_of(file: Path) -> str:
    """Return what a file is: a config or code, and of which library; `other` for what needs no port."""
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        return "other"
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".py" and _DETECTRON2.search(text) and _with_libcst("detectron2").is_config(text):
        return "detectron2 config"
    if is_config(file, text):
        return "mmengine config"
    if file.suffix == ".py":
        is_code = _MMENGINE_CODE.search(text) or (_REGISTRY.search(text) and not _OTHER_REGISTRY.search(text))
        return "mmengine code" if is_code else "other"
    return {"hydra": "Hydra config", "lightning": "LightningCLI config"}.get(yaml_kind(text), "other")


_DETECTRON2 = re.compile(r"\b(LazyCall|LazyConfig|model_zoo)\b")
_MMENGINE_CODE = re.compile(r"^\s*(from|import) mmengine\b|\.register_module\(", re.M)
_REGISTRY = re.compile(r"\bregistry import\b")
_OTHER_REGISTRY = re.compile(r"^\s*from (detectron2|fvcore)\b|\b[A-Z]\w*_REGISTRY\b", re.M)  # these stay


def _visible_files(path: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        yield from (Path(folder, name) for name in names if not name.startswith("."))
