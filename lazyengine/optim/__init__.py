"""Optimizer wrappers, options of single parameters, and schedulers. See README.md beside this file."""

from . import scheduler
from .amp import AmpOptimWrapper, autocast_for, autocast_modules
from .gradients import NonFiniteError
from .optim_wrapper import OptimWrapper
from .optim_wrapper_dict import OptimWrapperDict
from .param_groups import ParamGroup, param_group_table, param_groups
from .sam import SAMOptimWrapper
from .scale_lr import scale_lr
from .scheduler import *  # noqa: F403

# fmt: off
__all__ = [
    "AmpOptimWrapper", "NonFiniteError", "OptimWrapper", "OptimWrapperDict",
    "ParamGroup", "SAMOptimWrapper", "autocast_for", "autocast_modules", "param_group_table", "param_groups",
    "scale_lr",
]
# fmt: on
__all__ += scheduler.__all__
