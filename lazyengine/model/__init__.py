"""Models: training steps, data preprocessing, weight initialization, setup for training, averaged weights."""

from .activation_checkpointing import checkpoint_activations
from .averaged_model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from .base_model import BaseModel
from .base_module import BaseModule, ModuleDict, ModuleList, Sequential, init_weights
from .data_preprocessor import BaseDataPreprocessor, ImgDataPreprocessor, move_data, stack_batch
from .freezing import freeze_parameters
from .initializers import (
    BaseInit,
    Caffe2XavierInit,
    ConstantInit,
    KaimingInit,
    NormalInit,
    PretrainedInit,
    TruncNormalInit,
    UniformInit,
    XavierInit,
)
from .loss_adapter import LossAdapter
from .model_setup import Compile, ModelSetup, materialize
from .step import parse_losses, run_forward, test_step, train_step, val_step
from .sync_bn import convert_sync_batchnorm, revert_sync_batchnorm
from .unused_parameters import detect_anomalous_params, find_unused_parameters
from .weight_init import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from .wrappers import DDP, FSDP2, unwrap

__all__ = [
    "DDP",
    "FSDP2",
    "BaseAveragedModel",
    "BaseDataPreprocessor",
    "BaseInit",
    "BaseModel",
    "BaseModule",
    "Caffe2XavierInit",
    "Compile",
    "ConstantInit",
    "ExponentialMovingAverage",
    "ImgDataPreprocessor",
    "KaimingInit",
    "LossAdapter",
    "ModelSetup",
    "ModuleDict",
    "ModuleList",
    "MomentumAnnealingEMA",
    "NormalInit",
    "PretrainedInit",
    "Sequential",
    "StochasticWeightAverage",
    "TruncNormalInit",
    "UniformInit",
    "XavierInit",
    "bias_init_with_prob",
    "caffe2_xavier_init",
    "checkpoint_activations",
    "constant_init",
    "convert_sync_batchnorm",
    "detect_anomalous_params",
    "find_unused_parameters",
    "freeze_parameters",
    "init_weights",
    "kaiming_init",
    "materialize",
    "move_data",
    "normal_init",
    "parse_losses",
    "revert_sync_batchnorm",
    "run_forward",
    "stack_batch",
    "test_step",
    "train_step",
    "trunc_normal_init",
    "uniform_init",
    "unwrap",
    "val_step",
    "xavier_init",
]
