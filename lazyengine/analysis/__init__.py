"""Looking at an experiment without training it: operations and parameters, the schedule, exactness.

Names are loaded when they are first used, because fvcore and matplotlib take long to import.
"""

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from ..runner.describe import summary
    from .complexity import (
        ActivationAnalyzer,
        FlopAnalyzer,
        activation_count,
        flop_count,
        get_model_complexity_info,
        parameter_count,
        parameter_count_table,
    )
    from .exactness import check_batches, first_difference
    from .schedule import ScheduleCurves, plot_schedule, simulate_schedule

__all__ = [
    "ActivationAnalyzer",
    "FlopAnalyzer",
    "ScheduleCurves",
    "activation_count",
    "check_batches",
    "first_difference",
    "flop_count",
    "get_model_complexity_info",
    "parameter_count",
    "parameter_count_table",
    "plot_schedule",
    "simulate_schedule",
    "summary",
]

__getattr__, __dir__ = late_names(__name__)
