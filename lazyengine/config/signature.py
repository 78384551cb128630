"""What a target accepts: parameter names, which are required, their types, and which of them take a recipe (`Lazy`)."""

from __future__ import annotations

import builtins
import contextlib
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .errors import TargetError, UnknownNameError
from .lazy import Lazy

_CACHE: dict[Any, Signature] = {}
_CACHE_SIZE = 4096  # every load of a config makes its local functions anew: do not keep them for ever


class LazySpec:
    """Where in a parameter's value recipes are wanted: at the value itself, or at the items of a container."""

    __slots__ = ("is_lazy", "items")

    def __init__(self, is_lazy: bool, items: LazySpec | None):
        self.is_lazy, self.items = is_lazy, items


class Signature:
    """The parameters of one target; everything costly is computed on the first question and kept.

    Attributes:
        target: The callable, or its name `"pkg.mod:Cls"` as long as it was not imported.
        parameters: Name to `inspect.Parameter` (with raw annotations), without `*args` and `**kwargs`. A subclass that
            passes `**kwargs` on is completed with the parameters of its parents.
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
        self._sources: dict[str, Any] = {}  # inherited parameter -> the function that declares it
        self._hints: dict[str, Any] | None = None
        self._lazy: dict[str, LazySpec] | None = None
        if self.is_resolved:
            self._inspect()
        self.names = frozenset(self.parameters)
        own = [(name, p) for name, p in self.parameters.items() if name not in self._sources]
        self.positional = tuple(name for name, p in own if p.kind < p.VAR_POSITIONAL)
        self.has_positional_only = any(p.kind == p.POSITIONAL_ONLY for _, p in own)
        self.required = tuple(name for name, p in own if p.default is p.empty)
        self.required_names = frozenset(self.required)

    def _inspect(self) -> None:
        import inspect

        try:
            signature = inspect.signature(self.target)
        except (ValueError, TypeError):  # builtins written in C: nothing is known, Python itself will check
            return
        kinds = {p.kind for p in signature.parameters.values()}
        var = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.has_var_positional, self.has_var_keyword = (kind in kinds for kind in var)
        self.parameters = {name: p for name, p in signature.parameters.items() if p.kind not in var}
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
            own = list(inspect.signature(init).parameters.values())[1:]
            for p in own:
                if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in self.parameters:
                    self.parameters[p.name] = p.replace(kind=p.KEYWORD_ONLY)
                    self._sources[p.name] = init
            if not any(p.kind == p.VAR_KEYWORD for p in own):
                break

    def default_text(self, name: str, limit: int = 80) -> str:
        """What applies where a parameter is not set, for messages."""
        default = self.parameters[name].default
        return "it is required" if default is self.parameters[name].empty else f"its default is {default!r:.{limit}}"

    @property
    def hints(self) -> dict[str, Any]:
        """Name to evaluated annotation; `typing.Any` where there is none or it cannot be evaluated."""
        if self._hints is None:
            self._hints = {
                name: typing.Any
                if p.annotation is p.empty
                else _evaluate(p.annotation, _Namespace(self.target, self._sources.get(name)))
                for name, p in self.parameters.items()
            }
        return self._hints

    @property
    def lazy(self) -> dict[str, LazySpec]:
        """The parameters that take recipes (annotated with `Lazy` somewhere); usually empty."""
        if self._lazy is None:
            specs = {name: _lazy_spec(hint) for name, hint in self.hints.items()}
            self._lazy = {name: spec for name, spec in specs.items() if spec is not None}
        return self._lazy

    @property
    def label(self) -> str:
        """The target's name as messages show it."""
        target = self.target
        return target if isinstance(target, str) else getattr(target, "__qualname__", None) or repr(target)


def signature_of(target: Any) -> Signature:
    """Return the cached `Signature` of a callable, or of a name `"pkg.mod:Cls"` that is not imported here."""
    try:
        return _CACHE[target]
    except (KeyError, TypeError):  # TypeError: an unhashable callable, or one whose metaclass compares strangely
        pass
    if not callable(target) and not isinstance(target, str):
        raise TargetError(
            f"A target must be a class or another callable, or its name 'pkg.mod:Cls'; got {type(target).__name__}: "
            f"{target!r:.80}"
        )
    signature = Signature(target)
    if signature.is_resolved:
        if len(_CACHE) >= _CACHE_SIZE:
            _CACHE.clear()
        with contextlib.suppress(TypeError):
            _CACHE[target] = signature
    return signature


def near(name: object, accepted: Iterable[object]) -> str:
    """Return `" Did you mean 'lr'?"`, or an empty string where nothing is close."""
    import difflib

    found = difflib.get_close_matches(str(name), [str(a) for a in accepted], n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def check_name(signature: Signature, name: str, where: str) -> str | None:
    """Check that the target accepts an argument of this name."""
    if name in signature.names:
        return None
    close = near(name, signature.names)
    if not signature.has_var_keyword:
        accepted = ", ".join(signature.parameters) or "no arguments"
        raise UnknownNameError(f"{where}: {signature.label} has no argument {name!r}.{close} It accepts: {accepted}.")
    if close and name.isidentifier():
        return f"{where}: {signature.label} takes {name!r} only through its **kwargs.{close}"
    return None


def import_target(name: str) -> Callable[..., Any]:
    """Import `"pkg.mod:Cls.method"` (or with dots only, `"pkg.mod.Cls"`) and return the callable."""
    import importlib

    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise TargetError(f"{name!r} is not the name of a target. Accepted: 'pkg.mod:Cls'.")
    module_name, colon, attribute = name.partition(":")
    parts = attribute.split(".") if colon else []
    while True:
        try:
            value: Any = importlib.import_module(module_name)
            break
        except (ModuleNotFoundError, ValueError) as error:  # ValueError: an empty or relative name
            missing = getattr(error, "name", None)
            if isinstance(error, ModuleNotFoundError) and missing and not (module_name + ".").startswith(missing + "."):
                raise  # a dependency of the module is missing: its own error says more
            head, dot, tail = module_name.rpartition(".")
            if colon or not dot or not head:
                raise TargetError(f"Cannot import target {name!r}: {error}. Accepted: 'pkg.mod:Cls'.") from None
            module_name, parts = head, [tail, *parts]
    for part in parts:
        try:
            value = getattr(value, part)
        except AttributeError:
            raise TargetError(
                f"Cannot import target {name!r}: {getattr(value, '__name__', value)!r} has no {part!r}."
                f"{near(part, vars(value) if hasattr(value, '__dict__') else ())}"
            ) from None
    if not callable(value):
        raise TargetError(f"Target {name!r} is not callable, it is {type(value).__name__}.")
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


class _Namespace(dict[str, Any]):
    """The names that an annotation may use: those of the function, of its class's modules, builtins; else unknown."""

    def __init__(self, target: Any, source: Any):
        function = source if source is not None else target
        classes = target.__mro__ if isinstance(target, type) else ()
        if isinstance(function, type):
            function = getattr(function, "__init__", None)
        for _ in range(20):  # decorators that use functools.wraps
            function = getattr(function, "__wrapped__", None) or function
        self._scopes: list[Mapping[str, Any]] = [getattr(function, "__globals__", {})]
        self._scopes += [vars(sys.modules[c.__module__]) for c in classes if c.__module__ in sys.modules]
        self._scopes += [vars(builtins)]

    def __missing__(self, name: str) -> Any:
        for scope in self._scopes:
            if name in scope:
                return scope[name]
        return Lazy if name == "Lazy" else _Unknown()


def _evaluate(annotation: Any, names: _Namespace) -> Any:
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, {}, names)
        except Exception:  # an annotation may hold anything, and nothing depends on one that cannot be read
            return typing.Any
    with contextlib.suppress(Exception):
        annotation = typing._eval_type(annotation, {}, names)  # type: ignore[attr-defined]  # inner forward references
    return typing.Any if isinstance(annotation, _Unknown) else annotation


def _lazy_spec(hint: Any) -> LazySpec | None:
    hint = getattr(hint, "__value__", hint)  # `type Alias = ...`
    origin = typing.get_origin(hint)
    if hint is Lazy or origin is Lazy:
        return LazySpec(True, None)
    args: tuple[Any, ...] = typing.get_args(hint)
    if origin is None or not args:
        return None
    if origin is typing.Annotated:
        return _lazy_spec(args[0])
    if origin is typing.Union or getattr(origin, "__name__", "") == "UnionType":
        return _merge(map(_lazy_spec, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        args = args[-1:]
    elif not (isinstance(origin, type) and issubclass(origin, Iterable)) or issubclass(origin, Iterator):
        return None
    items = _merge(map(_lazy_spec, args))
    return LazySpec(False, items) if items is not None else None


def _merge(specs: Iterable[LazySpec | None]) -> LazySpec | None:
    found = [spec for spec in specs if spec is not None]
    if len(found) < 2:
        return found[0] if found else None
    return LazySpec(any(s.is_lazy for s in found), _merge(s.items for s in found))
