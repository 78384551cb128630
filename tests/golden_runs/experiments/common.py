"""What the golden experiments share: the default hooks by name, a hook that looks on, and curves in plain files."""

from lazyengine.config import LazyCall as L
from lazyengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ProgressBarHook,
    RuntimeInfoHook,
)
from lazyengine.visualization import LocalVisBackend, Visualizer
from tests.golden_runs.parts import Probe

hooks = dict(
    runtime_info=L(RuntimeInfoHook)(),
    timer=L(IterTimerHook)(),
    sampler_seed=L(DistSamplerSeedHook)(),
    logger=L(LoggerHook)(interval=3),
    param_scheduler=L(ParamSchedulerHook)(),
    progress_bar=L(ProgressBarHook)(),
    checkpoint=L(CheckpointHook)(interval=1, max_keep_ckpts=1),
    probe=L(Probe)(),
)
visualizer = L(Visualizer)(vis_backends=[L(LocalVisBackend)()])
