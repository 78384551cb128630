"""Port detectron2's LazyConfig files: nearly the same language, so the text is changed in place by libcst."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import libcst as cst
import libcst.matchers as m

from .classes import parsed, relative_module
from .expressions import ref_text
from .rewriting import Rewriter, code_of, dotted, keep_names

_DICT_METHODS = {"pop", "update", "get", "keys", "items", "values"}
_POP = m.Call(func=m.Attribute(attr=m.Name("pop")))
_MANY_POPS = "pop of several arguments: delete each, `del node.name`"
_READERS = {"get_config", "model_zoo.get_config", "LazyConfig.load_rel", "LazyConfig.load"}


def is_config(text: str) -> bool:
    """Return whether a file is a config of detectron2's second kind."""
    has_lazy = re.search(r"\b(LazyCall|LazyConfig|model_zoo(\.| import )get_config)\b", text) and "detectron2" in text
    return bool(has_lazy) and not re.search(r"^class \w|__name__\s*==|^\s*import argparse", text, re.M)


def is_plain_data(text: str) -> bool:
    """Return whether a file only binds data, as the base configs do that detectron2's others change."""
    body = tree.body if (tree := parsed(text)) else []
    kinds = ast.Assign | ast.Import | ast.ImportFrom | ast.Expr
    imports_others = any(isinstance(node, ast.ImportFrom) and node.level for node in body)
    is_data = all(isinstance(node, kinds) for node in body) and ("dict(" in text or imports_others)
    return is_data and any(isinstance(node, ast.Assign) for node in body)


def port_config(text: str, file: Path) -> str:
    """Return the ported text of a config.

    Args:
        text: The old text.
        file: Where it is: the files that `model_zoo.get_config` names are searched from there upwards.
    """
    return _Port(file).rewrite(text)


class _Port(Rewriter):
    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self._top: list[str] = []  # the top-level name that is being assigned
        self._path: list[str] = []  # the arguments on the way to what is being visited
        self._functions = 0
        self._handled: set[cst.CSTNode] = set()  # statements and expressions that an import replaces

    # ----------------------------------------------------------------------------------------------- imports
    def leave_ImportFrom(self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom) -> Any:
        module = dotted(original_node.module) if original_node.module is not None else ""
        if isinstance(original_node.names, cst.ImportStar) or original_node.relative:
            return updated_node
        names = {alias.evaluated_name: alias for alias in original_node.names}
        taken: set[str] = set()
        if module.startswith("detectron2.config"):
            taken = names.keys() & {"LazyCall", "LazyConfig", "instantiate"}
            for name in taken:
                self.need("lazyengine.config", name, names[name].evaluated_alias)
        elif module == "omegaconf":
            taken = set(names)
        elif module in ("detectron2", "detectron2.model_zoo"):
            taken = {"model_zoo", "get_config"}
        elif module.startswith("detectron2.solver") and "get_default_optimizer_params" in names:
            taken = {"get_default_optimizer_params"}
            self.need("lazyengine.optim", "param_groups")
        kept = [alias for name, alias in names.items() if name not in taken]
        return updated_node if len(kept) == len(names) else keep_names(updated_node, kept)

    # ------------------------------------------------------------------------------------- values with a path
    def visit_Assign(self, node: cst.Assign) -> None:
        target = node.targets[0].target
        path = dotted(target)
        self._top.append(path if not self._functions else "")
        bound = [dotted(e.value) for e in target.elements] if isinstance(target, cst.Tuple | cst.List) else [path]
        found = None if self._functions else self._from_zoo(node.value)
        if found is None or len(bound) != len(found[1]) or not all(name.isidentifier() for name in bound):
            return
        if not any(name in self._imports.get(found[0], {}) for name in found[1]):
            self._handled |= {node, node.value}
            for name, wanted in zip(bound, found[1]):
                self.need(found[0], wanted, name)

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        self._top.pop()
        return cst.RemoveFromParent() if original_node in self._handled else updated_node

    def _from_zoo(self, node: cst.BaseExpression) -> tuple[str, list[str]] | None:
        """Return module and names of `model_zoo.get_config("common/x.py").name` or `load_rel("x.py", ("a", "b"))`."""
        attribute = node.attr.value if isinstance(node, cst.Attribute) else ""
        call = node.value if isinstance(node, cst.Attribute) else node
        if not isinstance(call, cst.Call) or dotted(call.func) not in _READERS or not call.args:
            return None
        file = call.args[0].value
        if not isinstance(file, cst.SimpleString):
            return None
        path, names = str(file.evaluated_value), [attribute] if attribute else []
        if len(call.args) > 1:
            keys = call.args[1].value
            items = [e.value for e in keys.elements] if isinstance(keys, cst.Tuple | cst.List) else [keys]
            names = [str(item.evaluated_value) for item in items if isinstance(item, cst.SimpleString)]
        if not path.endswith(".py") or not names or (attribute and len(call.args) > 1):
            return None
        module = self._module(path, is_relative=dotted(call.func).startswith("LazyConfig"))
        return (module, names) if module is not None else None

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if self._from_zoo(node) is not None:
            self._handled.add(node.value)

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> Any:
        return self._imported(original_node, updated_node)

    def _imported(self, node: Any, updated: Any) -> Any:
        """Return the names for an expression that reads some of another config; they are imported."""
        found = None if self._functions or node in self._handled else self._from_zoo(node)
        if found is None:
            return updated
        module, names = found
        bound = []
        for name in names:
            known = self._imports.get(module, {}).get(name)
            bound.append(known or f"{module.rpartition('.')[2]}_{name}")
            self.need(module, name, bound[-1])
        values = ", ".join(bound)
        return cst.parse_expression(values if len(bound) == 1 else f"({values})")

    def _module(self, path: str, is_relative: bool) -> str | None:
        """Return the relative import of a file that a config names, or None where there is no such file."""
        folder = self.file.parent
        places = [folder / path]
        if not is_relative:
            places = [above / more / path for above in self.file.parents for more in ("", "configs")]
        found = next((place for place in places if place.is_file()), None)
        return None if found is None else relative_module(found, folder)

    def visit_Arg(self, node: cst.Arg) -> None:
        self._path.append(node.keyword.value if node.keyword is not None else "*")

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        self._path.pop()
        return updated_node

    def visit_Element(self, node: Any) -> None:
        self._path.append("*")

    def leave_Element(self, original_node: Any, updated_node: Any) -> Any:
        self._path.pop()
        return updated_node

    visit_ListComp = visit_DictComp = visit_DictElement = visit_Element
    leave_ListComp = leave_DictComp = leave_DictElement = leave_Element

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> Any:
        value = original_node.evaluated_value
        if not isinstance(value, str) or "${" not in value:
            return updated_node
        top = self._top[-1] if self._top else ""
        text = ref_text(value, [*top.split("."), *self._path] if top else ["*"])
        if text is None:
            self.todo(f"the interpolation {value!r} cannot be written as a path from a top-level name")
            return updated_node
        self.need("lazyengine.config", "ref")
        return cst.parse_expression(text)

    def visit_Expr(self, node: cst.Expr) -> None:
        owner, _, method = dotted(node.value.func if isinstance(node.value, cst.Call) else None).rpartition(".")
        self._top.append(owner if method == "update" and not self._functions else "")

    def leave_Expr(self, original_node: cst.Expr, updated_node: cst.Expr) -> cst.Expr:
        self._top.pop()
        return updated_node

    # ------------------------------------------------------------------------------------------------ calls
    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        name = dotted(original_node.func)
        if name in _READERS and original_node not in self._handled and not self._functions:
            if (names := self._imported(original_node, updated_node)) is updated_node:
                self.todo(f"{name}(...): import the names of that config which are used; it must be ported too")
            return names
        is_dict = name in ("dict", "OmegaConf.create", "DictConfig") and not self._functions
        if is_dict and self._is_container():
            args: Any = updated_node.args
            if args and args[0].keyword is None:
                value = args[0].value
                if not isinstance(value, cst.Dict) or not all(isinstance(e, cst.DictElement) for e in value.elements):
                    return updated_node
                args = [cst.Arg(value=value, star="**")] if value.elements else []
            self.need("lazyengine.config", "LazyCall", "L")
            return updated_node.with_changes(func=cst.parse_expression("L(dict)"), args=args)
        if m.matches(original_node.func, m.Call(args=[m.Arg(m.Name("get_default_optimizer_params"))])):
            return self._groups(updated_node)
        return updated_node

    def _is_container(self) -> bool:
        """Return whether a dict stands where others set its entries by attribute: at the top, or in such a dict."""
        return bool(self._top) and bool(self._top[-1]) and "*" not in self._path

    def _groups(self, call: cst.Call) -> cst.Call:
        """Return `param_groups` for `get_default_optimizer_params`."""
        args = [cst.Arg(cst.parse_expression("REQUIRED"), keyword=cst.Name("model"), equal=_EQUAL)]
        for arg in call.args:
            name = arg.keyword.value if arg.keyword is not None else ""
            if name == "weight_decay_norm" and m.matches(arg.value, m.Float(value="0.0") | m.Integer(value="0")):
                args.append(cst.Arg(cst.Float("0.0"), keyword=cst.Name("norm_decay_mult"), equal=_EQUAL))
            elif name == "overrides":
                args.append(arg.with_changes(keyword=cst.Name("custom_keys")))
            elif name not in ("model", "base_lr"):
                self.todo(f"get_default_optimizer_params({name}=...): see the arguments of param_groups")
        self.need("lazyengine.config", "REQUIRED")
        return call.with_changes(func=cst.parse_expression("L(param_groups)"), args=args)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._functions += 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> Any:
        self._functions -= 1
        return updated_node

    # ------------------------------------------------------------------------------------------- statements
    def leave_SimpleStatementLine(self, original_node: Any, updated_node: cst.SimpleStatementLine) -> Any:
        is_one = len(updated_node.body) == 1 and not self._functions
        return self._statement(updated_node, updated_node.body[0]) if is_one else updated_node

    def _statement(self, line: cst.SimpleStatementLine, node: Any) -> Any:
        if isinstance(node, cst.Assign):
            target = dotted(node.targets[0].target)
            if target.endswith((".params.lr_factor_func", ".params.overrides", ".params.weight_decay_norm")):
                return self._optimizer_option(line, target, node.value)
            if target.endswith("._target_"):
                value = code_of(node.value)
                return self._retargeted(line, target.removesuffix("._target_"), [("_target_", value)])
            if m.matches(node.value, m.ListComp()) and m.findall(node.value, _POP):
                self.todo(_MANY_POPS)
            return line
        call = node.value if isinstance(node, cst.Expr) else None
        if isinstance(call, cst.ListComp) and m.findall(call, _POP):
            return self._popped(call, line)
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
            return line
        owner, method = code_of(call.func.value), call.func.attr.value
        if method == "pop" and call.args and isinstance(call.args[0].value, cst.SimpleString):
            return _statements(line, [f"del {owner}.{call.args[0].value.evaluated_value}"])
        if method == "update":
            pairs = [(a.keyword.value, code_of(a.value)) for a in call.args if a.keyword is not None]
            if len(pairs) == len(call.args) and "_target_" not in dict(pairs):
                return _statements(line, [f"{owner}.{name} = {value}" for name, value in pairs])
            if len(pairs) == len(call.args):
                return self._retargeted(line, owner, pairs)
            self.todo(f"{owner}.update(...): write {owner} = replace({owner}, L(Target)(kept arguments))")
        elif method in _DICT_METHODS:
            self.todo(f"a node has no method {method}; see lazyengine.config.arguments_of")
        return line

    def _retargeted(self, line: cst.SimpleStatementLine, owner: str, pairs: list[tuple[str, str]]) -> Any:
        """Return the statement that gives a node another target and more arguments; what it has is kept."""
        for name, bound in (("LazyCall", "L"), ("arguments_of", None), ("replace", None)):
            self.need("lazyengine.config", name, bound)
        new = ", ".join(f"{name}={value}" for name, value in pairs if name != "_target_")
        kept = f"arguments_of({owner})" + (f" | dict({new})" if new else "")
        return _statements(line, [f"replace({owner}, L({dict(pairs)['_target_']})(**({kept})))"])

    def _popped(self, comp: cst.ListComp, line: cst.SimpleStatementLine) -> Any:
        """Return deletions for `[node.pop(key) for key in ["a", "b"]]`."""
        keys = comp.for_in.iter
        call = comp.elt
        if not (isinstance(keys, cst.List | cst.Tuple) and isinstance(call, cst.Call)):
            self.todo(_MANY_POPS)
            return line
        owner = code_of(call.func.value)  # type: ignore[attr-defined]
        names = [e.value.evaluated_value for e in keys.elements if isinstance(e.value, cst.SimpleString)]
        return _statements(line, [f"del {owner}.{name}" for name in names])

    def _optimizer_option(self, line: cst.SimpleStatementLine, target: str, value: cst.BaseExpression) -> Any:
        """Return the statement for an option of `get_default_optimizer_params` that `param_groups` calls otherwise."""
        owner, _, option = target.rpartition(".")
        text = code_of(value)
        if option == "overrides":
            zero = re.sub(r"""\{["']weight_decay["']: 0(\.0*)?\}""", "dict(decay_mult=0.0)", text)
            if "weight_decay" not in zero and re.fullmatch(r"\{[^{}]*\}", zero.strip()):
                return _statements(line, [f"{owner}.custom_keys = {zero}"])
            self.todo(f"overrides: set {owner}.custom_keys, with decay_mult and lr_mult")
        elif option == "weight_decay_norm":
            if text in ("None", "0.0", "0"):
                return _statements(line, [f"{owner}.norm_decay_mult = {text}"])
            self.todo(f"weight_decay_norm: set {owner}.norm_decay_mult, a factor of weight_decay")
        else:
            decay = re.search(r"get_vit_lr_decay_rate\b.*lr_decay_rate=([\d.]+)", text, re.S)
            if decay:
                return _statements(line, [f"{owner}.layer_decay = {decay[1]}"])
            self.todo(f"lr_factor_func: set {owner}.layer_decay, or lr_mult in custom_keys")
        return line

    def leave_Comparison(self, original_node: cst.Comparison, updated_node: cst.Comparison) -> Any:
        if not self._functions and m.matches(original_node, m.Comparison(left=m.SimpleString(), comparisons=[
            m.ComparisonTarget(operator=m.In(), comparator=m.Attribute())
        ])):  # fmt: skip
            self.todo("a node has no `in`; see lazyengine.config.arguments_of")
        return updated_node


_EQUAL = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def _statements(line: cst.SimpleStatementLine, texts: list[str]) -> Any:
    nodes: list[Any] = [cst.parse_statement(text) for text in texts]
    nodes[0] = nodes[0].with_changes(leading_lines=line.leading_lines)
    return cst.FlattenSentinel(nodes)
