"""Looking at an experiment without training it: operations and parameters of a model, the schedule over a run.

Names are loaded when they are first used, because fvcore and matplotlib take long to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .complexity import (
        ActivationAnalyzer,
        FlopAnalyzer,
        activation_count,
        flop_count,
        get_model_complexity_info,
        parameter_count,
        parameter_count_table,
    )
    from .model_summary import summary
    from .schedule import ScheduleCurves, plot_schedule, simulate_schedule

__all__ = [
    "ActivationAnalyzer",
    "FlopAnalyzer",
    "ScheduleCurves",
    "activation_count",
    "flop_count",
    "get_model_complexity_info",
    "parameter_count",
    "parameter_count_table",
    "plot_schedule",
    "simulate_schedule",
    "summary",
]

_SCHEDULE = {"ScheduleCurves", "plot_schedule", "simulate_schedule"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "schedule" if name in _SCHEDULE else "model_summary" if name == "summary" else "complexity"
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
