"""How the layers of torch.nn spell the operators of the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from fxprune.torch.frontend.spellings import RANKS


@dataclass(frozen=True, slots=True)
class ModuleSpelling:
    """How a module is written: its operands after the input, and attributes that are sizes.

    `sizes` gives names of the pattern their size from an attribute; `slots` says which attribute
    holds the size of which names, so that folding can rewrite it.
    """

    op: str
    parameters: str = ""
    sizes: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    slots: Mapping[str, str] = field(default_factory=dict)


_CHANNELWISE = ModuleSpelling("channelwise")


_NORM_PARAMETERS = "running_mean running_var weight bias"


_CONV_MODULE = ModuleSpelling(
    "conv",
    "weight bias",
    {"g": lambda module: int(module.groups)},
    {"groups": "g", "in_channels": "g i", "out_channels": "g o"},
)


_CONV_TRANSPOSE_MODULE = ModuleSpelling(
    "conv_transpose", "weight bias", _CONV_MODULE.sizes, _CONV_MODULE.slots
)


_FACTOR = {
    name: lambda module: int(getattr(module, "upscale_factor", 0) or module.downscale_factor)
    for name in ("r", "s")
}


_SPATIAL_MODULES = """
    MaxPool AdaptiveMaxPool LPPool
    ZeroPad ConstantPad CircularPad ReflectionPad ReplicationPad
"""


_ACTIVATION_MODULES = """
    ReLU ReLU6 Hardtanh ELU SELU CELU LeakyReLU GELU SiLU Mish Hardswish Hardsigmoid Sigmoid Tanh
    Softplus LogSigmoid Softsign Hardshrink Softshrink Tanhshrink Threshold RReLU
    AlphaDropout FeatureAlphaDropout
"""


MODULES: Mapping[type, ModuleSpelling] = MappingProxyType(
    {
        nn.Conv1d: _CONV_MODULE,
        nn.Conv2d: _CONV_MODULE,
        nn.Conv3d: _CONV_MODULE,
        nn.ConvTranspose1d: _CONV_TRANSPOSE_MODULE,
        nn.ConvTranspose2d: _CONV_TRANSPOSE_MODULE,
        nn.ConvTranspose3d: _CONV_TRANSPOSE_MODULE,
        nn.Linear: ModuleSpelling(
            "linear", "weight bias", slots={"in_features": "i", "out_features": "o"}
        ),
        nn.modules.batchnorm._BatchNorm: ModuleSpelling(
            "batch_norm", _NORM_PARAMETERS, slots={"num_features": "c"}
        ),
        nn.modules.instancenorm._InstanceNorm: ModuleSpelling(
            "instance_norm", _NORM_PARAMETERS, slots={"num_features": "c"}
        ),
        nn.LayerNorm: ModuleSpelling(
            "layer_norm",
            "weight bias",
            {"*c": lambda module: len(module.normalized_shape)},
            {"normalized_shape": "*c"},
        ),
        nn.RMSNorm: ModuleSpelling(
            "rms_norm",
            "weight",
            {"*c": lambda module: len(module.normalized_shape)},
            {"normalized_shape": "*c"},
        ),
        nn.GroupNorm: ModuleSpelling(
            "group_norm",
            "weight bias",
            {"g": lambda module: int(module.num_groups)},
            {"num_groups": "g", "num_channels": "g c"},
        ),
        nn.PReLU: ModuleSpelling("prelu", "weight"),
        nn.Embedding: ModuleSpelling("embedding", "weight", slots={"embedding_dim": "c"}),
        nn.PixelShuffle: ModuleSpelling("pixel_shuffle", sizes=_FACTOR),
        nn.PixelUnshuffle: ModuleSpelling("pixel_unshuffle", sizes=_FACTOR),
        **{
            getattr(nn, f"{kind}{rank}d"): _CHANNELWISE
            for kind in _SPATIAL_MODULES.split()
            for rank in RANKS
        },
        **{getattr(nn, f"AvgPool{rank}d"): ModuleSpelling("average_pool") for rank in RANKS},
        **{
            getattr(nn, f"AdaptiveAvgPool{rank}d"): ModuleSpelling("adaptive_average_pool")
            for rank in RANKS
        },
        nn.Upsample: _CHANNELWISE,
        **{
            getattr(nn, name): ModuleSpelling("elementwise") for name in _ACTIVATION_MODULES.split()
        },
        nn.modules.dropout._DropoutNd: ModuleSpelling("identity"),
        nn.Identity: ModuleSpelling("identity"),
        nn.Flatten: ModuleSpelling("reshape"),
    }
)
"""Modules by torch.nn class; subclasses follow their base."""


def module_spelling(cls: type | None) -> ModuleSpelling | None:
    """The spelling of a module class or of its nearest base."""
    for base in cls.__mro__ if cls else ():
        if base in MODULES:
            return MODULES[base]
    return None
