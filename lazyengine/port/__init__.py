"""Move projects of mmengine, detectron2, Hydra and LightningCLI to lazyengine; see README.md beside this file."""

from .errors import PortError, Todo
from .prove import Proof, prove
from .tree import Ported, port_path

__all__ = ["PortError", "Ported", "Proof", "Todo", "port_path", "prove"]
