"""Checkpoints: plain data in torch's own format, whole or absent, checked before they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from ..plain import to_plain
    from .errors import CheckpointError, UsageCheckpointError
    from .finding import (
        find_best_checkpoints,
        find_checkpoint,
        find_latest_checkpoint,
        find_valid_checkpoint,
        list_checkpoints,
        or_none,
        pending_file,
        run_of,
        summary_of,
    )
    from .form import FORMAT_VERSION, why_not_resumable
    from .frozen import FrozenWeights, complete, left_out_of
    from .loading import CheckpointLoader, LoadFrom, load_checkpoint, revise_state_dict, state_dict_of
    from .pending import RUN_FILE, Pending, pending_in, pending_of
    from .reading import SkippedObject, read_checkpoint, verify_checkpoint, verify_shards
    from .retention import check_filename_template, superseded_checkpoints
    from .saving import POINTER, CheckpointWriter, mark_latest_checkpoint, publish_checkpoint, save_checkpoint
    from .shards import (
        SavedTensor,
        copy_shards,
        is_sharded_tensor,
        remove_checkpoint,
        remove_shards,
        save_shards,
        shard_like,
        shard_optimizer_state,
        split_shards,
    )
    from .state_dict import get_state_dict, load_state_dict, unwrap_module, weights_to_cpu

__all__ = [  # noqa: RUF022 - in reading order
    "CheckpointError",
    "UsageCheckpointError",
    # save
    "save_checkpoint",
    "CheckpointWriter",
    "mark_latest_checkpoint",
    "publish_checkpoint",
    "remove_checkpoint",
    "to_plain",
    # read
    "read_checkpoint",
    "SkippedObject",
    "verify_checkpoint",
    "find_checkpoint",
    "find_latest_checkpoint",
    "find_valid_checkpoint",
    "POINTER",
    "find_best_checkpoints",
    "list_checkpoints",
    "summary_of",
    "run_of",
    "or_none",
    "why_not_resumable",
    "Pending",
    "pending_in",
    "pending_of",
    "pending_file",
    "RUN_FILE",
    "FORMAT_VERSION",
    # delete
    "check_filename_template",
    "superseded_checkpoints",
    # into a model
    "LoadFrom",
    "load_checkpoint",
    "load_state_dict",
    # frozen weights that are not saved
    "FrozenWeights",
    "complete",
    "left_out_of",
    "CheckpointLoader",
    # sharded over ranks
    "split_shards",
    "copy_shards",
    "save_shards",
    "verify_shards",
    "remove_shards",
    "SavedTensor",
    "is_sharded_tensor",
    "shard_like",
    "shard_optimizer_state",
    # details
    "state_dict_of",
    "revise_state_dict",
    "get_state_dict",
    "weights_to_cpu",
    "unwrap_module",
]

__getattr__, __dir__ = late_names(__name__)
