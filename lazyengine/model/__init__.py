"""Models: training steps, data preprocessing, weight initialization, setup for training, averaged weights."""

from ..checkpoint import unwrap_module as unwrap
from .averaged_model import BaseAveragedModel, ExponentialMovingAverage, MomentumAnnealingEMA, StochasticWeightAverage
from .base_model import BaseModel, LossAdapter
from .base_module import BaseModule, ModuleDict, ModuleList, Sequential, init_weights
from .conversion import checkpoint_activations, convert_sync_batchnorm, revert_sync_batchnorm
from .data_preprocessor import BaseDataPreprocessor, ImgDataPreprocessor, move_data, stack_batch
from .external import ExternalModule, external_tensors
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
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from .model_setup import Compile, ModelSetup, materialize
from .modes import evaluating, freeze_parameters, named_parameters, set_training, unfreeze_parameters
from .step import parse_losses, run_forward, test_step, train_step, val_step
from .weighted import Weighted
from .wrappers import DDP, FSDP2, detect_anomalous_params

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
    "ExternalModule",
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
    "Weighted",
    "XavierInit",
    "bias_init_with_prob",
    "caffe2_xavier_init",
    "checkpoint_activations",
    "constant_init",
    "convert_sync_batchnorm",
    "detect_anomalous_params",
    "evaluating",
    "external_tensors",
    "freeze_parameters",
    "init_weights",
    "kaiming_init",
    "materialize",
    "move_data",
    "named_parameters",
    "normal_init",
    "parse_losses",
    "revert_sync_batchnorm",
    "run_forward",
    "set_training",
    "stack_batch",
    "test_step",
    "train_step",
    "trunc_normal_init",
    "unfreeze_parameters",
    "uniform_init",
    "unwrap",
    "val_step",
    "xavier_init",
]
