"""Losses as a sum and what it is the sum over, so that parts of a batch of any sizes add up to the whole."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Count = Tensor | int | float
_FUNCTIONS = (F.cross_entropy, F.nll_loss)
_SHIFT = {"ForCausalLM": 1, "ForMaskedLM": 0, "ForTokenClassification": 0}  # loss_type of transformers: lost labels


class Weighted(NamedTuple):
    """A loss that is a sum, and the number of things (tokens, pixels, samples) that it is the sum over.

    The optimizer wrapper adds up the gradients of sums over micro-batches and ranks and divides them once, at the step,
    by the count of all together. So tokens weigh alike, whatever part of a batch they come in.

    Attributes:
        sum: The sum, added up where it has elements.
        count: Number of its terms (or sum of their weights): a number, or a tensor of shape ``()``. 0 is allowed.
    """

    sum: Tensor
    count: Count  # type: ignore[assignment]  # tuple.count, which nobody needs here

    def mean(self) -> Tensor:
        """Return the sum over the count, shape ``()``; 0 where nothing was counted."""
        total, count = self.sum.sum(), self.count
        return total / (count.clamp(min=1e-9) if isinstance(count, Tensor) else max(count, 1e-9))

    def detach(self) -> Weighted:
        """Return the same for a log: without a graph, shapes ``()``."""
        count = self.count.detach() if isinstance(self.count, Tensor) else self.count
        return Weighted(self.sum.detach().sum(), count)


def add_up(losses: Sequence[Tensor | Weighted]) -> Tensor | Weighted | list[Weighted]:
    """Return the total of the losses of one dict.

    Plain losses are means; beside a sum they weigh as much as its count. Sums over the same tensor ``count`` have one
    denominator; others stay apart, and how they go together is for the optimizer wrapper.
    """
    by_count: dict[int, Weighted] = {}
    plain: Any = None
    for index, loss in enumerate(losses):
        if isinstance(loss, Weighted):
            key = id(loss.count) if isinstance(loss.count, Tensor) else -1 - index
            former = by_count.get(key)
            by_count[key] = loss if former is None else Weighted(former.sum + loss.sum, loss.count)
        else:
            plain = loss if plain is None else plain + loss
    sums = list(by_count.values())
    if len(sums) > 1:
        return sums if plain is None else [*sums, Weighted(plain, 1)]
    if not sums:
        return plain
    (only,) = sums
    return only if plain is None else Weighted(only.sum + plain * only.count, only.count)


def mean_of(total: Any) -> Any:
    """Return a total of `add_up` as one mean, shape ``()``: of several sums, the sum of their means."""
    if isinstance(total, list):
        return sum(part.mean() for part in total)
    return total.mean() if isinstance(total, Weighted) else total


def token_loss(loss_fn: Any, output: Any, target: Any) -> Weighted | None:
    """Return torch's cross-entropy (or negative log-likelihood) of classes by sum and count, where it ignores some.

    That is so for maps of classes (two dimensions or more: tokens, pixels), and where an ``ignore_index`` is given;
    None for every other loss function.
    """
    options: dict[str, Any] = {"reduction": "mean", "ignore_index": -100, "weight": None}
    if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
        options |= {name: getattr(loss_fn, name) for name in options}
    elif (loss_fn.func if isinstance(loss_fn, functools.partial) else loss_fn) in _FUNCTIONS:
        options |= getattr(loss_fn, "keywords", {})
    else:
        return None
    ignore_index, weight = options["ignore_index"], options["weight"]
    is_classes = isinstance(target, Tensor) and not target.is_floating_point()
    if options["reduction"] != "mean" or not is_classes or (target.dim() < 2 and ignore_index == -100):
        return None
    if isinstance(loss_fn, nn.Module):
        summed: Callable[..., Tensor] = copy.copy(loss_fn)
        summed.reduction = "sum"  # type: ignore[attr-defined]
    else:
        summed = functools.partial(loss_fn, reduction="sum")
    counted: Any = target != ignore_index
    if weight is not None:  # not of `target[counted]`, for whose size a device would have to be waited for
        counted = torch.where(counted, weight[target.where(counted, 0)], 0.0)
    return Weighted(summed(output, target), counted.sum())


def lost_labels(network: nn.Module) -> int | None:
    """Return how many first labels of a row a language model of transformers does not predict: 1 where it shifts them.

    None for networks whose loss cannot be asked for as a sum, by the ``num_items_in_batch`` of their `loss_function`.
    Around one, a model of peft passes it on, unless it puts tokens of its own before the labels.
    """
    if hasattr(network, "get_base_model"):
        if getattr(network.active_peft_config, "is_prompt_learning", False):
            return None
        network = network.get_base_model()  # type: ignore[operator]
    if getattr(getattr(network, "config", None), "output_router_logits", False) or not hasattr(network, "loss_type"):
        return None
    code = getattr(inspect.unwrap(type(network).forward), "__code__", None)
    kind = network.loss_type or ("ForCausalLM" if "LMHead" in type(network).__name__ else "")
    return _SHIFT.get(str(kind)) if code is not None and "loss_function" in code.co_names else None
