"""Adapters of peft in the trained model, which stays as it is: the same plays in capital letters."""

from peft import LoraConfig, get_peft_model

from lazyengine.config import LazyCall as L
from lazyengine.runner import LoadFrom

from .config import *

dataset.capitals = True
adapters = L(LoraConfig)(
    r=8,
    lora_alpha=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    task_type="CAUSAL_LM",
)
model.network = L(get_peft_model)(model=model.network, peft_config=adapters)
optimizer.weight_decay = 0.0
train_loop.max_iters = 400
train_loop.val_interval = 100
train_loop.val_begin = 0  # what the model makes of the changed text without adapters
default_hooks["checkpoint"].interval = 100

# In the file the layers have the names that they had before peft put them in its own.
runner.load_from = L(LoadFrom)(
    path="work_dirs/lm_finetune/iter_1600.pth",
    revise_keys=[(r"^network\.", "network.base_model.model."), (r"(_proj)\.weight$", r"\1.base_layer.weight")],
)
runner.save = "trained"  # the adapters: 0.6 MB with their optimizer, not 5.3
