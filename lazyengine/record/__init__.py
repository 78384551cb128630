"""What is kept of the code, the environment and the data that a run was made with. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from .code import CodeRecord, collect_code, load_code, save_code
    from .code_changes import changed_code, changed_in_common, changes, code_fingerprints
    from .data import changed_data, fingerprint
    from .environment import collect_env, write_env
    from .experiment import (
        as_line,
        built_values,
        changed_lines,
        changed_options,
        changed_values,
        flat_config,
        saved_config,
    )
    from .recorder import Recorder
    from .run_file import (
        CODE_FOLDER,
        ENV_FILE,
        FORMAT,
        PRUNED_FILE,
        RUN_FILE,
        START_FILE,
        code_of_start,
        read_env,
        read_run_file,
    )

__all__ = [  # noqa: RUF022 - in reading order
    "Recorder",
    "CODE_FOLDER",
    # code
    "CodeRecord",
    "collect_code",
    "save_code",
    "load_code",
    "changes",
    "changed_code",
    "changed_in_common",
    "code_fingerprints",
    # environment and data
    "collect_env",
    "write_env",
    "fingerprint",
    "changed_data",
    "RUN_FILE",
    "START_FILE",
    "ENV_FILE",
    "PRUNED_FILE",
    "FORMAT",
    "read_run_file",
    "read_env",
    "code_of_start",
    # the experiment
    "flat_config",
    "saved_config",
    "built_values",
    "changed_values",
    "changed_options",
    "changed_lines",
    "as_line",
]

__getattr__, __dir__ = late_names(__name__)
