"""A language model of transformers, made from its config class and trained from scratch on Shakespeare's bytes."""

from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from lazyengine.config import LazyCall as L
from lazyengine.config import ref
from lazyengine.dataset import DataLoader, InfiniteSampler
from lazyengine.evaluator import Evaluator, MeanLoss, Perplexity
from lazyengine.model import LossAdapter
from lazyengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR, param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner, ValLoop

from ..common.runtime_config import default_hooks
from ..shakespeare.text import URL
from .text import Speeches, loss_of_each, pad
from .writing import WriteTextHook

dataset = L(Speeches)(file=URL, split="train", context=128, capitals=False)
val_dataset = L(Speeches)(
    file=ref("dataset.file"), split="val", context=ref("dataset.context"), capitals=ref("dataset.capitals")
)

llama = L(LlamaConfig)(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=ref("dataset.context"),
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
)
model = L(LossAdapter)(network=L(LlamaForCausalLM)(config=llama), predict_fn=loss_of_each)

optimizer = L(AdamW)(
    params=L(param_groups)(model=model, norm_decay_mult=0.0), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1
)
# Two batches of 8 pieces are a step; every byte of both weighs alike, however long the pieces are.
optim_wrapper = L(AmpOptimWrapper)(
    optimizer=optimizer, dtype="bfloat16", accumulative_counts=2, clip_grad=dict(max_norm=1.0)
)
warmup = L(LinearLR)(optimizer=optimizer, start_factor=0.01, end=50, by_epoch=False)  # counts steps
decay = L(CosineAnnealingLR)(optimizer=optimizer, begin=50, eta_min=3e-4, by_epoch=False)

train_loop = L(IterBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=dataset, batch_size=8, collate_fn=pad, sampler=L(InfiniteSampler)(dataset=dataset, shuffle=True)
    ),
    max_iters=1600,
    val_interval=400,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=val_dataset, batch_size=32, collate_fn=pad),
    evaluator=L(Evaluator)(metrics=[L(MeanLoss)(weight_key="num"), L(Perplexity)(weight_key="num")]),
)

default_hooks["logger"].interval = 100
default_hooks["checkpoint"].interval = 400
default_hooks["checkpoint"].by_epoch = False
default_hooks["checkpoint"].save_best = "loss"
default_hooks["write_text"] = L(WriteTextHook)(prompt="KING")

runner = L(Runner)(
    model=model,
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=optim_wrapper,
    param_schedulers=[warmup, decay],
    hooks=default_hooks,
)
