"""The digits, with a rank that fails or hangs: override ``fault.rank``, ``fault.iteration``, ``fault.kind``."""

from lazyengine.config import LazyCall as L
from projects.digits.config import *  # noqa: F403
from tests.distributed.fault import FaultHook

fault = L(FaultHook)()
default_hooks["fault"] = fault  # noqa: F405
