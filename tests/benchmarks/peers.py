"""Other engines doing the same work as `training.lazyengine`, each as its own documentation says."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .training import BATCH_SIZE, make_optimizer

ENGINES = ("mmengine", "lightning", "ignite")


def _loader(data: Any) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(data, BATCH_SIZE, shuffle=True)


def mmengine(n: int, interval: int, net: nn.Module, data: Any, folder: str) -> None:
    """Epoch-based, every default hook on, local backend."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class WithLoss(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any, y: Any, mode: str = "tensor") -> Any:
            scores = self.net(x)
            return {"loss": F.cross_entropy(scores, y)} if mode == "loss" else scores

    loader = dict(batch_size=BATCH_SIZE, num_workers=0, dataset=data)
    loader |= dict(sampler=dict(type="DefaultSampler", shuffle=True), collate_fn=dict(type="default_collate"))
    Runner(
        WithLoss(),
        work_dir=folder,
        experiment_name=f"benchmark_{time.time_ns()}",
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(type="OptimWrapper", optimizer=make_optimizer(net)),
        param_scheduler=dict(type="MultiStepLR", by_epoch=False, milestones=[n * 2 // 3]),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=interval)),
    ).train()


def lightning(n: int, interval: int, net: nn.Module, data: Any, folder: str) -> None:
    """One epoch with TensorBoard; progress bar off."""
    from lightning import LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = make_optimizer(self)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [n * 2 // 3])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=TensorBoardLogger(folder),
        log_every_n_steps=interval,
        enable_progress_bar=False,
        default_root_dir=folder,
    ).fit(Module(), _loader(data))


def ignite(n: int, interval: int, net: nn.Module, data: Any, folder: str) -> None:
    """A supervised trainer with a running loss, a schedule, a text log and TensorBoard."""
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import LRScheduler, TensorboardLogger
    from ignite.metrics import RunningAverage

    logger = logging.getLogger(folder)
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(f"{folder}/log.txt"))
    optimizer = make_optimizer(net)
    trainer = create_supervised_trainer(net, optimizer, F.cross_entropy)
    RunningAverage(output_transform=float).attach(trainer, "loss")
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [n * 2 // 3])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, LRScheduler(schedule))
    due = Events.ITERATION_COMPLETED(every=interval)
    trainer.add_event_handler(due, lambda engine: logger.info("%d %s", engine.state.iteration, engine.state.metrics))
    with TensorboardLogger(log_dir=folder) as curves:
        curves.attach_output_handler(trainer, due, tag="train", metric_names="all")
        curves.attach_opt_params_handler(trainer, due, optimizer, param_name="lr")
        trainer.run(_loader(data), 1)
