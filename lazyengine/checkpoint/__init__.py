"""Checkpoints: plain data in torch's own format, whole or absent, checked before they are loaded."""

from .errors import CheckpointError
from .export import average_checkpoints, export_safetensors
from .finding import find_latest_checkpoint, find_valid_checkpoint, list_checkpoints
from .loading import (
    CheckpointLoader,
    load_checkpoint,
    load_checkpoint_to_model,
    read_checkpoint_with_prefix,
    revise_state_dict,
    state_dict_of,
)
from .plain import to_plain
from .reading import SkippedObject, read_checkpoint, verify_checkpoint, verify_shards
from .saving import CheckpointWriter, mark_latest_checkpoint, save_checkpoint
from .sharded import SavedTensor, is_sharded_tensor, shard_optimizer_state
from .shards import remove_checkpoint, remove_shards, save_shards, split_shards
from .state_dict import get_state_dict, load_state_dict, unwrap_module, weights_to_cpu

__all__ = [  # noqa: RUF022 - in reading order
    "CheckpointError",
    # save
    "save_checkpoint",
    "CheckpointWriter",
    "mark_latest_checkpoint",
    "remove_checkpoint",
    "to_plain",
    # read
    "read_checkpoint",
    "SkippedObject",
    "verify_checkpoint",
    "find_latest_checkpoint",
    "find_valid_checkpoint",
    "list_checkpoints",
    # into a model
    "load_checkpoint",
    "load_checkpoint_to_model",
    "load_state_dict",
    "read_checkpoint_with_prefix",
    "CheckpointLoader",
    # give away
    "export_safetensors",
    "average_checkpoints",
    # sharded over ranks
    "split_shards",
    "save_shards",
    "verify_shards",
    "remove_shards",
    "SavedTensor",
    "is_sharded_tensor",
    "shard_optimizer_state",
    # details
    "state_dict_of",
    "revise_state_dict",
    "get_state_dict",
    "weights_to_cpu",
    "unwrap_module",
]
