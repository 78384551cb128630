"""Optimizer wrappers, options of single parameters, and schedulers. See README.md beside this file."""

from . import scheduler
from .amp import AmpOptimWrapper, autocast_for, autocast_modules
from .nonfinite import NonFiniteError
from .optim_wrapper import OptimWrapper
from .optim_wrapper_dict import OptimWrapperDict
from .param_groups import ParamGroup, param_group_table, param_groups
from .scale_lr import scale_lr
from .scheduler import *  # noqa: F403

__all__ = [
    "AmpOptimWrapper",
    "NonFiniteError",
    "OptimWrapper",
    "OptimWrapperDict",
    "ParamGroup",
    "autocast_for",
    "autocast_modules",
    "param_group_table",
    "param_groups",
    "scale_lr",
]
__all__ += scheduler.__all__
