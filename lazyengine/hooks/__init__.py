"""Hooks: everything that happens beside the training step itself, one idea a file."""

from .checkpoint_hook import CheckpointHook
from .early_stopping_hook import EarlyStoppingHook
from .ema_hook import EMAHook
from .empty_cache_hook import EmptyCacheHook
from .fingerprint_hook import FINGERPRINTS, FingerprintHook
from .hook import HOOK_POINTS, Hook, Priority, get_priority
from .iter_timer_hook import IterTimerHook
from .logger_hook import LoggerHook
from .param_scheduler_hook import ParamSchedulerHook
from .profiler_hook import ProfilerHook
from .progress_bar_hook import ProgressBarHook
from .runtime_info_hook import RuntimeInfoHook
from .sampler_seed_hook import DistSamplerSeedHook
from .schedule import HookSchedule
from .sync_buffers_hook import SyncBuffersHook
from .unfreeze_hook import UnfreezeHook
from .visualization_hook import VisualizationHook


def default_hooks() -> dict[str, Hook]:
    """Return new instances of the hooks that a run has where it names none: those of mmengine, and a progress bar."""
    return {
        "runtime_info": RuntimeInfoHook(),
        "timer": IterTimerHook(),
        "logger": LoggerHook(),
        "param_scheduler": ParamSchedulerHook(),
        "progress_bar": ProgressBarHook(),
        "checkpoint": CheckpointHook(),
    }


__all__ = [
    "FINGERPRINTS",
    "HOOK_POINTS",
    "CheckpointHook",
    "DistSamplerSeedHook",
    "EMAHook",
    "EarlyStoppingHook",
    "EmptyCacheHook",
    "FingerprintHook",
    "Hook",
    "HookSchedule",
    "IterTimerHook",
    "LoggerHook",
    "ParamSchedulerHook",
    "Priority",
    "ProfilerHook",
    "ProgressBarHook",
    "RuntimeInfoHook",
    "SyncBuffersHook",
    "UnfreezeHook",
    "VisualizationHook",
    "default_hooks",
    "get_priority",
]
