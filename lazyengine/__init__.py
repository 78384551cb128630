"""lazyengine: a PyTorch training engine whose experiments are Python files.

Import what you need from the subpackages; this module imports none of them, so that
``import lazyengine.config`` stays free of torch.
"""

__version__ = "0.2.0"
