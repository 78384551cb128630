"""Compute metrics from the predictions that DumpResults saved, without the model.

The metrics come from a config (those of its validation loop), or are given one by one.

examples:
  %(prog)s results.pt --metric "Accuracy(topk=(1, 5))" --metric ConfusionMatrix
  %(prog)s results.pt --metric "my_package.metrics.Dice(threshold=0.5)"
  %(prog)s results.pt --config projects/digits/config.py
  %(prog)s results.pt --config projects/digits/config.py --with-data

exit codes: 0 done; 2 a mistake in the config or the command line.
"""

from __future__ import annotations

import ast
import itertools
import operator
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..config import instantiate
from ..config.node import arguments_of, is_node
from ..config.signature import import_object
from ..errors import UsageValueError
from .command import Arguments, CommandParser, add_overrides, as_json, command, load_config, say


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("results", metavar="RESULTS", help="a file of DumpResults (.pt, .jsonl or .pkl)")
    parser.add_argument("--metric", action="append", default=[], metavar="CALL", help="a metric, with its arguments")
    parser.add_argument("--config", metavar="FILE", help="take the metrics from this experiment")
    parser.add_argument("--loop", choices=["val_loop", "test_loop"], default="val_loop", help="of which loop")
    parser.add_argument("--loader", metavar="NAME", help="of which loader, where that loop has several by name")
    parser.add_argument("--with-data", action="store_true", help="also hand over the dataset's samples and metainfo")
    parser.add_argument("--other-data", action="store_true", help="take data that differs from what was predicted")
    parser.add_argument("--chunk-size", type=int, default=256, metavar="N", help="samples processed at once (256)")
    parser.add_argument("--trusted", action="store_true", help="allow a .pkl file, which can run code when read")
    add_overrides(parser)


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Compute metrics."""
    values, number = _compute(args)
    if args.json:
        return as_json(values)
    return "\n".join([f"{number} samples of {args.results}", *(f"{name}: {value}" for name, value in values.items())])


def _compute(args: Arguments) -> tuple[dict[str, Any], int]:
    """Build the metrics, read the predictions, and return the values and the number of samples."""
    from .. import evaluator
    from ..evaluator.dump import read_results
    from ..record import fingerprint

    if args.with_data and not args.config:
        raise UsageValueError("--with-data: the data are those of a config: name it with --config FILE.")
    metrics, loader = _from_config(args) if args.config else ([], None)
    metrics = [metric for metric in metrics if not isinstance(metric, evaluator.DumpResults)]
    metrics += [parse_metric(text) for text in args.metric]
    if not metrics:
        raise UsageValueError("there is no metric to compute: give --metric NAME or --config FILE.")
    samples, data = read_results(args.results, args.trusted)
    computing = evaluator.Evaluator(metrics)
    options: dict[str, Any] = {"chunk_size": args.chunk_size}
    if loader is not None:
        dataset = loader.dataset
        _check_data(data, fingerprint(dataset), args)
        computing.dataset_meta = getattr(dataset, "metainfo", None)
        options["data"] = (dataset[index] for index in _indices(loader, args))
        if getattr(loader, "collate_fn", None) is not None:
            options["collate"] = loader.collate_fn  # metrics see the batches that they saw in the run
    return computing.offline_evaluate(samples, **options), len(samples)


def _check_data(former: Any, present: Any, args: Arguments) -> None:
    """Refuse a dataset that is another one than was predicted."""
    from ..record import changed_data

    if former is None:
        say(f"{args.results} does not say of which data its predictions are; it is trusted that they are of these")
    elif not args.other_data and (differs := changed_data({"data": former}, {"data": present})):
        where = "/".join(filter(None, (args.loop, args.loader)))
        raise UsageValueError(
            f"--with-data: the predictions in {args.results} are of other data than {args.config} has ({where}): "
            f"{'; '.join(differs)} · name the config, --loop and --loader that they were made with; where the samples "
            "are the same ones all the same (files copied, labels mended), add --other-data"
        )


def _indices(loader: Any, args: Arguments) -> Sequence[int]:
    """Return which samples a loader takes, in their order, which is that of the predictions.

    Raises:
        UsageValueError: It goes another way through the dataset, which nobody knows now, or reads a stream.
    """
    from torch.utils.data import RandomSampler

    size = operator.length_hint(loader.dataset, 1)
    batches, sampler = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", range(size))
    is_drawn = isinstance(sampler, RandomSampler) or getattr(sampler, "shuffle", False)  # of few, maybe in order
    order = sampler if batches is None else itertools.chain.from_iterable(batches)
    found = list(itertools.islice(order, size + 1))
    if is_drawn or any(b is None or a >= b for a, b in itertools.pairwise(found)):
        raise UsageValueError(
            f"--with-data: which prediction is of which sample is known where a loader goes through its dataset in "
            f"order, and that of {args.config} ({args.loop}) is shuffled, or a stream · save predictions with the "
            "labels in them and leave out --with-data, or save them again without shuffling"
        )
    return found


def parse_metric(text: str) -> Any:
    """Build a metric from a call with literal arguments; nothing else is evaluated.

    Args:
        text: ``Accuracy``, ``Accuracy(topk=(1, 5))``, or the same with a dotted path.

    Raises:
        UsageValueError: It is no such call, or names no metric.
    """
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        path = ast.unparse(call.func)
        args = [ast.literal_eval(value) for value in call.args]
        kwargs = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UsageValueError(f"--metric {text!r}: expected a name, or a call with literal arguments") from error
    return _metric_class(path)(*args, **kwargs)


def _metric_class(path: str) -> Any:
    from .. import evaluator

    if os.getcwd() not in sys.path:  # the package of a project that is not installed, as `python -m` would find it
        sys.path.append(os.getcwd())
    found = import_object(path if "." in path else f"{evaluator.__name__}.{path}")
    if not (isinstance(found, type) and issubclass(found, evaluator.BaseMetric)):
        raise UsageValueError(f"--metric {path}: expected the name of a metric, got {found!r}.")
    return found


def _of_loader(part: Any, args: Arguments) -> Any:
    """Return, of a loop with several loaders, the part that belongs to the one that ``--loader`` names."""
    if not isinstance(part, dict):
        return part
    if args.loader not in part:
        loaders = ", ".join(part)
        raise UsageValueError(f"{args.config}: runner.{args.loop} has the loaders {loaders} · name one by --loader")
    return part[args.loader]


def _from_config(args: Arguments) -> tuple[list[Any], Any]:
    """Build the metrics of a config's loop and, if asked for, its loader."""
    loop: Any = arguments_of(load_config(args.config, args.overrides).runner).get(args.loop)
    if loop is None or not is_node(loop) or "evaluator" not in arguments_of(loop):
        raise UsageValueError(f"{args.config}: runner.{args.loop} has no evaluator.")
    names = ("evaluator", "dataloader") if args.with_data else ("evaluator",)
    wanted = {name: _of_loader(arguments_of(loop)[name], args) for name in names}
    built = instantiate(wanted)
    found = getattr(built["evaluator"], "metrics", built["evaluator"])
    metrics = list(found) if isinstance(found, list | tuple) else [found]
    return metrics, built.get("dataloader")
