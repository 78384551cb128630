"""Fine-tuning on 50 images: a pretrained backbone, partly frozen, in bfloat16; a float32 head."""

from torch.optim import AdamW
from transformers import ViTModel

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import Accuracy, Evaluator
from lazyengine.model import BaseDataPreprocessor, ModelSetup
from lazyengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR, param_groups
from lazyengine.runner import EpochBasedTrainLoop, LoadFrom, Runner, ValLoop

from ..common.runtime_config import default_hooks
from ..digits.digits import Digits, RandomAffine
from .pretrain_config import vit
from .vit import Classifier, few

model = L(Classifier)(
    backbone=L(ViTModel)(config=vit, add_pooling_layer=False),
    num_classes=10,
    data_preprocessor=L(BaseDataPreprocessor)(),
)
# The head learns at the full rate, each layer below it at 0.75 of the one above.
optimizer = L(AdamW)(
    params=L(param_groups)(model=model, layer_decay=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0),
    lr=2e-3,
    weight_decay=0.05,
)

train_dataset = L(few)(dataset=L(Digits)(split="train", pipeline=[L(RandomAffine)()]), num_each=5)
test_dataset = L(Digits)(split="test")
train_loop = L(EpochBasedTrainLoop)(
    dataloader=L(DataLoader)(
        dataset=train_dataset, batch_size=25, sampler=L(DefaultSampler)(dataset=train_dataset, shuffle=True)
    ),
    max_epochs=60,
    val_interval=10,
)
val_loop = L(ValLoop)(
    dataloader=L(DataLoader)(dataset=test_dataset, batch_size=360),
    evaluator=L(Evaluator)(metrics=[L(Accuracy)()]),
)

default_hooks["logger"].interval = 2
default_hooks["checkpoint"].interval = 10

runner = L(Runner)(
    model=model,
    # In the checkpoint the backbone is `network.vit`; its classifier finds no place here, and the log says so.
    load_from=L(LoadFrom)(
        path="work_dirs/finetune_pretrain_config/epoch_40.pth", revise_keys=[(r"^network\.vit\.", "backbone.")]
    ),
    model_setup=L(ModelSetup)(freeze=["backbone.embeddings", "backbone.*layer*.0"]),
    train_loop=train_loop,
    val_loop=val_loop,
    optim_wrapper=L(AmpOptimWrapper)(
        optimizer=optimizer, dtype="bfloat16", amp_modules=["backbone"], clip_grad=dict(max_norm=1.0)
    ),
    param_schedulers=[
        L(LinearLR)(optimizer=optimizer, start_factor=0.1, end=15, by_epoch=False),
        L(CosineAnnealingLR)(optimizer=optimizer, begin=15, by_epoch=False),
    ],
    hooks=default_hooks,
)
