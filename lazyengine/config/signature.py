"""What a target accepts: parameter names, which are required, their types, and which of them take a recipe (`Lazy`)."""

from __future__ import annotations

import builtins
import contextlib
import functools
import re
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..text import did_you_mean
from .errors import TargetDependencyError, TargetError, UnknownNameError, warn
from .graph import Source, describe_source, failed_line
from .ref import REQUIRED, Lazy


class _LeftOut:
    """Shown as the default of a key of `**kwargs: Unpack[TypedDict]` that need not be given."""

    def __repr__(self) -> str:
        return "left out"


_LEFT_OUT = _LeftOut()


class Signature:
    """The parameters of one target; everything costly is computed on the first question and kept.

    Attributes:
        target: The callable, or its name `"pkg.mod:Cls"` as long as it was not imported.
        parameters: Name to `inspect.Parameter` (with raw annotations), without `*args` and `**kwargs`. A subclass that
            passes `**kwargs` on is completed with the parameters of its parents, `**kwargs: Unpack[T]` with the keys of
            the `TypedDict` T.
        names: The names that can be given, for membership tests.
        positional: The names that can be given by position, in order.
        required: The names without a default.
        has_var_positional: Whether there is `*args` (or no signature at all).
        has_var_keyword: Whether any name is accepted (`**kwargs`, no signature at all, or not imported yet).
        is_resolved: False for a name that was not imported yet.
    """

    def __init__(self, target: Any):
        self.target = target
        self.is_resolved = not isinstance(target, str)
        self.parameters: dict[str, Any] = {}
        self.has_var_positional = self.has_var_keyword = True
        self.taken_out: set[str] = set()  # texts in the code that passes `**kwargs` on
        self._sources: dict[str, Any] = {}  # inherited parameter -> the function that declares it
        if self.is_resolved:
            self._inspect()
        self.names = frozenset(self.parameters)
        own = [(name, p) for name, p in self.parameters.items() if name not in self._sources]
        self.positional = tuple(name for name, p in own if p.kind < p.VAR_POSITIONAL)
        self.has_positional_only = any(p.kind == p.POSITIONAL_ONLY for _, p in own)
        self.required = frozenset(name for name, p in own if p.default is p.empty)

    def _inspect(self) -> None:
        import inspect

        try:
            signature = inspect.signature(self.target)
        except (ValueError, TypeError):  # builtins written in C: nothing is known, Python itself will check
            return
        self.has_var_positional = any(p.kind == p.VAR_POSITIONAL for p in signature.parameters.values())
        self.has_var_keyword = self._add(signature.parameters.values(), None)
        # a dataclass whose decorator hands what is no field to `__post_init__`, as the configs of transformers do
        post_init = inspect.unwrap(getattr(self.target, "__post_init__", len))
        self.has_var_keyword |= inspect.isfunction(post_init) and bool(
            post_init.__code__.co_flags & inspect.CO_VARKEYWORDS
        )
        if not (self.has_var_keyword and isinstance(self.target, type)):
            return
        # `class Child(Parent): def __init__(self, x, **kwargs)`: the parents' parameters can be given too
        inits = [vars(c)["__init__"] for c in self.target.__mro__ if inspect.isfunction(vars(c).get("__init__"))]
        for init in inits[1:]:
            if not self._add(list(inspect.signature(init).parameters.values())[1:], init):
                break

    def _add(self, parameters: Iterable[Any], source: Any) -> bool:
        """Add the parameters of the target (or those that a parent's `source` has); return whether others are taken."""
        is_open = False
        for p in parameters:
            if p.kind == p.VAR_KEYWORD:
                keys = _keys_of(p.annotation, _names_for(self.target, source))
                is_open = keys is None
                for name, (hint, is_required) in (keys or {}).items():
                    default = p.empty if is_required else _LEFT_OUT
                    key = p.replace(name=name, kind=p.KEYWORD_ONLY, annotation=hint, default=default)
                    self._add([key], source)
            elif source is None and p.kind != p.VAR_POSITIONAL:
                self.parameters.setdefault(p.name, p)
            elif p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in self.parameters:
                self.parameters[p.name] = p.replace(kind=p.KEYWORD_ONLY)
                self._sources[p.name] = source
        return is_open

    def accepts(self, name: str | int) -> bool:
        """Return whether an argument of this name, or an extra positional one, can be given."""
        return name in self.names or (self.has_var_keyword if isinstance(name, str) else self.has_var_positional)

    def missing(self, arguments: Mapping[Any, Any], is_partial: bool) -> list[Any]:
        """Return what is `REQUIRED` and, unless a partial is made, the required arguments that are not given."""
        unset = [name for name, value in arguments.items() if value is REQUIRED]
        return unset + [n for n in self.parameters if n in self.required and n not in arguments and not is_partial]

    def default_text(self, name: str, limit: int = 80) -> str:
        """Return what applies where a parameter is not set, for messages."""
        default = self.parameters[name].default
        return "it is required" if default is self.parameters[name].empty else f"its default is {default!r:.{limit}}"

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """Name to evaluated annotation; `typing.Any` where there is none or it cannot be evaluated."""
        return {
            name: typing.Any
            if p.annotation is p.empty
            else _evaluate(p.annotation, _names_for(self.target, self._sources.get(name)))
            for name, p in self.parameters.items()
        }

    @functools.cached_property
    def lazy(self) -> dict[str, set[int]]:
        """The parameters that take recipes (annotated with `Lazy` somewhere), usually none, to the depths of them.

        Depth 0 is the value itself, 1 the items of a container, and so on.
        """
        depths = {name: _lazy_depths(hint) for name, hint in self.hints.items()}
        return {name: found for name, found in depths.items() if found}

    @functools.cached_property
    def kwargs_go_to(self) -> Any:
        """What the target passes its `**kwargs` to: a callable, or the parameter that gives it; None where unknown."""
        import ast
        import inspect
        import textwrap

        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(self.target)))
            name = next(p.name for p in inspect.signature(self.target).parameters.values() if p.kind == p.VAR_KEYWORD)
        except (OSError, TypeError, ValueError, SyntaxError, StopIteration):
            return None
        nodes = list(ast.walk(tree))
        self.taken_out = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
        same = {ast.unparse(t): n.value for n in nodes if isinstance(n, ast.Assign) for t in n.targets}
        whole = rf"{name}(\.copy\(\))?|dict\({name}(, .*)?\)|{{[^()]*\*\*{name}\b[^()]*}}"  # also a copy or with more
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            passed = [same.get(ast.unparse(k.value), k.value) for k in call.keywords if k.arg is None]
            if any(re.fullmatch(whole, ast.unparse(value)) for value in passed):
                is_partial = ast.unparse(call.func).rpartition(".")[2] == "partial" and call.args
                called = call.args[0] if is_partial else call.func
                function = ast.unparse(same.get(ast.unparse(called), called))
                if function == "super().__init__":
                    parents = getattr(self.target, "__mro__", ())[1:]
                    return next((c for c in parents if "__init__" in vars(c)), None)
                if function in self.parameters:
                    return function
                if function != "dict":
                    return _names_for(self.target).get(function)
        return None

    def further(self, arguments: Mapping[Any, Any], name: str | int) -> Signature | None:
        """Return the signature that takes `name`, which is beyond the names of this one, where that is known."""
        is_beyond = isinstance(name, str) and name not in self.names
        target = self.kwargs_go_to if is_beyond and self.has_var_keyword and self.is_resolved else None
        if name in self.taken_out:  # by `kwargs.pop("name")`
            return None
        if isinstance(target, str):
            target = arguments.get(target, self.parameters[target].default)
        return signature_of(target) if callable(target) else None

    @property
    def label(self) -> str:
        """The target's name as messages show it."""
        target = self.target
        return target if isinstance(target, str) else getattr(target, "__qualname__", None) or repr(target)


_cached = functools.lru_cache(maxsize=4096)(Signature)  # every load makes its local functions anew: not kept for ever


def signature_of(target: Any, where: Source = "") -> Signature:
    """Return the cached `Signature` of a callable, or of a name `"pkg.mod:Cls"` that is not imported here.

    Args:
        target: The callable or name.
        where: The place that an error names.
    """
    if not callable(target) and not isinstance(target, str):
        raise TargetError(
            f"{describe_source(where)}{where and ': '}A target must be a class or another callable, or its name "
            f"'pkg.mod:Cls'; got {type(target).__name__}: {target!r:.80}. A call of {type(target).__name__} is "
            f"described by LazyCall({type(target).__name__})(...)."
        )
    try:
        return _cached(target)
    except TypeError:  # an unhashable callable, or one whose metaclass compares strangely
        return Signature(target)


def check_name(signature: Signature, name: str, source: Source, arguments: Mapping[Any, Any]) -> None:
    """Check that the target accepts an argument of this name, beside the others; warn in doubt."""
    if name in signature.names:
        return
    close = did_you_mean(name, signature.names)
    if not signature.has_var_keyword:
        accepted = ", ".join(signature.parameters) or "no arguments"
        raise UnknownNameError(
            f"{describe_source(source)}: {signature.label} has no argument {name!r}.{close} It accepts: {accepted}."
        )
    further = signature.further(arguments, name)
    if further is not None:
        close = did_you_mean(name, {*signature.names, *further.names}) if name not in further.names else ""
    if close and name.isidentifier():
        refused = further is not None and not further.accepts(name)
        how = f"passes {name!r} on to {further.label}, which has no such argument" if further is not None else ""
        how = how if refused else f"takes {name!r} only through its **kwargs"
        warn(f"{describe_source(source)}: {signature.label} {how}.{close}")


def import_target(name: str) -> Callable[..., Any]:
    """Import `"pkg.mod:Cls.method"` (or with dots only, `"pkg.mod.Cls"`) and return the callable."""
    value = import_object(name)
    if not callable(value):
        raise TargetError(f"Target {name!r} is not callable, it is {type(value).__name__}.")
    return value


def import_object(name: str) -> Any:
    """Import what a name in the form of a target's leads to.

    Raises:
        TargetError: There is no such thing.
        TargetDependencyError: Its module imports something that is not there.
    """
    import importlib

    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise TargetError(f"{name!r} is not the name of a target. Accepted: 'pkg.mod:Cls'.")
    module, colon, attribute = name.partition(":")
    parts = attribute.split(".") if colon else []
    while True:
        try:
            value: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise TargetDependencyError(f"Cannot import target {name!r}: {failed_line(error)}: {error}.") from error
            module, _, tail = module.rpartition(".")
            if colon or not module:
                raise TargetError(f"Cannot import target {name!r}: {error}. Accepted: 'pkg.mod:Cls'.") from None
            parts.insert(0, tail)
    for part in parts:
        try:
            value = getattr(value, part)
        except AttributeError:
            raise TargetError(
                f"Cannot import target {name!r}: {getattr(value, '__name__', value)!r} has no {part!r}."
                f"{did_you_mean(part, vars(value) if hasattr(value, '__dict__') else ())}"
            ) from None
    return value


# ---------------------------------------------------------------------------------------------- annotations
class _Unknown:
    """Stands for a name that only exists for type checkers, so that the rest of the annotation can be evaluated."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Lazy if name == "Lazy" else self

    def __call__(self) -> None:
        """Make `typing` take it for a type."""

    def __getitem__(self, item: object) -> _Unknown:
        return self

    def __or__(self, other: Any) -> Any:
        return typing.Union[typing.Any, other]  # noqa: UP007  (`Any | x` fails for some x)

    __ror__ = __or__


class _Names(ChainMap[str, Any]):
    """The names that an annotation may use, else unknown ones."""

    def __missing__(self, name: str) -> Any:
        return _SPECIAL.get(name) or _Unknown()


def _names_for(target: Any, source: Any = None) -> _Names:
    """Return the names of a function (`source`: of the parent that declares it), its class's modules and builtins."""
    import inspect

    while isinstance(target, functools.partial):
        target = target.func
    function: Any = source or (getattr(target, "__init__", None) if isinstance(target, type) else target)
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__"):  # an object that can be called
        function = vars(type(function)).get("__call__")
    classes = target.__mro__ if isinstance(target, type) else ()
    scopes: list[Any] = [vars(sys.modules[c.__module__]) for c in classes if c.__module__ in sys.modules]
    return _Names(getattr(function, "__globals__", {}), *scopes, builtins.__dict__)


_SPECIAL: dict[str, Any] = {"Lazy": Lazy, "Unpack": typing.Unpack}  # known though only type checkers import them
_KEY_WRAPPERS = ("Required", "NotRequired", "ReadOnly")


def _evaluate(annotation: Any, names: _Names) -> Any:
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, {}, names)
        except Exception:  # an annotation may hold anything, and nothing depends on one that cannot be read
            return typing.Any
    with contextlib.suppress(Exception):
        holder: Any = types.SimpleNamespace(__annotations__={"": annotation})  # inner forward references
        annotation = typing.get_type_hints(holder, {}, names, include_extras=True)[""]
    return typing.Any if isinstance(annotation, _Unknown) else annotation


def _keys_of(annotation: Any, names: _Names) -> dict[str, tuple[Any, bool]] | None:
    """Return name to type, and whether it is required, of the keys in `Unpack[TypedDict]`; None for anything else."""
    hint = _evaluate(annotation, names)
    origin, (inner, *_) = str(typing.get_origin(hint)), typing.get_args(hint) or (None,)
    typed: Any = typing.get_origin(inner) or inner  # a generic one
    if not (origin.endswith("Unpack") and hasattr(typed, "__required_keys__")):
        return None
    keys: dict[str, tuple[Any, bool]] = {}
    for name, raw in typed.__annotations__.items():
        is_required, key = name in typed.__required_keys__, _evaluate(raw, _names_for(typed))
        while (wrapper := str(typing.get_origin(key)).rpartition(".")[2]) in _KEY_WRAPPERS:
            is_required = wrapper == "Required" if wrapper != "ReadOnly" else is_required
            key = typing.get_args(key)[0]
        keys[name] = typing.Any if isinstance(key, typing.ForwardRef) else key, is_required
    return keys


def _lazy_depths(hint: Any) -> set[int]:
    """Return within how many containers an annotation has `Lazy`."""
    hint = getattr(hint, "__value__", hint)  # `type Alias = ...`
    origin, args, inside = typing.get_origin(hint), typing.get_args(hint), 0
    if hint is Lazy or origin is Lazy:
        return {0}
    if origin is typing.Annotated:
        args = args[:1]
    elif isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Iterator):
        args, inside = args[-1:] if issubclass(origin, Mapping) else args, 1
    elif origin is not typing.Union and getattr(origin, "__name__", "") != "UnionType":
        return set()
    return {depth + inside for arg in args for depth in _lazy_depths(arg)}
