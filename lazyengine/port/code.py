"""Port code: imports, registries, children of models, initializers, loops and hooks, by rewriting the syntax tree.

What is not recognised stays as it is. What is recognised and cannot be ported gets a `# TODO port:` above its
statement, with the reason.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
import libcst.matchers as m

from .classes import GROUP_RULE, RENAMED, ClassTable, imports_in
from .expressions import Code, Joined, Missing, Name, Symbol, Writer, inside
from .mmengine_configs import OPTIONS, Translator
from .rewriting import Rewriter, code_of, dotted, is_docstring, keep_names

_TABLE = Path(__file__).resolve().parents[1] / "PORTING.md"
_REGISTRY_MODULES = re.compile(r"(^|\.)(registry|builder)$")
_ELEMENTS = {"BaseDataElement", "InstanceData", "PixelData", "LabelData"}
_LOOPS = {"BaseLoop", "EpochBasedTrainLoop", "IterBasedTrainLoop", "ValLoop", "TestLoop"}
_RUNNER_GONE = {
    "cfg": "the runner keeps no config; give the hook what it needs as an argument",
    "register_hooks": "hooks are given to the runner in the config",
    "register_default_hooks": "hooks are given to the runner in the config",
    "register_custom_hooks": "hooks are given to the runner in the config",
    "wrap_model": "a ModelSetup wraps the model",
}
_TORCH_NAMES = {
    "trunc_normal_": "torch.nn.init.trunc_normal_",
    "_BatchNorm": "torch.nn.modules.batchnorm._BatchNorm",
    "_InstanceNorm": "torch.nn.modules.instancenorm._InstanceNorm",
    "SyncBatchNorm": "torch.nn.SyncBatchNorm",
}
_WRITTEN_OUT = ("train_cfg", "val_cfg", "test_cfg", "default_hooks", "custom_hooks", "randomness", "auto_scale_lr")
_CHANGES_DICT = {"update", "setdefault", "pop", "merge", "get", "items", "keys", "copy"}


_GROUP_RULE = '''
class GroupRule:
    """Base of rules that choose parameter groups; a subclass appends them to `params` in `add_params`.

    It sees a rate and a decay of 1, so that what it computes from them are the groups' factors.
    """

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.optim_wrapper_cfg = optim_wrapper_cfg
        self.optimizer_cfg = optim_wrapper_cfg["optimizer"]
        self.paramwise_cfg = paramwise_cfg or {}
        self.base_lr, self.base_wd = self.optimizer_cfg["lr"], self.optimizer_cfg["weight_decay"]

    @classmethod
    def groups(cls, model, paramwise_cfg):
        """Return the parameter groups of a model, for an optimizer's `params`."""
        found = []
        cls({"optimizer": {"lr": 1.0, "weight_decay": 1.0}}, dict(paramwise_cfg)).add_params(found, model)
        kept = {"lr": "lr_mult", "weight_decay": "decay_mult", "params": "params"}
        return [ParamGroup({name: group[key] for key, name in kept.items() if key in group}) for group in found]

    @staticmethod
    def _is_in(param_group, param_group_list):
        known = {id(parameter) for group in param_group_list for parameter in group["params"]}
        return any(id(parameter) in known for parameter in param_group["params"])
'''


@dataclass(frozen=True)
class _Row:
    kind: str
    text: str


@functools.lru_cache
def name_table() -> dict[str, _Row]:
    """Return what PORTING.md says of each public name of mmengine."""
    rows: dict[str, _Row] = {}
    text = _TABLE.read_text(encoding="utf-8").partition("## Every public name")[2]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 3 and cells[1] in ("same", "changed", "other", "renamed", "gone"):
            for name in re.findall(r"`(\w+)`", cells[0]):
                rows.setdefault(name, _Row(cells[1], cells[2]))
    return rows


def port_code(text: str, module: str, table: ClassTable) -> str:
    """Return the ported text of a code file.

    Args:
        text: The old text.
        module: Its dotted name.
        table: The classes of the project.
    """
    return _Port(module, table, text).rewrite(text)


class _Port(Rewriter):
    def __init__(self, module: str, table: ClassTable, text: str):
        super().__init__()
        self.table, self.module = table, module
        self.translator = Translator(table, module.partition(".")[0])
        self.translator._scope = self.translator.scope
        tree = ast.parse(text)
        self.places = imports_in(tree, module, table.files.get(module, Path()))
        defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        self._held = {n: place for n, place in self.places.items() if not place.module.startswith("mmengine")}
        self._held |= {name: Symbol(module, name) for name in defined}
        self.writer = Writer(self._held, makes_objects=True)
        self.registries = _registries(text)
        self._functions: list[_Function] = []
        self._loops: list[bool] = []
        self._before: list[str] = []  # statements that go before the one that is being left
        rules = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and GROUP_RULE in ast.unparse(node)]
        self._has_group_rule = any(table.is_group_rule(Symbol(module, name)) for name in rules)
        self._group_rule: list[Any] = list(cst.parse_module(_GROUP_RULE).body)
        self._configs = set(re.findall(r"^\s*(\w+) = Config\.fromfile\(", text, re.M))

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        for place, names in self.writer.imports.items():
            for name, bound in names.items() if place != "unknown" else ():
                if self._held.get(bound) != Symbol(place, name):
                    self.need(place, name, bound)
        return updated_node

    def leave_SimpleStatementLine(self, original_node: Any, updated_node: cst.SimpleStatementLine) -> Any:
        if not self._before:
            return updated_node
        first, self._before = [cst.parse_statement(text) for text in self._before], []
        return cst.FlattenSentinel([*first, updated_node])

    # ----------------------------------------------------------------------------------------------- imports
    def leave_ImportFrom(self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom) -> Any:
        module = dotted(original_node.module) if original_node.module is not None else ""
        if isinstance(original_node.names, cst.ImportStar):
            if module.partition(".")[0] == "mmengine":
                self.todo(f"from {module} import *: name what is used")
            return updated_node
        kept = [
            alias for alias in original_node.names if not self._is_moved(alias, module, bool(original_node.relative))
        ]
        if len(kept) == len(original_node.names):
            return updated_node
        return keep_names(updated_node, kept)

    def _is_moved(self, alias: cst.ImportAlias, module: str, is_relative: bool) -> bool:
        """Return whether an imported name goes from its line; its new import is noted."""
        name = dotted(alias.name)
        if name in self.registries and (_REGISTRY_MODULES.search(module) or module.partition(".")[0] == "mmengine"):
            return True
        if is_relative or module.partition(".")[0] != "mmengine":
            return False
        bound = alias.asname.name.value if alias.asname else name  # type: ignore[union-attr]
        if name == GROUP_RULE and self._has_group_rule:
            return True
        if name in ("build_from_cfg", "is_model_wrapper", "read_base", "Registry", "BaseDataElement"):
            return True
        if name == "Config":
            self.need("lazyengine.config", "LazyConfig")
            return True
        row = name_table().get(name)
        own = RENAMED.get(name, name)
        if own in self.table.own and (row is None or row.kind in ("same", "changed", "renamed")):
            self.need(self.table.own[own], own, bound)
            return True
        found = re.search(r"`((?:lazyengine|torch)\.[\w.]+)`", row.text) if row and row.kind == "renamed" else None
        target = found[1] if found else _TORCH_NAMES.get(name)
        if target:
            place, _, last = target.rpartition(".")
            self.need(place, last, bound)
            return True
        reason = row.text if row else "no such name in PORTING.md's table"
        self.todo(f"mmengine's {name}: {reason}")
        return False

    def leave_Import(self, original_node: cst.Import, updated_node: cst.Import) -> Any:
        for alias in original_node.names:
            if dotted(alias.name).partition(".")[0] == "mmengine":
                self.todo(f"import {dotted(alias.name)}: import names, from where PORTING.md says they are")
        return updated_node

    # -------------------------------------------------------------------------------------------- registries
    def leave_Decorator(self, original_node: cst.Decorator, updated_node: cst.Decorator) -> Any:
        return cst.RemoveFromParent() if _is_registration(original_node.decorator) else updated_node

    def leave_Expr(self, original_node: cst.Expr, updated_node: cst.Expr) -> Any:
        return cst.RemoveFromParent() if _is_registration(original_node.value) else updated_node

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        value, target = updated_node.value, updated_node.targets[0].target
        if m.matches(original_node.value, m.Call(func=m.Name("Registry"))):
            return cst.RemoveFromParent()
        if len(updated_node.targets) == 1 and value.deep_equals(target) and not original_node.value.deep_equals(target):
            return cst.RemoveFromParent()  # a = REGISTRY.build(a)
        return updated_node

    # ---------------------------------------------------------------------------------------------- children
    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        name = dotted(updated_node.func)
        last = name.rpartition(".")[2]
        if name == "Config.fromfile":
            keep = [a for a in updated_node.args if a.keyword is None or a.keyword.value == "filename"][:1]
            plain = [a.with_changes(keyword=None, comma=cst.MaybeSentinel.DEFAULT) for a in keep]
            return updated_node.with_changes(func=cst.parse_expression("LazyConfig.load"), args=plain)
        if last == "is_model_wrapper" and len(updated_node.args) == 1:
            return cst.Name("False")
        if self._is_build(original_node):
            return self._built(updated_node)
        if last == "set_metainfo":
            return updated_node.with_changes(func=cst.parse_expression(f"{name.rpartition('.')[0]}.metainfo.update"))
        if name == "Runner" and str(self.places.get(name)) == str(Symbol("mmengine.runner", name)):
            return self._runner(updated_node)
        if self._loops and self._loops[-1] and self._functions:
            return self._loop_call(updated_node, name)
        return updated_node

    def _is_build(self, call: cst.Call) -> bool:
        name = dotted(call.func)
        owner, _, last = name.rpartition(".")
        return (last == "build" and owner.rpartition(".")[2] in self.registries) or last == "build_from_cfg"

    def _built(self, call: cst.Call) -> cst.BaseExpression:
        """Return what stands for a call that built an object from a dict."""
        first = next((a.value for a in call.args if a.keyword is None or a.keyword.value == "cfg"), None)
        extra = [a for a in call.args if a.keyword is not None and a.keyword.value == "default_args"]
        if first is None or extra:
            self.todo("a registry built this with arguments of its own (default_args); give them to the class")
            return call
        literal = self._literal(first)
        if literal is not None:
            return literal
        if not m.matches(first, m.Name() | m.Attribute() | m.Subscript()):
            self.todo("a registry built this from a dict that is computed here; call the class")
            return call
        name = dotted(first)
        if self._functions and name in self._functions[-1].changed:
            self.todo(f"the dict {name} is read or changed before it is built; what comes in is the object now")
        return first

    def _literal(self, node: cst.BaseExpression) -> cst.BaseExpression | None:
        """Return the call for a dict that is written out and has a type, or None where it is none."""
        value = self._value(node)
        if not isinstance(value, dict) or isinstance(value.get("type", Code("")), Code):
            return None
        return self._object(self.translator.value(value))

    def _value(self, node: cst.BaseExpression) -> Any:
        return self._value_of(ast.parse(code_of(node).strip(), mode="eval").body)

    def _value_of(self, node: Any, is_type: bool = False) -> Any:
        """Return the value of an expression: dicts and lists by their entries; what is computed stays code."""
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args
        if is_call and all(k.arg for k in node.keywords):
            return {k.arg: self._value_of(k.value, k.arg == "type") for k in node.keywords}
        if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values)]  # type: ignore[union-attr]
            return {key: self._value_of(value, key == "type") for key, value in pairs}
        if isinstance(node, ast.List | ast.Tuple) and not any(isinstance(e, ast.Starred) for e in node.elts):
            return (list if isinstance(node, ast.List) else tuple)(map(self._value_of, node.elts))
        if is_type and isinstance(node, ast.Name) and (place := self.places.get(node.id) or self._held.get(node.id)):
            return place
        try:
            return ast.literal_eval(node)
        except ValueError:
            return Code(ast.unparse(node))

    def _object(self, value: Any) -> cst.BaseExpression:
        """Return the expression that makes an object where a config would have a node."""
        return cst.parse_expression(self._text(value))

    def _text(self, value: Any) -> str:
        for part in (part for _, part in inside(value) if isinstance(part, Missing)):
            self.todo(part.reason)
        return self.writer.text(value)

    def _runner(self, call: cst.Call) -> cst.BaseExpression:
        """Return the call of our runner for one of mmengine's; what others use too is made in statements before it."""
        given = {a.keyword.value: self._value(a.value) for a in call.args if a.keyword is not None}
        is_open = len(given) == len(call.args) and not any(isinstance(given.get(name), Code) for name in _WRITTEN_OUT)
        names = self.translator.translate(given) if is_open else {}
        runner = names.pop("runner", None)
        if runner is None:
            self.todo("Runner is made from a model and complete loops, each by its keyword; see PORTING.md")
            return call
        if not given.keys() & {"default_hooks", "custom_hooks"}:
            del runner.arguments["hooks"]
        if "launcher" in given:
            runner.arguments["launcher"] = given["launcher"]
        parts = [part for value in [runner, *names.values()] for _, part in inside(value)]
        uses = Counter(part.path for part in parts if isinstance(part, Name))
        uses.update(name for part in parts if isinstance(part, Joined) for name in part.names * 2)
        self.writer.inlined = {name: value for name, value in names.items() if uses[name] == 1}
        for name, value in names.items():
            text = self._text(value)
            self._before += [f"{name} = {text}"] if name not in self.writer.inlined and text != name else []
        return self._object(runner)

    def leave_IfExp(self, original_node: cst.IfExp, updated_node: cst.IfExp) -> Any:
        name = dotted(updated_node.body)
        if updated_node.body.deep_equals(original_node.body) or not name:
            return updated_node
        test = code_of(updated_node.test)
        is_none = m.matches(updated_node.orelse, m.Name("None"))
        return updated_node.body if is_none and test in (f"{name} is not None", name) else updated_node

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        if m.matches(updated_node.test, m.Name("False")) and not m.matches(original_node.test, m.Name("False")):
            rest = updated_node.orelse
            if rest is None:
                return cst.RemoveFromParent()
            return cst.FlattenSentinel(rest.body.body) if isinstance(rest, cst.Else) else rest
        if not updated_node.body.body and original_node.body.body:
            if updated_node.orelse is None:
                return cst.RemoveFromParent()
            return updated_node.with_changes(body=cst.IndentedBlock([cst.parse_statement("pass")]))
        return updated_node

    # ----------------------------------------------------------------------------------- functions and classes
    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._functions.append(_Function(node, self))

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> Any:
        function = self._functions.pop()
        if not updated_node.body.body:
            updated_node = updated_node.with_changes(body=cst.IndentedBlock([cst.parse_statement("pass")]))
        if self._loops and self._loops[-1]:
            updated_node = self._loop_method(updated_node)
        return self._with_defaults(updated_node, function)

    def _with_defaults(self, node: cst.FunctionDef, function: _Function) -> cst.FunctionDef:
        """Return a function whose dict defaults are made in its body."""
        first: list[cst.BaseStatement] = []

        def without(parameter: cst.Param) -> cst.Param:
            name = parameter.name.value
            if parameter.default is None or name not in function.built | {"init_cfg"}:
                return parameter
            made = self._initializer(parameter.default) if name == "init_cfg" else self._literal(parameter.default)
            if made is None:
                return parameter
            text = code_of(made)
            first.append(cst.parse_statement(f"{name} = {name} if {name} is not None else {text}"))
            return parameter.with_changes(default=cst.Name("None"))

        parameters = node.params.with_changes(
            params=[without(p) for p in node.params.params],
            kwonly_params=[without(p) for p in node.params.kwonly_params],
        )
        if not first:
            return node
        body = list(node.body.body)
        at = 1 if body and is_docstring(body[0]) else 0
        return node.with_changes(params=parameters, body=node.body.with_changes(body=[*body[:at], *first, *body[at:]]))

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        if updated_node.keyword is not None and updated_node.keyword.value == "init_cfg":
            made = self._initializer(updated_node.value)
            return updated_node if made is None else updated_node.with_changes(value=made)
        return updated_node

    def _initializer(self, node: cst.BaseExpression) -> cst.BaseExpression | None:
        value = self._value(node)
        if isinstance(value, Code) and m.findall(node, m.Call(func=m.Name("dict"))):
            self.todo("init_cfg is computed here; make an initializer of lazyengine.model")
        if not isinstance(value, dict | list) or not value:
            return None
        return self._object(self.translator.initializer(value))

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        bases = {dotted(base.value).rpartition(".")[2] for base in node.bases}
        self._loops.append(bool(bases & _LOOPS))
        if (elements := bases & _ELEMENTS) and bases != {"BaseDataElement"}:
            self.todo(f"{', '.join(elements)} is a dataclass or a dict here; see PORTING.md on data elements")

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> Any:
        self._loops.pop()
        if not updated_node.body.body:
            return updated_node.with_changes(body=cst.IndentedBlock([cst.parse_statement("pass")]))
        bases = [dotted(base.value) for base in updated_node.bases]
        if self._has_group_rule and GROUP_RULE in bases:
            return self._as_group_rule(updated_node)
        return self._as_dataclass(updated_node) if bases == ["BaseDataElement"] else updated_node

    def _as_group_rule(self, node: cst.ClassDef) -> Any:
        """Return a class that chose parameter groups, below the base class that calls it."""
        self.need("lazyengine.optim", "ParamGroup")
        if "super().add_params" in code_of(node):
            self.todo("what DefaultOptimWrapperConstructor added: call param_groups, and change what it returns")
        bases = [each.with_changes(value=cst.Name("GroupRule")) for each in node.bases]
        first, self._group_rule = self._group_rule, []
        return cst.FlattenSentinel([*first, node.with_changes(bases=bases)])

    def _as_dataclass(self, node: cst.ClassDef) -> cst.ClassDef:
        """Return a dataclass for a data element: a field for each property that can be set, and `metainfo`."""
        body: list[Any] = list(node.body.body)
        types: dict[str, str] = {}
        for method in (each for each in body if isinstance(each, cst.FunctionDef)):
            if any(m.matches(each.decorator, m.Name("property")) for each in method.decorators):
                kind = code_of(method.returns.annotation) if method.returns is not None else "object"
                types[method.name.value] = "object" if kind.strip("'\"") in _ELEMENTS else kind
        decorators: Any = m.findall(node, m.Decorator())
        settable = {dotted(each.decorator).removesuffix(".setter") for each in decorators}
        fields = {name: kind for name, kind in types.items() if name in settable}
        rest = [each for each in body if not (isinstance(each, cst.FunctionDef) and each.name.value in fields)]
        if m.findall(cst.Module(rest), m.Attribute(attr=m.Name("set_field") | m.Name("all_items"))):
            self.todo("a dataclass has no set_field and no all_items: use its attributes")
        lines = [f"{name}: {kind} | None = None" for name, kind in fields.items()]
        new = [cst.parse_statement(line) for line in (*lines, "metainfo: dict = field(default_factory=dict)")]
        for name in ("dataclass", "field"):
            self.need("dataclasses", name)
        at = 1 if is_docstring(body[0]) else 0
        rest = [each for each in rest if not m.matches(each, m.SimpleStatementLine(body=[m.Pass()]))]
        return node.with_changes(
            bases=(),
            lpar=cst.MaybeSentinel.DEFAULT,
            rpar=cst.MaybeSentinel.DEFAULT,
            decorators=[*node.decorators, cst.Decorator(cst.Name("dataclass"))],
            body=node.body.with_changes(body=[*rest[:at], *new, *rest[at:]]),
        )

    def _loop_method(self, node: cst.FunctionDef) -> cst.FunctionDef:
        """Return a method of a loop: `__init__` without the runner, the others with it."""
        parameters = list(node.params.params)
        names = [p.name.value for p in parameters]
        if node.name.value == "__init__" and "runner" in names:
            del parameters[names.index("runner")]
        elif node.name.value in ("run", "run_epoch", "run_iter") and "runner" not in names:
            parameters.insert(1, cst.Param(cst.Name("runner")))
            parameters[0] = parameters[0].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return node.with_changes(params=node.params.with_changes(params=parameters))

    def _loop_call(self, call: cst.Call, name: str) -> cst.Call:
        if name.endswith(".__init__") and call.args and dotted(call.args[0].value) == "runner":
            return call.with_changes(args=call.args[1:])
        if name in ("self.run_epoch", "self.run_iter"):
            return call.with_changes(args=[cst.Arg(cst.Name("runner")), *call.args])
        return call

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> Any:
        name = dotted(original_node)
        if self._loops and self._loops[-1] and name in ("self.runner", "self._runner"):
            if self._functions and self._functions[-1].name not in ("run", "run_epoch", "run_iter"):
                self.todo("a loop gets its runner in run(runner); give it to this method")
            return cst.Name("runner")
        if name.endswith("runner.model.module"):
            return updated_node.value
        owner, _, last = name.rpartition(".")
        if owner in self._configs and last in (*OPTIONS, "launcher"):
            return updated_node.with_changes(value=cst.parse_expression(f"{owner}.runner"))
        if owner in self._configs:
            self.todo(f"{name}: a config holds the parts of the new runner; see the table in PORTING.md")
        if owner.rpartition(".")[2] == "runner":
            if last in _RUNNER_GONE:
                self.todo(f"runner.{last}: {_RUNNER_GONE[last]}")
            elif last.startswith("build_"):
                self.todo(f"runner.{last}: the parts are built by the config")
        return updated_node


class _Function:
    """What a function does with the dicts that it builds."""

    def __init__(self, node: cst.FunctionDef, port: _Port):
        self.name = node.name.value
        calls = m.findall(node.body, m.Call())
        self.built = {
            dotted(call.args[0].value)
            for call in calls
            if isinstance(call, cst.Call) and call.args and port._is_build(call)
        }
        self.changed = set()
        for call in calls:
            owner, _, last = dotted(call.func).rpartition(".")  # type: ignore[attr-defined]
            if owner in self.built and last in _CHANGES_DICT:
                self.changed.add(owner)
        for part in m.findall(node.body, m.Subscript()):
            if (owner := dotted(part.value)) in self.built:  # type: ignore[attr-defined]
                self.changed.add(owner)


def _registries(text: str) -> set[str]:
    """Return the names that are registries in a file: imported from a registry module, or made there."""
    found = set(re.findall(r"^(\w+)\s*=\s*Registry\(", text, re.M))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and _REGISTRY_MODULES.search(node.module or ""):
            found |= {alias.asname or alias.name for alias in node.names if alias.name.isupper()}
    return found


def _is_registration(node: cst.BaseExpression) -> bool:
    is_call = isinstance(node, cst.Call)
    return is_call and dotted(node.func).rpartition(".")[2] == "register_module"  # type: ignore[union-attr]
