"""`LazyCall` and `LazyPartial`, as type checkers and as Python see them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, overload

from .node import make_node, make_partial

P = ParamSpec("P")


class NodeFactory(functools.partial):  # type: ignore[type-arg]
    """What `LazyCall(target)` returns at run time: called with arguments, it makes a node."""

    __slots__ = ()


if TYPE_CHECKING:

    @overload
    def LazyCall(target: str, /) -> Callable[..., Any]: ...
    @overload
    def LazyCall(target: Callable[P, Any], /) -> Callable[P, Any]: ...
    def LazyCall(target: Any, /) -> Any:
        """Describe a call instead of making it: `LazyCall(SGD)(lr=0.1)` is a node that `instantiate` turns into an SGD.

        Argument names are checked at once; a missing one only when it is built (`REQUIRED` says so in the config).
        The node's attributes are the arguments: `optimizer.lr = 0.2`.

        Args:
            target: A class, function or other callable; or its name `"pkg.mod:Cls"`, which is imported when it is built
                or checked.
        """

    @overload
    def LazyPartial(target: str, /) -> Callable[..., Any]: ...
    @overload
    def LazyPartial(target: Callable[P, Any], /) -> Callable[..., Any]: ...
    def LazyPartial(target: Any, /) -> Any:
        """Like `LazyCall`, but the node builds `functools.partial(target, ...)`, which takes more arguments later."""

else:

    def LazyCall(target, /):
        return NodeFactory(make_node, target)

    def LazyPartial(target, /):
        return NodeFactory(make_partial, target)

    LazyCall.__doc__ = "Describe a call instead of making it: `LazyCall(SGD)(lr=0.1)` is a node for `instantiate`."
    LazyPartial.__doc__ = "Like `LazyCall`, but the node builds `functools.partial(target, ...)`."
