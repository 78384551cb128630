"""Checkpoints for the comparison of saving times: ``FUNCTION(model, optimizer, folder) -> save`` as its script asks.

``save()`` does what blocks the loop and returns None, or what waits for the part in the background.
"""

import os

from lazyengine.checkpoint import CheckpointWriter, get_state_dict


def _saver(model, optimizer, folder, async_save):
    os.makedirs(folder, exist_ok=True)
    writer = CheckpointWriter(async_save=async_save)
    path = os.path.join(folder, "last.pth")

    def save():
        writer.save({"state_dict": get_state_dict(model), "optimizer": optimizer.state_dict()}, path)
        return writer.wait if async_save else None

    return save


def synchronous(model, optimizer, folder):
    return _saver(model, optimizer, folder, async_save=False)


def asynchronous(model, optimizer, folder):
    return _saver(model, optimizer, folder, async_save=True)
