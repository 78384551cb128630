"""What most experiments share: the default hooks, by name.

Import it and change what you need: ``default_hooks["logger"].interval = 50``; from the command line,
``default_hooks.logger.interval=50``. An entry more is a hook more: ``default_hooks["ema"] = L(EMAHook)()``.
"""

from lazyengine.config import LazyCall as L
from lazyengine.hooks import (
    CheckpointHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ProgressBarHook,
    RuntimeInfoHook,
)

default_hooks = dict(
    runtime_info=L(RuntimeInfoHook)(),
    timer=L(IterTimerHook)(),
    logger=L(LoggerHook)(interval=10),
    param_scheduler=L(ParamSchedulerHook)(),
    progress_bar=L(ProgressBarHook)(),
    checkpoint=L(CheckpointHook)(interval=1, max_keep_ckpts=3, save_best="auto"),
)
