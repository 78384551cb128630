"""Communication between processes that also works, with the obvious results, in a single one."""

from __future__ import annotations

from .collect import collect_results, collect_results_cpu, collect_results_gpu
from .comm import (
    all_gather,
    all_gather_object,
    all_reduce,
    all_reduce_dict,
    all_reduce_params,
    barrier,
    broadcast,
    broadcast_object_list,
    exchange_numbers,
    gather,
    gather_object,
    start_average,
    start_max,
    sync_random_seed,
)
from .guard import named_communication, named_rank, note_lost_rank, set_position_source
from .info import (
    cast_data_device,
    get_backend,
    get_comm_device,
    get_data_device,
    get_default_group,
    get_dist_info,
    get_local_group,
    get_local_rank,
    get_local_size,
    get_rank,
    get_world_size,
    init_local_group,
    is_distributed,
    is_main_process,
    master_only,
)
from .launch import STOP_SIGNALS, destroy_dist, infer_launcher, init_dist
from .shares import get_data_rank, get_data_world_size, is_first_of_data_rank, per_rank, share_data_over

__all__ = [  # noqa: RUF022 - in reading order
    # who am I
    "get_rank",
    "get_world_size",
    "get_dist_info",
    "get_local_rank",
    "get_local_size",
    "is_distributed",
    "is_main_process",
    "master_only",
    "per_rank",
    "get_data_rank",
    "get_data_world_size",
    "is_first_of_data_rank",
    "share_data_over",
    # start and stop
    "init_dist",
    "infer_launcher",
    "destroy_dist",
    "STOP_SIGNALS",
    # communicate
    "barrier",
    "all_reduce",
    "all_reduce_dict",
    "all_reduce_params",
    "all_gather",
    "all_gather_object",
    "gather",
    "gather_object",
    "broadcast",
    "broadcast_object_list",
    "sync_random_seed",
    "exchange_numbers",
    "start_average",
    "start_max",
    "collect_results",
    "collect_results_cpu",
    "collect_results_gpu",
    # groups and devices
    "get_backend",
    "get_default_group",
    "init_local_group",
    "get_local_group",
    "get_comm_device",
    "get_data_device",
    "cast_data_device",
    # errors
    "named_communication",
    "named_rank",
    "note_lost_rank",
    "set_position_source",
]
