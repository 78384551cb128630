"""Write mmengine_names.json: the public names of mmengine and their arguments. Run it where mmengine 0.10.7 is."""

import importlib
import inspect
import json
import warnings
from pathlib import Path

PACKAGES = [
    "_strategy",
    "analysis",
    "config",
    "dataset",
    "device",
    "dist",
    "evaluator",
    "fileio",
    "hooks",
    "hub",
    "infer",
    "logging",
    "model",
    "optim",
    "registry",
    "runner",
    "structures",
    "testing",
    "utils",
    "utils.dl_utils",
    "visualization",
]


def arguments_of(value: object) -> list[str] | None:
    """Names of the arguments of a class or function; None where they cannot be known."""
    if not callable(value):
        return None
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def main() -> None:
    """Write the file beside this one."""
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, list[str] | None]] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"mmengine.{package}")
        names = sorted(set(module.__all__))
        found[package] = {name: arguments_of(getattr(module, name)) for name in names}
    text = ",\n".join(f" {json.dumps(package)}: {json.dumps(names)}" for package, names in found.items())
    Path(__file__).with_name("mmengine_names.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
