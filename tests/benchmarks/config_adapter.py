"""Adapter for a benchmark that compares config systems: loads, builds, copies and overrides one tree of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lazyengine.config import LazyConfig, instantiate

Tree = list[Any]  # [name, a, b, [trees]]


def _code(tree: Tree) -> str:
    name, a, b, kids = tree
    return f"L(Node)(a={a}, b={b}, name={name!r}, kids=[{', '.join(map(_code, kids))}])"


def lazyengine(
    tree: Tree, folder: str, overrides: Sequence[tuple[str, Any]]
) -> tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]:
    """Write the tree as a config file into `folder`; return `(load, build, override)`."""
    path = Path(folder, "lazyengine_config.py")
    head = "from cfgnode import Node\nfrom lazyengine.config import LazyCall as L\n"
    path.write_text(f"{head}root = {_code(tree)}\n")
    texts = [f"root.{key}={value}" for key, value in overrides]

    def override(config: Any) -> None:
        LazyConfig.apply_overrides(config, texts)

    return lambda: LazyConfig.load(path), lambda config: instantiate(config.root), override
