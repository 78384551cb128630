"""Train a tiny model with mmengine 0.10.7 and keep two of its checkpoints. Run it where mmengine is.

``plain_4.pth`` is the whole checkpoint after four epochs of one batch, ``plain_5.pth`` the weights one step later;
``groups_*.pth`` the same with options for single parameters (a group for each of them, as mmengine makes them).
"""

import shutil
import tempfile
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

FOLDER = Path(__file__).parent
X = torch.arange(24, dtype=torch.float32).reshape(6, 4) / 10 - 1
Y = torch.tensor([0, 1, 0, 1, 1, 0])


class Net(BaseModel):
    """Two layers and a norm layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x, y, mode="tensor"):
        """Return the loss."""
        return {"loss": nn.functional.cross_entropy(self.head(self.backbone(x)), y)}


def train(name: str, paramwise_cfg: dict | None) -> None:
    """Train five steps and keep the checkpoints."""
    work_dir = tempfile.mkdtemp()
    data = [dict(x=x, y=y) for x, y in zip(X, Y)]
    Runner(
        Net(),
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=data, batch_size=6, sampler=dict(type="DefaultSampler", shuffle=False), collate_fn=torch_collate
        ),
        train_cfg=dict(by_epoch=True, max_epochs=5),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.05),
            clip_grad=dict(max_norm=0.5),
            paramwise_cfg=paramwise_cfg,
        ),
        param_scheduler=dict(type="LinearLR", start_factor=0.5, end=8),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        experiment_name=name,
    ).train()
    shutil.copy(Path(work_dir) / "epoch_4.pth", FOLDER / f"{name}_4.pth")
    last = torch.load(Path(work_dir) / "epoch_5.pth", weights_only=False)
    torch.save({"state_dict": last["state_dict"]}, FOLDER / f"{name}_5.pth")


def torch_collate(samples: list[dict]) -> dict:
    """Stack the samples."""
    return torch.utils.data.default_collate(samples)


if __name__ == "__main__":
    train("plain", None)
    train("groups", dict(custom_keys={"backbone": dict(lr_mult=0.1)}, norm_decay_mult=0.0))
