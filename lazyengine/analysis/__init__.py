"""Looking at an experiment without training it: operations and parameters, the schedule, exactness.

Names are loaded when they are first used, because fvcore and matplotlib take long to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

_ELSEWHERE = {"summary": "..runner.describe", "check_batches": ".exactness", "first_difference": ".exactness"}
_ELSEWHERE |= dict.fromkeys(("ScheduleCurves", "plot_schedule", "simulate_schedule"), ".schedule")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ELSEWHERE.get(name, ".complexity"), __name__)
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
