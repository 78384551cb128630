"""Port YAML configs: Hydra's with `_target_`, composed by its defaults lists, and LightningCLI's with `class_path`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .classes import ClassTable
from .errors import PortError
from .expressions import REF, REQUIRED, Call, Code, Missing, Symbol, ref_text


def kind_of(text: str) -> str:
    """Return `"hydra"`, `"lightning"` or nothing for the text of a YAML file."""
    if re.search(r"^\s*(- )?class_path\s*:", text, re.M):
        return "lightning"
    if re.search(r"^\s*(- )?_target_\s*:|^defaults\s*:|^# @package|\$\{[\w.]+\}", text, re.M):
        return "hydra"
    return "lightning" if re.search(r"^trainer\s*:", text, re.M) else ""


def load_yaml(file: Path) -> dict[str, Any]:
    """Return what a YAML file holds; numbers such as `1e-3` are numbers, as both libraries read them.

    Raises:
        PortError: PyYAML is missing, or the file is no mapping.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise PortError("Porting YAML needs yaml. Run: pip install 'lazyengine[port]'.") from None

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.[\d_]+([eE][-+]?\d+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    )
    Loader.yaml_implicit_resolvers = {k: list(v) for k, v in Loader.yaml_implicit_resolvers.items()}
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader) or {}
    except yaml.YAMLError as error:
        raise PortError(f"{file} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise PortError(f"{file} holds {type(values).__name__}; a config is a mapping.")
    return values


# ---------------------------------------------------------------------------------------------------- composing
@dataclass
class Part:
    """A config file that takes part in a composition, at its package.

    Attributes:
        entry: The file that the primary config chose, by which this one came.
    """

    file: Path
    package: str
    values: dict[str, Any]
    entry: Path


@dataclass
class Composition:
    """What Hydra would compose.

    Attributes:
        values: The result.
        parts: The files, in the order in which they were merged.
        notes: What could not be composed.
    """

    values: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    """An entry of a defaults list: the option of a group, and where its values go.

    Attributes:
        group: Folder of the option, from the root.
        option: Name of the file; None for no file, `_self_` for the one that holds the list.
        package: Where the values go, from the package of the file that holds the list.
        words: What stands before the group: `override`, `optional`.
    """

    group: str
    option: str | None
    package: str
    words: tuple[str, ...] = ()


class Composer:
    """Composes configs as Hydra 1.3 does, without overrides on the command line.

    Args:
        root: The folder of the primary config, in which groups are folders.
    """

    def __init__(self, root: Path):
        self.root = root

    def compose(self, file: Path, choices: dict[str, str] | None = None, group: str = "") -> Composition:
        """Return the composition of a config.

        Args:
            file: The config.
            choices: Group -> option, in place of what its defaults list says.
            group: The group that the config is an option of; nothing for a primary config.
        """
        result = Composition()
        chosen = dict(choices or {})
        for _ in range(8):  # an override may choose a file that has overrides itself
            before = dict(chosen)
            self._override(file, group, chosen)
            if before == chosen:
                break
        for part in self._parts(file, group, group.replace("/", "."), chosen, result.notes):
            result.parts.append(part)
            merge_at(result.values, part.package, part.values)
        return result

    def _entries(self, file: Path, group: str, chosen: dict[str, str]) -> Iterator[_Entry]:
        """Yield the entries of a file's defaults list; at its end the file itself, where the list does not name it."""
        given = load_yaml(file).get("defaults") or []
        beside = {str(k): v for entry in given if isinstance(entry, dict) for k, v in entry.items()} | chosen
        for entry in given if "_self_" in given else [*given, "_self_"]:
            if entry == "_self_":
                yield _Entry(group, entry, "")
                continue
            if isinstance(entry, str):  # a file of the own group, or `group/option`
                key, at, package = entry.partition("@")
                key, _, options = key.rpartition("/")
                key += at + package
            else:
                (key, options), *_ = entry.items()
            *words, key = str(key).split() or [""]
            name, _, package = key.partition("@")
            folder = name.strip("/") if name.startswith("/") else "/".join(filter(None, (group, name)))
            for option in options if isinstance(options, list) else [options]:
                option = chosen.get(folder, option) if folder != group else option
                option = option and re.sub(r"\$\{(\w+)\}", lambda found: str(beside.get(found[1], "")), str(option))
                yield _Entry(folder, option, package or name.strip("/").replace("/", "."), tuple(words))

    def _override(self, file: Path, group: str, chosen: dict[str, str]) -> None:
        """Put what the defaults lists override into the choices."""
        for entry in self._entries(file, group, chosen):
            if entry.option is not None and "override" in entry.words:
                chosen[entry.group] = entry.option
            elif entry.option != "_self_" and (path := self._file(entry)) is not None:
                self._override(path, entry.group, chosen)

    def _file(self, entry: _Entry) -> Path | None:
        if entry.option is None:
            return None
        path = self.root / entry.group / entry.option
        path = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
        return path if path.is_file() else None

    def _parts(
        self, file: Path, group: str, package: str, chosen: dict[str, str], notes: list[str], entry: Path | None = None
    ) -> Iterator[Part]:
        own = load_yaml(file)
        own.pop("defaults", None)
        header = re.search(r"^#\s*@package\s+(\S+)", file.read_text(encoding="utf-8"), re.M)
        if header:
            package = "" if header[1] == "_global_" else header[1].replace("_group_", group.replace("/", "."))
        for part in self._entries(file, group, chosen):
            if part.option == "_self_":
                yield Part(file, package, own, entry or file)
            elif (path := self._file(part)) is not None and "override" not in part.words:
                place = ".".join(filter(None, (package, part.package)))
                if part.package.startswith("_global_"):
                    place = part.package.removeprefix("_global_").strip(".")
                yield from self._parts(path, part.group, place, chosen, notes, entry or path)
            elif part.option is not None and not part.words and part.group.partition("/")[0] != "hydra":
                notes.append(f"{file.name}: there is no config {part.group}/{part.option}")


def merge_at(values: dict[str, Any], package: str, new: dict[str, Any]) -> None:
    """Merge values into others below a dotted package."""
    for name in filter(None, reversed(package.split("."))):
        new = {name: new}
    _merge(values, new)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            old[key] = old[key] if isinstance(old.get(key), dict) else {}
            _merge(old[key], value)
        else:
            old[key] = value


# -------------------------------------------------------------------------------------------------- translating
def translate(values: dict[str, Any], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return top-level names and their expressions for a composed config of Hydra."""
    shown = {key: value for key, value in values.items() if key != "hydra"}  # that is how the run is started
    names = {re.sub(r"\W", "_", str(key)): _expression(value, (str(key),)) for key, value in shown.items()}
    if notes and names:
        first = next(iter(names))
        names[first] = Missing(names[first], "; ".join(notes))
    return names


def translate_lightning(values: dict[str, Any], table: ClassTable) -> dict[str, Any]:
    """Return top-level names and their expressions for a config of LightningCLI.

    Args:
        values: What the file holds; the options of a subcommand, such as `fit`, are its own level.
        table: Where a script gives `LightningCLI` the classes of `model` and `data` that the file does not name.
    """
    commands = [values[name] for name in ("fit", "validate", "test", "predict") if isinstance(values.get(name), dict)]
    values = commands[0] if commands and len(values) == 1 else values
    names = translate(values)
    for name, symbol in {"trainer": Symbol("lightning.pytorch", "Trainer"), **table.given_to_lightning()}.items():
        if isinstance(names.get(name), dict):
            names[name] = Call(symbol, names[name])
    for name in ("model", "data"):
        if isinstance(names.get(name), dict):
            names[name] = Missing(names[name], f"{name}: LightningCLI got the class in the script; write it here")
    return names


def _expression(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_expression(item, (*path, str(i))) for i, item in enumerate(value)]
    if isinstance(value, dict):
        if "_target_" in value:
            return _hydra_call(value, path)
        if "class_path" in value and value.keys() <= {"class_path", "init_args", "dict_kwargs"}:
            given = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
            arguments = {k: _expression(v, (*path, k)) for k, v in given.items()}
            return Call(symbol_of(value["class_path"]), arguments, partial=path in _MADE_LATER)
        return {key: _expression(inner, (*path, str(key))) for key, inner in value.items()}
    if value == "???":
        return REQUIRED
    return _text(value, path) if isinstance(value, str) and "${" in value else value


_MADE_LATER = {("optimizer",), ("lr_scheduler",)}  # LightningCLI gives them the parameters
_GETTERS = re.compile(r"hydra_zen\.funcs\.get_obj|hydra\.utils\.get_(class|method|object|static_method)")


def _hydra_call(value: dict[str, Any], path: tuple[str, ...]) -> Any:
    target = value["_target_"]
    if _GETTERS.fullmatch(target):
        return symbol_of(value["path"])
    is_zen = target == "hydra_zen.funcs.zen_processing"  # what hydra-zen does beside making the object is its own
    left_out = {*(value.get("_zen_exclude") or ()), "_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
    given = {k: v for k, v in value.items() if k not in left_out and not (is_zen and k.startswith("_zen_"))}
    arguments = {k: _expression(v, (*path, k)) for k, v in given.items()}
    is_partial = value.get("_partial_") is True or value.get("_zen_partial") is True
    call: Any = Call(symbol_of(value["_zen_target"] if is_zen else target), arguments, partial=is_partial)
    if value.get("_zen_wrappers"):
        call = Missing(call, f"_zen_wrappers={value['_zen_wrappers']!r}: call them where the object is used")
    if value.get("_args_"):
        call = Missing(call, f"_args_={value['_args_']!r}: give them by name")
    if value.get("_recursive_") is False:
        call = Missing(call, "_recursive_=False: annotate the parameters as Lazy[...], which get recipes")
    return call


def symbol_of(target: str) -> Symbol:
    """Return the symbol of a dotted path; a class on the way is part of the name."""
    parts = target.split(".")
    first = next((i for i, part in enumerate(parts[:-1]) if part[:1].isupper()), len(parts) - 1)
    return Symbol(".".join(parts[:first]) or "builtins", ".".join(parts[first:]))


_NOW = re.compile(r"\$\{now:([^{}]+)\}")


def _at_now(text: str) -> Code:
    return Code(f'strftime("{text}")', (Symbol("time", "strftime"),))


def _text(value: str, path: tuple[str, ...]) -> Any:
    """Return the expression for a text with interpolations."""
    if environment := re.fullmatch(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*(.*))?\}", value):
        name, default = environment.groups()
        read = f"_environ[{name!r}]" if default is None else f"_environ.get({name!r}, {default.strip()!r})"
        return Code(read, (Symbol("os", "environ"),))
    if value == "${hydra:runtime.cwd}":
        return Code("getcwd()", (Symbol("os", "getcwd"),))
    if value == "${hydra:runtime.output_dir}":
        return Missing(_at_now("outputs/%Y-%m-%d/%H-%M-%S"), "this is Hydra's usual folder; write your hydra.run.dir")
    if "${" not in (rest := _NOW.sub("", value)) and "%" not in rest:
        return _at_now(_NOW.sub(r"\1", value))
    if text := ref_text(value, path):
        return Code(text, (REF,))
    return Missing(value, f"the resolver in {value!r} has no counterpart; compute it in Python")
