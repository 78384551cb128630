"""The error of this package."""


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, is not one, holds what may not be loaded, or cannot be saved as plain data."""
