"""Loading, building, copying and overriding a config over plain Python that makes the same objects."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .table import Options, Row, Sample, Samples, in_process, rows_over, take_turns

Tree = list[Any]  # [name, a, b, [trees]]
MS: dict[str, Any] = {"unit": "ms", "scale": 1e3}


class Node:
    """What every config describes: numbers, a text and other nodes."""

    def __init__(self, a: int = 0, b: float = 0.0, name: str = "", kids: Sequence[Node] = ()) -> None:
        self.a, self.b, self.name, self.kids = a, b, name, list(kids)


class RegisteredNode(Node):
    """The same for mmengine, whose registry does not build what is nested."""

    registry: Any = None

    def __init__(self, kids: Sequence[Any] = (), **kwargs: Any) -> None:
        super().__init__(kids=[self.registry.build(kid) for kid in kids], **kwargs)


def run(options: Options) -> list[Row]:
    """Return the rows of configs with 50 and 2,000 nodes."""
    rows: list[Row] = []
    names = ["plain Python", "lazyengine", *options.find_peers(["mmengine"])]
    goals = {"lazyengine": "<= 1.5"}
    for num in (50, 2000):
        first = {n: lambda n=n, num=num: in_process("config:measure_first", num_nodes=num, name=n) for n in names}
        samples = take_turns(first, options.rounds, warm_up=False)
        rows += rows_over("plain Python", samples, f"config of {num} nodes: load and build, first time", goals, **MS)
        rounds = options.rounds if options.quick else 3 * options.rounds
        parts = in_process("config:measure_repeated", num_nodes=num, rounds=rounds, names=names)
        rows += rows_over("plain Python", parts["load"], f"config of {num} nodes: load and build again", goals, **MS)
    rows += rows_over("dicts", parts["copy"], "deep copy of 2000 nodes", {"lazyengine": "<= 0.2 of mmengine"}, **MS)
    return rows + rows_over("dicts", parts["override"], "20 overrides", {"lazyengine": "<= 0.2 ms"}, **MS)


def measure_first(num_nodes: int, name: str) -> Sample:
    """In a fresh process: load and build once."""
    with tempfile.TemporaryDirectory() as folder:
        load, build, _ = SYSTEMS[name](make_tree(num_nodes), folder, [])
        gc.collect()
        return take_turns({name: lambda: build(load())}, 1, warm_up=False)[name][0]


def measure_repeated(num_nodes: int, rounds: int, names: list[str]) -> dict[str, Samples]:
    """In one process, all in turns: load and build, deep copies and overrides."""
    tree = make_tree(num_nodes)
    paths = [f"kids.{i % 6}." + (f"kids.{i % 5}." if i % 2 else "") + "ab"[i % 2] for i in range(20)]
    with tempfile.TemporaryDirectory() as folder:
        systems = {name: SYSTEMS[name](tree, folder, list(zip(paths, range(20)))) for name in names}
        loading = {n: lambda load=load, build=build: build(load()) for n, (load, build, _) in systems.items()}
        systems["dicts"] = _dicts(tree, paths)
        configs = {n: (load(), override) for n, (load, _, override) in systems.items() if override is not None}
        gc.collect()
        gc.freeze()  # or every collection would also walk what all systems keep
        copying = {n: lambda config=config: copy.deepcopy(config) for n, (config, _) in configs.items()}
        setting = {n: lambda pair=pair: pair[1](pair[0]) for n, pair in configs.items()}
        samples = {"load": take_turns(loading, rounds, calls=10 if num_nodes < 100 else 1)}
        return samples | {"copy": take_turns(copying, rounds), "override": take_turns(setting, rounds, calls=10)}


# ---------------------------------------------------------------- systems: load() -> config, build(config), override
def make_tree(num_nodes: int) -> Tree:
    """Return a tree in which every node has up to seven children, filled level by level."""
    nodes: list[Tree] = [[f"n{i}", i, i * 0.5, []] for i in range(num_nodes)]
    for i, node in enumerate(nodes[1:]):
        nodes[i // 7][3].append(node)
    return nodes[0]


def _write(folder: str, name: str, head: str, tree: Tree, call: str) -> str:
    """Write a file that calls `call`, with ``{}`` where the arguments go, for each node of the tree."""

    def code(tree: Tree) -> str:
        title, a, b, kids = tree
        return call.format(f"a={a}, b={b}, name={title!r}, kids=[{', '.join(map(code, kids))}]")

    path = Path(folder, name)
    path.write_text(f"{head}\nroot = {code(tree)}\n")
    return str(path)


def _plain(tree: Tree, folder: str, overrides: Any) -> Any:
    path = _write(folder, "plain.py", f"from {__name__} import Node", tree, "Node({})")

    def load() -> Any:
        names: dict[str, Any] = {}
        exec(compile(Path(path).read_text(), path, "exec"), names)
        return names["root"]

    return load, lambda root: root, None


def _dicts(tree: Tree, paths: list[str]) -> Any:
    def as_dict(tree: Tree) -> dict[str, Any]:
        return {"a": tree[1], "b": tree[2], "name": tree[0], "kids": [as_dict(kid) for kid in tree[3]]}

    split = [[int(key) if key.isdigit() else key for key in path.split(".")] for path in paths]

    def override(root: Any) -> None:
        for value, (*path, last) in enumerate(split):
            place = root
            for key in path:
                place = place[key]
            place[last] = value

    return lambda: as_dict(tree), None, override


def lazyengine(tree: Tree, folder: str, overrides: Sequence[tuple[str, Any]], module: str = __name__) -> Any:
    """Write the tree as a config into `folder`; return ``(load, build, override)``.

    Args:
        tree: ``[name, a, b, [trees]]``.
        folder: Where to write.
        overrides: Paths below ``root`` and values.
        module: Where the class `Node` comes from.
    """
    from lazyengine.config import LazyConfig, instantiate

    head = f"from {module} import Node\nfrom lazyengine.config import LazyCall as L"
    path = _write(folder, "lazyengine_config.py", head, tree, "L(Node)({})")
    texts = [f"root.{key}={value}" for key, value in overrides]
    override = lambda config: LazyConfig.apply_overrides(config, texts)  # noqa: E731
    return lambda: LazyConfig.load(path), lambda config: instantiate(config.root), override


def _mmengine(tree: Tree, folder: str, overrides: Sequence[tuple[str, Any]]) -> Any:
    from mmengine.config import Config
    from mmengine.registry import Registry

    registry = RegisteredNode.registry = Registry("benchmark", locations=[__name__])
    head = f"from {__name__} import RegisteredNode"
    path = _write(folder, "mmengine_config.py", head, tree, "dict(type=RegisteredNode, {})")
    values = {f"root.{key}": value for key, value in overrides}
    override = lambda config: config.merge_from_dict(dict(values))  # noqa: E731
    return lambda: Config.fromfile(path, lazy_import=True), lambda config: registry.build(config.root), override


SYSTEMS: dict[str, Callable[..., Any]] = {"plain Python": _plain, "lazyengine": lazyengine, "mmengine": _mmengine}
