"""Find the class of a registered name by reading source trees; nothing of them is imported."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .expressions import Name, Symbol

_PACKAGE = Path(__file__).resolve().parents[1]
_SKIPPED = {"tests", "test", "build", "dist", "docs", "node_modules", "site-packages", "work_dirs"}
_MMCV_TRANSFORMS = (
    "BaseTransform TransformBroadcaster Compose RandomChoice KeyMapper LoadImageFromFile LoadAnnotations Normalize "
    "Resize Pad ToTensor ImageToTensor RandomFlip RandomChoiceResize CenterCrop RandomGrayscale MultiScaleFlipAug "
    "RandomResize RandomApply TestTimeAug"
)
_DIFFUSERS = "DDIMScheduler DDPMScheduler UNet2DConditionModel ControlNetModel AutoencoderKL DiffusionPipeline"
_KNOWN_ELSEWHERE = {
    **{name: Symbol("diffusers", name) for name in _DIFFUSERS.split()},
    **{name: Symbol("mmcv.transforms", name) for name in _MMCV_TRANSFORMS.split()},
    "Lion": Symbol("lion_pytorch", "Lion"),
    "Adafactor": Symbol("transformers.optimization", "Adafactor"),
    "SequentialSampler": Symbol("torch.utils.data", "SequentialSampler"),
}
RENAMED = {
    "NaiveVisualizationHook": "VisualizationHook",
    "ApexOptimWrapper": "AmpOptimWrapper",
    "MMDistributedDataParallel": "DDP",
    "MMSeparateDistributedDataParallel": "DDP",
    "MMFullyShardedDataParallel": "FSDP2",
}
GROUP_RULE = "DefaultOptimWrapperConstructor"
_RENAMED_SCOPES = {"mmcls": "mmpretrain"}  # the library went on under another name
REGISTRY_KEYS = {
    **dict.fromkeys(("pipeline", "transforms", "policies", "test_pipeline", "train_pipeline"), "TRANSFORM"),
    **dict.fromkeys(("default_hooks", "custom_hooks"), "HOOK"),
    **dict.fromkeys(("val_evaluator", "test_evaluator", "metrics"), "METRIC"),
    **dict.fromkeys(("augments", "batch_augments"), "AUGMENT"),
    **dict.fromkeys(("dataset", "datasets"), "DATASET"),
    **dict.fromkeys(("tokenizer",), "TOKENIZER"),
    **dict.fromkeys(("model", "backbone", "neck", "head", "data_preprocessor"), "MODEL"),
}


_CLASS = re.compile(r"^class (\w+)", re.M)
_LIGHTNING_CLI = re.compile(
    r"\bLightningCLI\(\s*(?:model_class\s*=\s*)?([\w.]+)(?:\s*,\s*(?:datamodule_class\s*=\s*)?([\w.]+)\s*[,)])?"
)


@dataclass(frozen=True)
class Registered:
    """A class or function that a registry knows."""

    symbol: Symbol
    registry: str
    by: str  # the function or method that registers it


def own_names() -> dict[str, str]:
    """Return lazyengine's public names, each with its package; read from the source, since importing takes seconds."""
    found: dict[str, str] = {}
    packages = "hooks model optim optim/scheduler dataset evaluator runner logging visualization dist checkpoint config"
    for package in [*packages.split(), "fileio", "analysis"]:
        for node in ast.parse((_PACKAGE / package / "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value):
                    found.setdefault(name, f"lazyengine.{package.partition('/')[0]}")
    return found


@functools.lru_cache
def _names_in(module: str) -> frozenset[str]:
    return frozenset(importlib.import_module(module).__all__)


def package_of(file: Path) -> tuple[Path, str]:
    """Return the folder from which a file's dotted name counts, and that name."""
    folder, parts = file.parent, [] if file.name == "__init__.py" else [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def parsed(text: str) -> ast.Module | None:
    """Return the syntax tree of a file; None for what is no Python of today."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def relative_module(file: Path, folder: Path) -> str:
    """Return how a module in a folder imports a file, relatively."""
    parts = os.path.relpath(file.with_suffix(""), folder).split(os.sep)
    up = parts.count("..")
    return "." * (up + 1) + ".".join(parts[up:])


class ClassTable:
    """What the registries of some source trees hold, and which types their classes choose by themselves.

    Args:
        roots: Folders that are searched, the more important first.
    """

    def __init__(self, roots: Sequence[Path]):
        self.own = own_names()
        self.files: dict[str, Path] = {}
        self.registered: dict[str, list[Registered]] = {}
        self._modules: dict[str, tuple[ast.Module, dict[str, Symbol]]] = {}
        self._types: dict[Symbol, dict[str, dict[str, Any]]] = {}
        self._defined: set[str] | None = None
        for root in roots:
            for file in _source_files(root):
                text = file.read_text(encoding="utf-8", errors="replace")
                module = package_of(file)[1] or file.stem
                if "." not in module and file.parent != root and not (file.parent / "__init__.py").exists():
                    module = ".".join(file.relative_to(root).with_suffix("").parts)
                self.files.setdefault(module, file)
                if "register" in text:
                    self._scan(file, module, text)

    def package(self, name: str) -> Path | None:
        """Return the folder of a package that the roots hold."""
        file = self.files.get(name)
        return file.parent if file is not None and file.name == "__init__.py" else None

    def add_installed(self, package: str) -> None:
        """Search an installed package too, if there is one of this name."""
        if package in self.files or not package.isidentifier():
            return
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            other = ClassTable([Path(folder)])
            self.files = {**other.files, **self.files}
            for name, found in other.registered.items():
                self.registered.setdefault(name, []).extend(found)

    def given_to_lightning(self) -> dict[str, Symbol]:
        """Return the classes that a script of the roots gives to `LightningCLI`, as `model` and `data`."""
        found: dict[str, Symbol] = {}
        for module, file in self.files.items():
            text = file.read_text(encoding="utf-8", errors="replace")
            call = _LIGHTNING_CLI.search(text)
            if call:
                places = imports_in(ast.parse(text), module, file)
                for name, given in zip(("model", "data"), call.groups()):
                    symbol = _resolved(ast.parse(given, mode="eval").body, places, module) if given else None
                    found.update({name: symbol} if symbol and symbol.name[:1].isupper() else {})
        return found

    # ---------------------------------------------------------------------------------------------- scanning
    def _scan(self, file: Path, module: str, text: str) -> None:
        if (tree := parsed(text)) is None:
            return
        places = imports_in(tree, module, file)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and _registers(decorator):
                        self._add(decorator, Symbol(module, node.name), node.name)
            elif isinstance(node, ast.Expr):
                call, given = _registration(node)
                self._add_all(call, given, places, module)
            elif isinstance(node, ast.For) and isinstance(node.iter, ast.List | ast.Tuple):
                for statement in node.body:
                    call, _ = _registration(statement)
                    self._add_all(call, node.iter.elts, places, module)

    def _add_all(
        self, call: ast.Call | None, given: Sequence[ast.expr], places: dict[str, Symbol], module: str
    ) -> None:
        for item in given:
            if call is not None and (symbol := _resolved(item, places, module)):
                self._add(call, symbol, symbol.name)

    def _add(self, call: ast.Call, symbol: Symbol, own_name: str) -> None:
        named = [k.value for k in call.keywords if k.arg == "name"] + [a for a in call.args[:1] if _is_text(a)]
        try:
            names = ast.literal_eval(named[0]) if named else None
        except ValueError:
            names = None
        registry = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        by = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        for name in [names] if isinstance(names, str) else names or [own_name]:
            self.registered.setdefault(name, []).append(Registered(symbol, registry, by))

    # ------------------------------------------------------------------------------------------------ asking
    def find(self, name: str, scope: str = "", key: str = "") -> Registered | None:
        """Return what a registered name stands for, or None.

        Args:
            name: As in `type="mmdet.ResNet"`: a name, with a scope, or a dotted path.
            scope: The config's `default_scope`.
            key: The key of the config below which it was found; of several registries the fitting one is preferred.
        """
        prefix, _, last = name.rpartition(".")
        prefix = _RENAMED_SCOPES.get(prefix, prefix)
        name = f"{prefix}.{last}" if prefix else last
        scope = prefix if prefix and "." not in prefix else scope
        candidates = self.registered.get(last if prefix == scope else name) or self.registered.get(last, [])
        if prefix and (prefix != scope or not candidates):
            symbol = self.moved(Symbol(prefix, last))
            return Registered(symbol, "", "") if "." in prefix or prefix in self.files or prefix == "torch" else None
        if prefix:  # a scope that was named: its own package, and those that all packages build on
            candidates = [
                c for c in candidates if c.symbol.module.split(".")[0] in (prefix, "mmcv", "mmengine", "torch")
            ]
        if candidates:
            wanted = REGISTRY_KEYS.get(key, "")

            def merit(each: Registered) -> tuple[bool, bool]:
                return bool(wanted) and wanted in each.registry, each.symbol.module.split(".")[0] == scope

            best = max(candidates, key=merit)
            return Registered(self.moved(best.symbol), best.registry, best.by)
        symbol = self._of_libraries(last)
        return None if symbol is None else Registered(symbol, "", "")

    def class_name(self, registered: str) -> str:
        """Return the name of the class that a registered name stands for."""
        found = self.find(registered)
        return found.symbol.name if found is not None else registered.rpartition(".")[2]

    def defines(self, name: str) -> bool:
        """Return whether a source tree has a class of this name, registered or not."""
        if self._defined is None:
            texts = (file.read_text(encoding="utf-8", errors="replace") for file in self.files.values())
            self._defined = {found for text in texts for found in _CLASS.findall(text)}
        return name in self._defined

    def _of_libraries(self, name: str) -> Symbol | None:
        if (own := RENAMED.get(name, name)) in self.own:
            return Symbol(self.own[own], own)
        if name.startswith("torchvision/"):
            return Symbol("torchvision.transforms", name.partition("/")[2])
        if name in _names_in("torch.optim"):
            return Symbol("torch.optim", name)
        return _KNOWN_ELSEWHERE.get(name) or (
            Symbol("torch.nn", name) if name in _names_in("torch.nn.modules") else None
        )

    def moved(self, symbol: Symbol) -> Symbol:
        """Return the place of a class in the ported project: lazyengine's for mmengine's classes."""
        name = RENAMED.get(symbol.name, symbol.name)
        if symbol.module.partition(".")[0] == "mmengine" and name in self.own:
            return Symbol(self.own[name], name)
        if symbol.module.startswith("torch.optim.") and symbol.name in _names_in("torch.optim"):
            return Symbol("torch.optim", symbol.name)
        return symbol

    def chosen(self, symbol: Symbol | str) -> dict[str, dict[str, Any]]:
        """Return what a class puts into its dict arguments: `param.setdefault("type", "T")` in its methods.

        Returns:
            By argument: key -> constant, or a `Name` of another argument.
        """
        if not isinstance(symbol, Symbol):
            return {}
        if symbol not in self._types:
            self._types[symbol] = {}  # a class cannot be its own base
            self._types[symbol] = self._chosen(symbol)
        return self._types[symbol]

    def _chosen(self, symbol: Symbol) -> dict[str, dict[str, Any]]:
        found = self.definition(symbol)
        if found is None:
            return {}
        node, places, module = found
        types: dict[str, dict[str, Any]] = {}
        for base in node.bases:
            if (above := _resolved(base, places, module)) is not None:
                types.update({name: dict(values) for name, values in self.chosen(above).items()})
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "setdefault" and len(call.args) == 2:
                (key, value), parameter = call.args, ast.unparse(call.func.value)
                if _is_text(key) and isinstance(value, ast.Constant | ast.Name):
                    chosen = value.value if isinstance(value, ast.Constant) else Name(value.id)
                    types.setdefault(parameter, {})[ast.literal_eval(key)] = chosen
        return {parameter: values for parameter, values in types.items() if "type" in values}

    def is_group_rule(self, symbol: Symbol, depth: int = 0) -> bool:
        """Return whether a class is an optimizer wrapper constructor that chooses the groups itself in `add_params`."""
        if symbol.name == GROUP_RULE:
            return depth > 0
        found = self.definition(symbol)
        if found is None or depth > 8:
            return False
        node, places, module = found
        methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        bases = [base for base in (_resolved(each, places, module) for each in node.bases) if base is not None]
        is_last = any(base.name == GROUP_RULE for base in bases)
        if "__call__" in methods or (is_last and ("add_params" not in methods or "super().add_p" in ast.unparse(node))):
            return False
        return any(self.is_group_rule(base, depth + 1) for base in bases)

    def definition(self, symbol: Symbol, depth: int = 0) -> tuple[ast.ClassDef, dict[str, Symbol], str] | None:
        """Return the class statement of a symbol, following re-exports, with the imports and name of its module."""
        file = self.files.get(symbol.module)
        if file is None or depth > 8:
            return None
        if symbol.module not in self._modules:
            if (tree := parsed(file.read_text(encoding="utf-8", errors="replace"))) is None:
                return None
            self._modules[symbol.module] = tree, imports_in(tree, symbol.module, file)
        tree, places = self._modules[symbol.module]
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == symbol.name:
                return node, places, symbol.module
        if symbol.name in places:
            return self.definition(places[symbol.name], depth + 1)
        starred = (Symbol(place.module, symbol.name) for name, place in places.items() if name.startswith("*"))
        return next(filter(None, (self.definition(other, depth + 1) for other in starred)), None)


def _source_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        hidden = [f for f in folders if f.startswith(".") or f in _SKIPPED or f.endswith(".egg-info")]
        folders[:] = sorted(f for f in folders if f not in hidden)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def imports_in(tree: ast.Module, module: str, file: Path) -> dict[str, Symbol]:
    """Return what a module's imports bind: name -> symbol, relative imports made absolute."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    places: dict[str, Symbol] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                places[bound] = Symbol(alias.name if alias.asname else bound, "")
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                bound = alias.asname or (f"*{base}" if alias.name == "*" else alias.name)
                places[bound] = Symbol(base, alias.name)
    return places


def _resolved(node: ast.expr, places: dict[str, Symbol], module: str) -> Symbol | None:
    if isinstance(node, ast.Name):
        return places.get(node.id) or Symbol(module, node.id)
    if isinstance(node, ast.Attribute):
        outer = _resolved(node.value, places, module)
        if outer is None:
            return None
        return Symbol(outer.module if not outer.name else f"{outer.module}.{outer.name}", node.attr)
    return None


def _registration(node: ast.stmt) -> tuple[ast.Call | None, list[ast.expr]]:
    """Return the call that registers and what it is given: `X.register_module(module=C)`, `X.register_module()(C)`."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return None, []
    if isinstance(call.func, ast.Call) and _registers(call.func):
        return call.func, call.args[:1]
    if not _registers(call):
        return None, []
    given = [k.value for k in call.keywords if k.arg in ("module", "cls")]
    return call, given or (call.args[:1] if isinstance(call.func, ast.Name) else [])


def _registers(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name == "register_module" or name.startswith("register_hf")


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_text, node.elts))
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
