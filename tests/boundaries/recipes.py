"""Recipes of today at small size, as configs have them; `build` makes the runner of one by its name.

Each draws in its data and its model, trains for 12 iterations, and saves every second.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import IterableDataset

from lazyengine.config import LazyCall as L
from lazyengine.config import instantiate
from lazyengine.dataset import DataLoader, DefaultSampler, default_collate
from lazyengine.evaluator import Accuracy, MeanLoss, Perplexity
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, UnfreezeHook, default_hooks
from lazyengine.model import BaseModel, ExternalModule, LossAdapter, ModelSetup
from lazyengine.optim import (
    AmpOptimWrapper,
    CosineAnnealingLR,
    LinearLR,
    OptimWrapper,
    OptimWrapperDict,
    SAMOptimWrapper,
    TorchScheduler,
    param_groups,
)
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop
from projects.detection.average_precision import AveragePrecision
from projects.detection.detector import Detector
from projects.detection.shapes import RandomFlip, Shapes

with contextlib.suppress(ImportError):  # the tests of what needs an extra are skipped without it
    import optuna
    from optuna.trial import TrialState

    FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
with contextlib.suppress(ImportError):
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers import get_cosine_schedule_with_warmup as cosine_with_warmup

SIZE, BATCH, EPOCHS = 24, 4, 2
NUM_ITERS = SIZE // BATCH * EPOCHS


class Data(torch.utils.data.Dataset[Any]):
    """A function of the index as a dataset."""

    def __init__(self, sample: Callable[[int], Any], size: int = SIZE) -> None:
        self.sample, self.size = sample, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.sample(index)


def adamw(model: Any, wrapper: Any = OptimWrapper, lr: float = 0.01, **options: Any) -> Any:
    """Return the node of a wrapper around AdamW."""
    groups = L(param_groups)(model=model)
    return L(wrapper)(optimizer=L(torch.optim.AdamW)(params=groups, lr=lr), **options)


def warmup_and_cosine(optim_wrapper: Any) -> list[Any]:
    """Return the nodes of a warm-up over four steps and a cosine."""
    optimizer = optim_wrapper.optimizer
    return [
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=4, by_epoch=False),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=4, by_epoch=False),
    ]


# ------------------------------------------------------------------ language models
def sentence(index: int) -> dict[str, Tensor]:
    """Return 12 tokens of an arithmetic sequence, of which a number that is drawn counts."""
    tokens = (torch.arange(12) * (index % 5 + 1) + index) % 32
    length = random.randint(4, 12)
    return {"input_ids": tokens, "labels": tokens.masked_fill(torch.arange(12) >= length, -100)}


def causal_lm() -> dict[str, Any]:
    """A language model of transformers: dropout, bfloat16, accumulation, tokens that weigh alike, its own schedule."""
    config = L(GPT2Config)(vocab_size=32, n_positions=12, n_embd=16, n_layer=1, n_head=2)
    model = L(LossAdapter)(network=L(GPT2LMHeadModel)(config=config), predict_loss=True)
    optim_wrapper = adamw(model, AmpOptimWrapper, dtype="bfloat16", accumulative_counts=2, clip_grad={"max_norm": 1.0})
    schedule = L(TorchScheduler)(
        optimizer=optim_wrapper.optimizer, make=cosine_with_warmup, by="step", num_warmup_steps=2, num_training_steps=6
    )
    return dict(
        model=model, data=sentence, optim_wrapper=optim_wrapper, param_schedulers=[schedule], metric=L(Perplexity)()
    )


def lora() -> dict[str, Any]:
    """Adapters of peft in a frozen Llama, of which the checkpoints hold the adapters alone."""
    config = L(LlamaConfig)(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    adapters = L(LoraConfig)(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.2, task_type="CAUSAL_LM")
    network = L(get_peft_model)(model=L(LlamaForCausalLM)(config=config), peft_config=adapters)
    model = L(LossAdapter)(network=network, predict_loss=True)
    optim_wrapper = adamw(model)
    return dict(
        model=model,
        data=sentence,
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        metric=L(MeanLoss)(),
        save="trained",
    )


# ------------------------------------------------------------------ images
def picture(index: int) -> tuple[Tensor, int]:
    """Return a wave `(3, 8, 8)`, moved and with a part erased at random, and its direction, which is the class."""
    label, places = index % 4, torch.arange(8.0) + random.random()
    angle = label * math.pi / 4
    wave = torch.sin(places[:, None] * math.cos(angle) + places * math.sin(angle) + index)
    image = wave * torch.tensor([1.0, 0.5, -1.0])[:, None, None]
    top, left = np.random.randint(0, 6, 2)
    image[:, top : top + 3, left : left + 3] = torch.randn(3, 1, 1)
    return image, label


class Mixup:
    """Mixes each image of a batch with another one, and their labels (Zhang et al. 2018, arXiv:1710.09412)."""

    def __init__(self, num_classes: int, alpha: float = 0.8, smoothing: float = 0.1) -> None:
        self.num_classes, self.alpha, self.smoothing = num_classes, alpha, smoothing
        self.rng = np.random.default_rng()

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        images, labels = default_collate(samples)
        targets = F.one_hot(labels, self.num_classes) * (1 - self.smoothing) + self.smoothing / self.num_classes
        share = float(self.rng.beta(self.alpha, self.alpha))
        return share * images + (1 - share) * images.flip(0), share * targets + (1 - share) * targets.flip(0)


class DropPath(nn.Module):
    """Leaves out the branch of a sample at random."""

    def __init__(self, branch: nn.Module, probability: float) -> None:
        super().__init__()
        self.branch, self.probability = branch, probability

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.training:
            out = out * (torch.rand(len(x), 1, 1, 1) >= self.probability) / (1 - self.probability)
        return x + out


def resnet(num_outputs: int = 4, width: int = 8) -> nn.Module:
    """Return a residual network of two blocks with stochastic depth."""

    def block() -> nn.Module:
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        return DropPath(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()), 0.2)

    stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
    return nn.Sequential(stem, block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_outputs))


def classification() -> dict[str, Any]:
    """As timm trains: mixup with soft labels, random erasing, stochastic depth, averaged weights."""
    model = L(LossAdapter)(network=L(resnet)(), loss_fn=nn.CrossEntropyLoss())
    optim_wrapper = adamw(model, clip_grad={"max_norm": 1.0})
    return dict(
        model=model,
        data=picture,
        collate_fn=L(Mixup)(num_classes=4),
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        hooks={"ema": L(EMAHook)(momentum=0.2, update_bn=True)},
        metric=L(Accuracy)(),
    )


class DDPM(BaseModel):
    """Learns the noise in an image of a random step of a diffusion (Ho et al. 2020, arXiv:2006.11239)."""

    def __init__(self, network: nn.Module, num_steps: int = 10) -> None:
        super().__init__()
        self.network, self.num_steps = network, num_steps
        kept = (1 - torch.linspace(1e-3, 0.3, num_steps)).cumprod(0)
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, image: Tensor, label: Tensor, mode: str = "tensor") -> Any:
        step = torch.randint(self.num_steps, (len(image),))
        kept, noise = self.kept[step][:, None, None, None], torch.randn_like(image)
        noisy = kept.sqrt() * image + (1 - kept).sqrt() * noise
        time = (step / self.num_steps)[:, None, None, None].expand(-1, 1, *image.shape[2:])
        error = (self.network(torch.cat([noisy, time], 1)) - noise).square()
        return {"loss": error.mean()} if mode == "loss" else {"loss": error.mean((1, 2, 3))}


def ddpm() -> dict[str, Any]:
    """A diffusion model: noise and steps are drawn inside the model, in validation too; averaged weights."""
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)]
    model = L(DDPM)(network=nn.Sequential(*layers))
    optim_wrapper = adamw(model)
    return dict(
        model=model,
        data=picture,
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        hooks={"ema": L(EMAHook)(momentum=0.1)},
        metric=L(MeanLoss)(),
    )


class Student(BaseModel):
    """Learns from labels and from what a teacher, which is no part of it, makes of the same image."""

    def __init__(self, network: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.network, self.teacher = network, ExternalModule(teacher)

    def forward(self, image: Tensor, label: Tensor, mode: str = "tensor") -> Any:
        scores = self.network(image)
        if mode != "loss":
            return {"scores": scores, "label": label}
        with torch.no_grad():
            target = (self.teacher(image) / 2).softmax(1)
        distilled = F.kl_div((scores / 2).log_softmax(1), target, reduction="batchmean")
        return {"loss_label": F.cross_entropy(scores, label), "loss_teacher": 4 * distilled}


def distillation() -> dict[str, Any]:
    """A small network and a teacher that is wider."""
    model = L(Student)(network=L(resnet)(), teacher=L(resnet)(width=16))
    optim_wrapper = adamw(model)
    schedule = warmup_and_cosine(optim_wrapper)
    return dict(model=model, data=picture, optim_wrapper=optim_wrapper, param_schedulers=schedule, metric=L(Accuracy)())


def detection() -> dict[str, Any]:
    """Batches that are lists of dicts, images of several sizes, losses by the number of objects."""
    model = L(Detector)(width=8, num_layers=1)
    optim_wrapper = adamw(model, clip_grad={"max_norm": 10.0})
    return dict(
        model=model,
        data=Shapes(pipeline=[RandomFlip()]).__getitem__,
        collate_fn=list,
        val_collate_fn=list,
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        metric=L(AveragePrecision)(),
    )


# ------------------------------------------------------------------ two views, two networks, two optimizers
class SimCLR(BaseModel):
    """Pulls two views of an image together and all others apart (Chen et al. 2020, arXiv:2002.05709)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: list[Tensor], mode: str = "tensor") -> Any:
        found = [F.normalize(self.network(view)) for view in views]
        if mode != "loss":
            return {"loss": 1 - (found[0] * found[1]).sum(1)}
        others = [of_all_ranks(each) for each in found]
        own = torch.arange(len(found[0])) + distributed.get_rank() * len(found[0])
        losses = [F.cross_entropy(found[i] @ others[1 - i].T / 0.5, own) for i in (0, 1)]
        return {"loss": sum(losses) / 2}


def of_all_ranks(own: Tensor) -> Tensor:
    """Return what all ranks have; gradients go through this rank's."""
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own.detach())
    parts[distributed.get_rank()] = own
    return torch.cat(parts)


def two_views(index: int) -> dict[str, Any]:
    return {"views": [picture(index)[0], picture(index)[0]]}


def simclr() -> dict[str, Any]:
    """Contrastive learning with the negatives of all ranks, of which there are two."""
    model = L(SimCLR)(network=L(resnet)(num_outputs=8))
    optim_wrapper = adamw(model)
    return dict(
        model=model,
        data=two_views,
        size=2 * SIZE,
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        metric=L(MeanLoss)(),
    )


class Gan(BaseModel):
    """Hinge loss and spectral norm (Miyato et al. 2018, arXiv:1802.05957); the generator steps every second time."""

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, label: Tensor, mode: str = "tensor") -> Any:
        return {"loss": self.critic(self.generator(torch.randn(len(image), 8))).squeeze(1)}

    def train_step(self, data: Any, optim_wrapper: Any, forward: Any = None) -> dict[str, Any]:
        image, _ = data
        drawn = self.generator(torch.randn(len(image), 8))
        real, fake = self.critic(image), self.critic(drawn.detach())
        loss_critic = (1 - real).relu().mean() + (1 + fake).relu().mean()
        optim_wrapper["critic"].update_params(loss_critic)
        log = {"loss_critic": loss_critic.detach()}
        self.num_calls += 1
        if self.num_calls % 2 == 0:
            self.critic.requires_grad_(False)
            loss_generator = -self.critic(drawn).mean()
            optim_wrapper["generator"].update_params(loss_generator)
            self.critic.requires_grad_(True)
            log["loss_generator"] = loss_generator.detach()
        return log


def gan() -> dict[str, Any]:
    """Two networks with a loss, an optimizer and a schedule each; averaged weights."""
    generator = L(nn.Sequential)(
        L(nn.Linear)(8, 32), L(nn.BatchNorm1d)(32), L(nn.ReLU)(), L(nn.Linear)(32, 192), L(nn.Unflatten)(1, (3, 8, 8))
    )
    critic = L(nn.Sequential)(
        L(nn.Flatten)(),
        L(spectral_norm)(L(nn.Linear)(192, 16)),
        L(nn.LeakyReLU)(),
        L(nn.Dropout)(),
        L(nn.Linear)(16, 1),
    )
    optim_wrapper = L(OptimWrapperDict)(critic=adamw(critic, lr=0.004), generator=adamw(generator, lr=0.001))
    return dict(
        model=L(Gan)(generator=generator, critic=critic),
        data=picture,
        optim_wrapper=optim_wrapper,
        param_schedulers={name: warmup_and_cosine(getattr(optim_wrapper, name)) for name in ("critic", "generator")},
        hooks={"ema": L(EMAHook)(momentum=0.2)},
        metric=L(MeanLoss)(),
    )


def sam() -> dict[str, Any]:
    """Sharpness-aware minimization, which runs the model twice for a step; on two ranks."""
    model = L(LossAdapter)(network=L(resnet)(), loss_fn=nn.CrossEntropyLoss())
    return dict(
        model=model, data=picture, size=2 * SIZE, optim_wrapper=adamw(model, SAMOptimWrapper), metric=L(Accuracy)()
    )


def unfreezing() -> dict[str, Any]:
    """A stem that trains from the second epoch on, at a lower rate; on two ranks."""
    model = L(LossAdapter)(network=L(resnet)(), loss_fn=nn.CrossEntropyLoss())
    optim_wrapper = adamw(model)
    return dict(
        model=model,
        data=picture,
        size=2 * SIZE,
        optim_wrapper=optim_wrapper,
        param_schedulers=warmup_and_cosine(optim_wrapper),
        hooks={"unfreeze": L(UnfreezeHook)(at=1, patterns=["network.0", "network.1"], lr_mult=0.3)},
        model_setup=ModelSetup(freeze=["network.0", "network.1"]),
        metric=L(Accuracy)(),
    )


def parameters(model: nn.Module, are_matrices: bool) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if (parameter.dim() == 2) is are_matrices]


def muon() -> dict[str, Any]:
    """One loss and two optimizers: Muon for matrices, AdamW for the rest."""
    layers = L(nn.Sequential)(
        L(nn.Flatten)(), L(nn.Linear)(192, 16), L(nn.LayerNorm)(16), L(nn.Dropout)(0.2), L(nn.Linear)(16, 4)
    )
    model = L(LossAdapter)(network=layers, loss_fn=nn.CrossEntropyLoss())
    clip = {"max_norm": 1.0}
    matrices = L(torch.optim.Muon)(params=L(parameters)(model, True), lr=0.02)
    rest = L(torch.optim.AdamW)(params=L(parameters)(model, False), lr=0.01)
    optim_wrapper = L(OptimWrapperDict)(
        muon=L(OptimWrapper)(optimizer=matrices, clip_grad=clip),
        adamw=L(OptimWrapper)(optimizer=rest, clip_grad=clip),
    )
    return dict(
        model=model,
        data=picture,
        optim_wrapper=optim_wrapper,
        param_schedulers={name: warmup_and_cosine(getattr(optim_wrapper, name)) for name in ("muon", "adamw")},
        metric=L(Accuracy)(),
    )


# ------------------------------------------------------------------ a run of any
RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    recipe.__name__: recipe
    for recipe in (causal_lm, lora, classification, ddpm, distillation, detection, simclr, gan, muon, sam, unfreezing)
}


def build(
    work_dir: str,
    *,
    recipe: str,
    num_workers: int = 0,
    hooks: dict[str, Hook] | None = None,
    lr: float | None = None,
    **options: Any,
) -> Any:
    """Build the runner of a recipe or over a stream, or the study of trials with another rate each."""
    if recipe == "study":
        return Study(work_dir, hooks or {})
    if recipe == "stream":
        return stream(work_dir, num_workers, hooks=hooks or {}, **options)
    torch.manual_seed(0)
    parts = RECIPES[recipe]()
    if lr is not None:
        parts["optim_wrapper"].optimizer.lr = lr
    sample, collate_fn = parts.pop("data"), parts.pop("collate_fn", default_collate)
    val_collate_fn = parts.pop("val_collate_fn", default_collate)
    data = Data(sample, parts.pop("size", SIZE))
    named: dict[str, Any] = {**default_hooks(), **parts.pop("hooks", {}), **(hooks or {})}
    named.pop("progress_bar")
    named["checkpoint"] = CheckpointHook(interval=2, by_epoch=False, max_keep_ckpts=2, save_best="auto")
    loader = L(DataLoader)(
        dataset=data,
        batch_size=BATCH,
        sampler=L(DefaultSampler)(data, shuffle=True),
        collate_fn=collate_fn,
        num_workers=num_workers,
        multiprocessing_context="fork",
    )
    runner = L(Runner)(
        train_loop=L(EpochBasedTrainLoop)(loader, EPOCHS),
        val_loop=L(ValLoop)(
            L(DataLoader)(dataset=Data(sample, 8), batch_size=BATCH, collate_fn=val_collate_fn), parts.pop("metric")
        ),
        hooks=named,
        model_setup=parts.pop("model_setup", ModelSetup()),
        work_dir=work_dir,
        device="cpu",
        **parts,
        **options,
    )
    return instantiate(runner)


class Shards(IterableDataset[Any]):
    """A stream with shards of unequal lengths; where a sample is moved to is drawn."""

    lengths = (7, 12, 0, 9, 4, 11)
    num_shards = len(lengths)

    def __iter__(self) -> Any:
        for shard in range(self.num_shards):
            yield from self.iter_shard(shard, 0, None)

    def iter_shard(self, shard: int, epoch: int, state: int | None) -> Any:
        for i in range(state or 0, self.lengths[shard]):
            index = sum(self.lengths[:shard]) + i
            yield {"x": torch.randn(4) + random.random() + np.random.rand() + index % 5, "index": index, "epoch": epoch}


class Counting(BaseModel):
    """Counts how often it was trained on each sample in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.register_buffer("times", torch.zeros(10, sum(Shards.lengths), dtype=torch.int64))

    def forward(self, x: Tensor, index: Tensor, epoch: Tensor, mode: str = "tensor") -> Any:
        self.times[epoch, index] += 1
        return {"loss": (self.net(x).squeeze(1) - index / 40).square().mean()}


def stream(work_dir: str, num_workers: int, num_iters: int, hooks: dict[str, Hook], **options: Any) -> Runner:
    """Return a runner over passes of a stream with shards; it saves every third iteration."""
    torch.manual_seed(0)
    model = L(Counting)()
    named = {**default_hooks(), **hooks, "checkpoint": CheckpointHook(interval=3, max_keep_ckpts=2)}
    named.pop("progress_bar")
    loader = L(DataLoader)(dataset=Shards(), batch_size=3, num_workers=num_workers, multiprocessing_context="fork")
    loop = L(IterBasedTrainLoop)(loader, num_iters, val_interval=0)
    parts = {"train_loop": loop, "optim_wrapper": adamw(model), "hooks": named, "device": "cpu"}
    return instantiate(L(Runner)(model=model, work_dir=work_dir, **parts, **options))


class Prune(Hook):
    """Reports each validation to a trial of Optuna, and ends training where the trial is pruned."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        assert metrics is not None
        self.trial.report(metrics["accuracy/top1"], runner.epoch)
        runner.train_loop.stop_training |= self.trial.should_prune()


class Study:
    """Trials one after the other, each with a rate that Optuna draws; it goes on with the trial of a killed process."""

    num_trials = 5

    def __init__(self, work_dir: str, hooks: dict[str, Hook]) -> None:
        self.work_dir, self.hooks = work_dir, hooks

    def train(self) -> None:
        os.makedirs(self.work_dir, exist_ok=True)
        study = self.load()
        for number in range(len(study.get_trials(states=FINISHED)), self.num_trials):
            study.sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=2)  # a function of the trial
            left = study.get_trials(states=(TrialState.RUNNING,))
            trial = optuna.trial.Trial(study, left[0]._trial_id) if left else study.ask()
            rate = trial.suggest_float("lr", 1e-5, 1.0, log=True)
            hooks = {"prune": Prune(trial), **self.hooks}
            folder = os.path.join(self.work_dir, str(number))
            runner = build(folder, recipe="classification", lr=rate, hooks=hooks, resume="auto")
            runner.train()
            if runner.iter < NUM_ITERS:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, runner.message_hub.get_scalar("val/accuracy/top1").current())

    def load(self) -> Any:
        """Return the study as it stands on disk."""
        log = optuna.storages.journal.JournalFileBackend(os.path.join(self.work_dir, "study.log"))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(log),
            study_name="rates",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        )
