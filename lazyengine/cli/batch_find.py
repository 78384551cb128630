"""Find the largest batch whose training fits into a memory, by counting with tensors that have no values: no step is
taken, and no memory of the device is needed. What kernels need for themselves is not counted: a tenth is kept free.

exit codes: 0 done; 2 a mistake in the config or the command line
"""

from __future__ import annotations

import tempfile
from typing import Any

from ..config import ConfigError
from ..text import format_bytes, table
from .command import Arguments, CommandParser, add_config, as_json, command
from .plan import maker_of

_KEY = "train_loop.dataloader.batch_size"


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument("--gpu", metavar="NAME", help="an accelerator, such as H100 (default: the one of this machine)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="the memory, instead of an accelerator's")
    parser.add_argument("--start", type=int, default=1, metavar="N", help="the first size to try (1)")
    parser.add_argument("--key", default=_KEY, help=f"where the config has the size of a batch ({_KEY})")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Find the largest batch."""
    from ..analysis.cost import cost_of
    from ..analysis.finding import largest_batch

    if args.start < 1:
        raise ConfigError(f"--start {args.start}: expected at least 1.")
    memory = 0.9 * _memory(args)
    with tempfile.TemporaryDirectory(prefix="lazyengine-") as folder:

        def cost(size: int) -> Any:
            return cost_of(maker_of(args.config, [*args.overrides, f"{args.key}={size}"], folder))

        found = largest_batch(cost, memory, args.start)
    sizes = {each.samples: each.peak_bytes for each in found}
    largest = max((size for size, peak in sizes.items() if size and peak <= memory), default=None)
    if args.json:
        return as_json({"largest": largest, "memory": memory, "peak_bytes": sizes})
    rows = [("samples", "at the peak", "")]
    rows += [(str(size), format_bytes(peak), "" if peak <= memory else "too much") for size, peak in sizes.items()]
    whole = largest == max(size or 0 for size in sizes)
    more = " (the dataset has no more for a batch)" if whole else ""
    return f"{table(rows)}\n{args.key}={largest} fits into {format_bytes(memory)}{more}"


def _memory(args: Arguments) -> float:
    """Return the bytes of the memory that was named.

    Raises:
        ConfigError: None was named and this machine has no accelerator, or the name is not known.
    """
    import torch

    from ..analysis.planning import named_device

    if args.memory is not None:
        return args.memory * 2**30
    if args.gpu is not None:
        return named_device(args.gpu).memory_gib * 2**30
    if not torch.cuda.is_available():
        raise ConfigError("this machine has no accelerator: name one by --gpu H100, or a memory by --memory 80.")
    return torch.cuda.mem_get_info()[1]
