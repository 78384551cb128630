"""A name for those who port configs."""

from __future__ import annotations

from .hook import Hook


class DistSamplerSeedHook(Hook):
    """Do nothing: the train loop tells loader, samplers and dataset which epoch it is, with or without this hook."""
