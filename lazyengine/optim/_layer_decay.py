"""Which layer a parameter belongs to, for learning rates that shrink from the head to the stem of a transformer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# A numbered block: `blocks.3` (timm), `encoder.layer.3` (transformers), `h.3` (GPT-2), `resblocks.3` (CLIP),
# `layers.encoder_layer_3` (torchvision), `stages.1.blocks.3` (Swin, ConvNeXt: every level counts).
_BLOCK = re.compile(r"(?:^|\.)(?:blocks?|layers?|h|resblocks|stages?|encoder_layers?|decoder_layers?)[._](\d+)(?=\.|$)")
_STEM = re.compile(
    r"(?:^|\.)(?:patch_embed\w*|pos_embed\w*|position_embed\w*|positional_embedding|embed\w*|cls_token|class_token|"
    r"class_embedding|dist_token|mask_token|reg_token|register_tokens|tok_embed\w*|token_embed\w*|wte|wpe|stem|"
    r"conv_proj|patch_embedding|shared)(?:\.|$)"
)


def layer_scales(
    names: Sequence[str], layer_decay: float, layer_id: Callable[[str], int] | None = None
) -> dict[str, float]:
    """Return the factor of the learning rate of every parameter: ``layer_decay ** (last_layer - layer)``.

    Layer 0 is the stem (embeddings, tokens), then comes one layer a block in the order of the model, and last what
    follows the blocks (final norm, head), whose factor is 1. Parameters of a stage outside its blocks (a downsampling)
    belong to the stage's last block. The formula is that of ELECTRA (Clark et al., ICLR 2020), applied to vision
    transformers by BEiT (Bao et al., ICLR 2022).

    Args:
        names: Full names of the parameters, in the order of the model.
        layer_decay: Factor from one layer to the one before it, in `(0, 1]`.
        layer_id: Gives the layer of a parameter by its name where the usual names do not fit; 0 is the stem, the
            greatest number that it returns the head.

    Raises:
        ValueError: If no name looks like a numbered block, or ``layer_id`` returns something that is no layer.
    """
    layers = {name: _given_layer(layer_id, name) for name in names} if layer_id else _layers_by_name(names)
    last = max(layers.values(), default=0)
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def _given_layer(layer_id: Callable[[str], int], name: str) -> int:
    layer = layer_id(name)
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        raise ValueError(f"layer_id({name!r}) must return an int from 0 on; got {layer!r}")
    return layer


def _layers_by_name(names: Sequence[str]) -> dict[str, int]:
    paths = {name: _block_path(name) for name in names}
    blocks = dict.fromkeys(path for path in paths.values() if path)
    # A path that others extend is not a block of its own (`stages.1` beside `stages.1.blocks.0`).
    blocks = [b for b in blocks if not any(other != b and other[: len(b)] == b for other in blocks)]
    if not blocks:
        shown = ", ".join(names[:3])
        raise ValueError(
            "layer_decay: no parameter name holds a numbered block such as 'blocks.0.' or 'encoder.layer.0.' "
            f"(names begin with {shown}); pass layer_id=a function from the parameter's name to its layer"
        )
    number = {block: index + 1 for index, block in enumerate(blocks)}
    layers = {}
    for name, path in paths.items():
        if path:
            layers[name] = max(index for block, index in number.items() if block[: len(path)] == path)
        else:
            layers[name] = 0 if _STEM.search(name) else len(blocks) + 1
    return layers


def _block_path(name: str) -> tuple[str, ...]:
    """Return the prefixes of ``name`` that end in a block's number: `a.layers.1.blocks.0.w` has two."""
    return tuple(name[: match.end()] for match in _BLOCK.finditer(name))
