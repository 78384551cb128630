"""Port YAML configs: Hydra's with `_target_`, composed by its defaults lists, and LightningCLI's with `class_path`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


class Composer:
    """Composes configs as Hydra 1.3 does, without overrides on the command line.

    Args:
        root: The folder of the primary config, in which groups are folders.
    """

    def __init__(self, root: Path):
        self.root = root

    def compose(self, file: Path, choices: dict[str, str] | None = None) -> Composition:
        """Return the composition of a primary config.

        Args:
            file: The primary config.
            choices: Group -> option, in place of what its defaults list says.
        """
        result = Composition()
        chosen = dict(choices or {})
        for _ in range(8):  # an override may choose a file that has overrides itself
            more = dict(chosen)
            self._overrides(file, "", chosen, more)
            if more == chosen:
                break
            chosen = more
        for part in self._parts(file, "", "", chosen, result):
            result.parts.append(part)
            merge_at(result.values, part.package, part.values)
        return result

    def compose_group(self, file: Path, group: str) -> Composition:
        """Return the composition of a file of a group alone, at the package of the group."""
        result = Composition()
        for part in self._parts(file, group, group.replace("/", "."), {}, result):
            result.parts.append(part)
            merge_at(result.values, part.package, part.values)
        return result

    def _entries(self, file: Path, group: str) -> Iterator[tuple[str, str, str | None, bool]]:
        """Yield group, package, option and whether it is an override, of each entry of a defaults list."""
        for entry in load_yaml(file).get("defaults") or []:
            if isinstance(entry, str):
                name, _, package = entry.partition("@")
                folder, _, option = name.strip("/").rpartition("/")
                base = folder if name.startswith("/") else "/".join(filter(None, (group, folder)))
                yield (group if entry == "_self_" else base), package, option, False
                continue
            (key, option), *_ = entry.items()
            words = str(key).split()
            name, _, package = words[-1].partition("@")
            base = name.strip("/") if name.startswith("/") else "/".join(filter(None, (group, name)))
            for one in option if isinstance(option, list) else [option]:
                yield base, package, one, "override" in words

    def _overrides(self, file: Path, group: str, chosen: dict[str, str], found: dict[str, str]) -> None:
        for base, _, option, is_override in self._entries(file, group):
            if is_override and option is not None:
                found[base] = option
            elif option != "_self_":
                option = chosen.get(base, option) if base != group else option
                path = self._file(base, option)
                if path is not None:
                    self._overrides(path, base, chosen, found)

    def _file(self, group: str, option: str | None) -> Path | None:
        if option is None:
            return None
        path = self.root / group / str(option)
        path = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
        return path if path.is_file() else None

    def _parts(
        self,
        file: Path,
        group: str,
        package: str,
        chosen: dict[str, str],
        result: Composition,
        entry: Path | None = None,
    ) -> Iterator[Part]:
        own = load_yaml(file)
        own.pop("defaults", None)
        header = re.search(r"^#\s*@package\s+(\S+)", file.read_text(encoding="utf-8"), re.M)
        if header:
            package = "" if header[1] == "_global_" else header[1].replace("_group_", group.replace("/", "."))
        entries = [e for e in self._entries(file, group) if not e[3]]
        if not any(option == "_self_" for _, _, option, _ in entries):
            entries.append((group, "", "_self_", False))
        for base, given, option, _ in entries:
            if option == "_self_":
                yield Part(file, package, own, entry or file)
                continue
            option = chosen.get(base, option) if base != group else option
            path = self._file(base, option)
            if path is None:
                if (
                    option is not None
                    and base != "hydra"
                    and not base.startswith("hydra/")
                    and not self._is_optional(file, base)
                ):
                    result.notes.append(f"{file.name}: there is no config {base}/{option}")
                continue
            inner = base.removeprefix(group).strip("/") if group else base
            place = ".".join(filter(None, (package, given or inner.replace("/", "."))))
            if given.startswith("_global_"):
                place = given.removeprefix("_global_").strip(".")
            yield from self._parts(path, base, place, chosen, result, entry or path)

    @staticmethod
    def _is_optional(file: Path, group: str) -> bool:
        return bool(
            re.search(rf"^\s*-\s*optional\s+/?{re.escape(group.rpartition('/')[2])}", file.read_text("utf-8"), re.M)
        )


def merge_at(values: dict[str, Any], package: str, new: dict[str, Any]) -> None:
    """Merge values into others below a dotted package."""
    for name in filter(None, package.split(".")):
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    _merge(values, new)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge(old[key], value)
        elif isinstance(value, dict):
            old[key] = {}
            _merge(old[key], value)
        else:
            old[key] = value


# -------------------------------------------------------------------------------------------------- translating
def translate(values: dict[str, Any], notes: list[str] | None = None) -> dict[str, Any]:
    """Return top-level names and their expressions for a composed config of Hydra or one of LightningCLI."""
    names = {}
    for key, value in values.items():
        if key == "hydra":  # how the run is started, which is the command line's business here
            continue
        names[_identifier(key)] = _expression(value, (str(key),))
    if notes and names:
        first = next(iter(names))
        names[first] = Missing(names[first], "; ".join(notes))
    if isinstance(trainer := names.get("trainer"), dict) and "class_path" not in values.get("trainer", {}):
        names["trainer"] = Call(Symbol("lightning.pytorch", "Trainer"), trainer) if _is_lightning(values) else trainer
    return names


def _is_lightning(values: dict[str, Any]) -> bool:
    text = repr(values)
    return "'class_path'" in text or "seed_everything" in values


def _identifier(key: Any) -> str:
    return re.sub(r"\W", "_", str(key))


def _expression(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_expression(item, (*path, str(i))) for i, item in enumerate(value)]
    if isinstance(value, dict):
        if "_target_" in value:
            return _hydra_call(value, path)
        if "class_path" in value and value.keys() <= {"class_path", "init_args", "dict_kwargs"}:
            given = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
            return Call(symbol_of(value["class_path"]), {k: _expression(v, (*path, k)) for k, v in given.items()})
        return {key: _expression(inner, (*path, str(key))) for key, inner in value.items()}
    if value == "???":
        return REQUIRED
    return _text(value, path) if isinstance(value, str) and "${" in value else value


def _hydra_call(value: dict[str, Any], path: tuple[str, ...]) -> Any:
    given = {k: v for k, v in value.items() if k not in ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")}
    arguments = {k: _expression(v, (*path, k)) for k, v in given.items()}
    call: Any = Call(symbol_of(value["_target_"]), arguments, partial=value.get("_partial_") is True)
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


def _text(value: str, path: tuple[str, ...]) -> Any:
    """Return the expression for a text with interpolations."""
    if environment := re.fullmatch(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*(.*))?\}", value):
        name, default = environment.groups()
        read = f"environ[{name!r}]" if default is None else f"environ.get({name!r}, {default.strip()!r})"
        return Code(read, (Symbol("os", "environ"),))
    if text := ref_text(value, path):
        return Code(text, (REF,))
    return Missing(value, f"the resolver in {value!r} has no counterpart; compute it in Python")
