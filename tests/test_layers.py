"""The shape of the package: imports point downwards and never in a circle, configs need no torch."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "lazyengine"
LAYERS = [
    "errors",
    "late",
    "interpreter",
    "text",
    "nesting",
    "config",
    "_torch",
    "plain",
    "seeding",
    "fileio",
    "dist",
    "logging",
    "checkpoint",
    "evaluator",
    "dataset",
    "model",
    "optim",
    "visualization",
    "hooks",
    "record",
    "runner",
    "analysis",
    "runs",
    "sweep",
    "port",
    "cli",
    "__main__",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and absolute name of everything a file imports, also late; not what only a type checker reads.

    What a package's ``__init__`` shows a type checker it imports when it is asked for.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = (*path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1],)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and path.stem != "__init__"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def layer_of(module: str) -> str | None:
    """``lazyengine.dist.comm.all_reduce`` -> ``dist``; None for what is not the package's or is its root."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lazyengine" and len(parts) > 1 and parts[1] != "__version__" else None


def test_every_part_has_a_layer():
    parts = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()} | {p.stem for p in PACKAGE.glob("*.py")}
    assert parts - {"__init__"} == set(LAYERS)


def test_imports_point_downwards():
    upwards = []
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for line, module in imports_of(path):
            layer = layer_of(module)
            if layer is not None and LAYERS.index(layer) > LAYERS.index(own):
                upwards.append(f"{path.relative_to(PACKAGE)}:{line} imports {module}")
    assert not upwards


def test_configs_import_no_torch():
    heavy = {"torch", "numpy", "tensorboard", "fvcore", "iopath", "cloudpickle", "matplotlib", "rich"}
    found = []
    for path in (PACKAGE / "config").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_import = {id(node) for node in tree.body}  # a late import is one that a function makes
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                roots = {name.partition(".")[0] for name in names}
                if "torch" in roots or (id(node) in at_import and roots & heavy):
                    found.append(f"{path.name}:{node.lineno} imports {', '.join(sorted(roots & heavy))}")
    assert not found


def test_no_import_circles():
    """Within the packages too, and with the imports that a function makes."""
    modules = {".".join(("lazyengine", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = {imported if imported in modules else imported.rpartition(".")[0] for _, imported in imports_of(path)}
        own_package = {name.rpartition(".")[0]}  # `from . import a` names the package, and means the module
        graph[name] = (targets & set(modules)) - {name} - own_package
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_module_is_called_utils():
    assert not [str(p) for p in FILES if "util" in p.stem or "helper" in p.stem]
