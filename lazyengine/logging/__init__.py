"""Named instances, the message hub, the logger, the log processor, and ``metrics.jsonl``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from .log_processor import LogProcessor
    from .logger import MMLogger, is_rich_terminal, log_error, output_path, print_log
    from .manager import ManagerMeta, ManagerMixin
    from .message_hub import HistoryBuffer, MessageHub, as_number, require_number
    from .metrics import MetricsWriter
    from .records import METRICS_FILE, read_metrics

__all__ = [
    "METRICS_FILE",
    "HistoryBuffer",
    "LogProcessor",
    "MMLogger",
    "ManagerMeta",
    "ManagerMixin",
    "MessageHub",
    "MetricsWriter",
    "as_number",
    "is_rich_terminal",
    "log_error",
    "output_path",
    "print_log",
    "read_metrics",
    "require_number",
]

__getattr__, __dir__ = late_names(__name__)
