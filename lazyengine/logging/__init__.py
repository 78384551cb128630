"""Named instances, the message hub, the logger, the log processor, ``metrics.jsonl`` and the progress bar."""

from .history_buffer import HistoryBuffer
from .log_processor import LogProcessor
from .logger import LineFormatter, MMLogger, print_log
from .manager import ManagerMeta, ManagerMixin
from .message_hub import MessageHub
from .metrics import METRICS_FILE, MetricsWriter, read_metrics
from .progress import ProgressBar

__all__ = [
    "METRICS_FILE",
    "HistoryBuffer",
    "LineFormatter",
    "LogProcessor",
    "MMLogger",
    "ManagerMeta",
    "ManagerMixin",
    "MessageHub",
    "MetricsWriter",
    "ProgressBar",
    "print_log",
    "read_metrics",
]
