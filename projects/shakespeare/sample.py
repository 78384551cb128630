"""Let a trained model write.

For example ``python projects/shakespeare/sample.py work_dirs/shakespeare/iter_2000.pth --prompt "ROMEO:"``.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the folder that holds `projects`
from lazyengine.checkpoint import read_checkpoint
from lazyengine.config import LazyConfig, instantiate
from projects.shakespeare.text import decode, encode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint of a run")
    parser.add_argument("--config", help="the run's config (default: config.py in the checkpoint's folder)")
    parser.add_argument("--prompt", default="\n", help="how the text begins")
    parser.add_argument("--length", type=int, default=500, metavar="N", help="characters to add (500)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 for the likeliest text, above 1 for a wild one"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    config = args.config or pathlib.Path(args.checkpoint).with_name("config.py")
    model = instantiate(LazyConfig.load(config).model)
    checkpoint = read_checkpoint(args.checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    characters = checkpoint["meta"]["dataset_meta"]["characters"]  # the text itself is not needed
    generator = torch.Generator().manual_seed(args.seed)
    tokens = model.eval().generate(encode(args.prompt, characters), args.length, args.temperature, generator)
    print(decode(tokens.tolist(), characters))
    return 0


if __name__ == "__main__":
    sys.exit(main())
