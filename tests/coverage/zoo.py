"""The models of the coverage command, by family and name.

timm.json names the smallest model of every module of timm.models, transformers.json describes tiny
configurations.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tests.vision import torchvision

_HERE = Path(__file__).parent
Example = tuple[nn.Module, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """A source of models: `build(name)` makes one and example inputs for it."""

    names: Callable[[], list[str]]
    build: Callable[[str], Example]


def names_of(requested: Iterable[str]) -> list[str]:
    """`family:name` for whole families and single models."""
    found: list[str] = []
    for item in requested:
        family, _, name = item.partition(":")
        found += [item] if name else [f"{family}:{each}" for each in FAMILIES[family].names()]
    return found


def _images(*size: int) -> Tensor:
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


# torchvision ------------------------------------------------------------------------------------

_CLASSIFIERS = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet mnasnet0_5
    mobilenet_v2 mobilenet_v3_small mobilenet_v3_large regnet_x_400mf regnet_y_400mf resnet18
    resnet50 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5 squeezenet1_0 squeezenet1_1 swin_t
    swin_v2_t vgg11 vgg11_bn vit_b_32 maxvit_t
"""
_SEGMENTERS = """
    fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large
"""

TORCHVISION: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(_CLASSIFIERS.split(), (3, 224, 224)),
        "inception_v3": (3, 299, 299),
        **dict.fromkeys(_SEGMENTERS.split(), (3, 64, 64)),
        # video
        **dict.fromkeys(["r3d_18", "mc3_18", "r2plus1d_18"], (3, 8, 64, 64)),
        "s3d": (3, 16, 224, 224),
        "swin3d_t": (3, 8, 64, 64),
        "mvit_v1_b": (3, 16, 224, 224),
        "mvit_v2_s": (3, 16, 224, 224),
        # optical flow: a pair of images
        "raft_small": (3, 128, 128),
        # detection: the backbone with its feature pyramid
        "fasterrcnn_resnet50_fpn.backbone": (3, 64, 64),
        "fasterrcnn_mobilenet_v3_large_fpn.backbone": (3, 64, 64),
        "retinanet_resnet50_fpn.backbone": (3, 64, 64),
        "ssd300_vgg16.backbone": (3, 300, 300),
        "ssdlite320_mobilenet_v3_large.backbone": (3, 320, 320),
    }
)
"""Model and the size of one input."""


def _torchvision(name: str) -> Example:
    kind, _, part = name.partition(".")
    options: dict[str, Any] = {"weights": None}
    if part or kind.startswith(("fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    if kind in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = torchvision.models.get_model(kind, **options)
    model = model.get_submodule(part) if part else model
    image = _images(*TORCHVISION[name])
    if kind.startswith("raft"):
        return model, (image, image.flip(0), 2)  # two rounds of refinement
    return model, (image,)


# timm -------------------------------------------------------------------------------------------


def _timm_names() -> list[str]:
    names: list[str] = json.loads((_HERE / "timm.json").read_text())
    return names


def _timm(name: str) -> Example:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, (_images(*model.default_cfg.get("input_size", (3, 224, 224))),)


# transformers -----------------------------------------------------------------------------------


def _configurations() -> dict[str, dict[str, Any]]:
    """Per architecture: the model class, its configuration and arguments, and the inputs."""
    found: dict[str, dict[str, Any]] = json.loads((_HERE / "transformers.json").read_text())
    return found


def _transformers(name: str) -> Example:
    import transformers

    from fxprune.torch.frontend.examples import one_example

    entry = _configurations()[name]
    inputs: str = entry["inputs"]
    torch.manual_seed(0)
    config = getattr(transformers, entry["config"])(**entry["arguments"])
    model = getattr(transformers, entry["model"])(config)
    ids = torch.randint(3, 90, (2, 10))
    ids[:, -1] = 2  # the end of the text, where some models pool
    known: dict[str, tuple[str, Tensor]] = {
        "ids": ("input_ids", ids),
        "mask": ("attention_mask", torch.ones_like(ids)),
        "decoder": ("decoder_input_ids", ids),
        "image": ("pixel_values", _images(3, *((64, 64) if "large" in inputs else (32, 32)))),
        "wave": ("input_values", _images(1600)),
        "spectrum": ("input_features", _images(16, 40)),
        "patches": ("input_values", _images(32, 16)),
    }
    given = dict(known[each] for each in inputs.split() if each in known)
    return model, one_example(model, given)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "torchvision": Family(lambda: list(TORCHVISION), _torchvision),
        "timm": Family(_timm_names, _timm),
        "transformers": Family(lambda: list(_configurations()), _transformers),
    }
)
"""The families, by the name of their distribution."""
