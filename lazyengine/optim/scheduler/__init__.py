"""Schedulers of learning rate and momentum, with mmengine's names and semantics. See README.md beside this file."""

# ruff: noqa: I001
# fmt: off
from .base import SchedulerOptions, _ParamScheduler
from .build import SchedulerRecipes, build_param_schedulers
from .cosine import (
    CosineAnnealingLR, CosineAnnealingMomentum, CosineAnnealingParamScheduler,
    CosineRestartLR, CosineRestartMomentum, CosineRestartParamScheduler,
    OneCycleLR, OneCycleParamScheduler,
)
from .decay import (
    ConstantLR, ConstantMomentum, ConstantParamScheduler,
    ExponentialLR, ExponentialMomentum, ExponentialParamScheduler,
    LinearLR, LinearMomentum, LinearParamScheduler,
    MultiStepLR, MultiStepMomentum, MultiStepParamScheduler,
    PolyLR, PolyMomentum, PolyParamScheduler,
    StepLR, StepMomentum, StepParamScheduler,
)
from .plateau import ReduceOnPlateauLR, ReduceOnPlateauMomentum, ReduceOnPlateauParamScheduler
from .resume import param_schedulers_state_dict, replay_param_schedulers, resume_param_schedulers
from .torch_scheduler import TorchScheduler

__all__ = [
    "ConstantLR", "ConstantMomentum", "ConstantParamScheduler",
    "CosineAnnealingLR", "CosineAnnealingMomentum", "CosineAnnealingParamScheduler",
    "CosineRestartLR", "CosineRestartMomentum", "CosineRestartParamScheduler",
    "ExponentialLR", "ExponentialMomentum", "ExponentialParamScheduler",
    "LinearLR", "LinearMomentum", "LinearParamScheduler",
    "MultiStepLR", "MultiStepMomentum", "MultiStepParamScheduler",
    "OneCycleLR", "OneCycleParamScheduler",
    "PolyLR", "PolyMomentum", "PolyParamScheduler",
    "ReduceOnPlateauLR", "ReduceOnPlateauMomentum", "ReduceOnPlateauParamScheduler",
    "SchedulerOptions", "SchedulerRecipes",
    "StepLR", "StepMomentum", "StepParamScheduler",
    "TorchScheduler",
    "_ParamScheduler",
    "build_param_schedulers",
    "param_schedulers_state_dict", "replay_param_schedulers", "resume_param_schedulers",
]
