"""The models of the coverage command: torchvision, timm and tiny transformers, by family and name."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

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

TORCHVISION: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        # classification, the smallest of every variant
        **dict.fromkeys(
            [
                "alexnet",
                "convnext_tiny",
                "densenet121",
                "efficientnet_b0",
                "efficientnet_v2_s",
                "googlenet",
                "mnasnet0_5",
                "mobilenet_v2",
                "mobilenet_v3_small",
                "mobilenet_v3_large",
                "regnet_x_400mf",
                "regnet_y_400mf",
                "resnet18",
                "resnet50",
                "resnext50_32x4d",
                "wide_resnet50_2",
                "shufflenet_v2_x0_5",
                "squeezenet1_0",
                "squeezenet1_1",
                "swin_t",
                "swin_v2_t",
                "vgg11",
                "vgg11_bn",
                "vit_b_32",
                "maxvit_t",
            ],
            (3, 224, 224),
        ),
        "inception_v3": (3, 299, 299),
        # segmentation
        **dict.fromkeys(
            [
                "fcn_resnet50",
                "deeplabv3_resnet50",
                "deeplabv3_mobilenet_v3_large",
                "lraspp_mobilenet_v3_large",
            ],
            (3, 64, 64),
        ),
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
    from tests.vision import torchvision

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
    return json.loads(Path(__file__).with_name("timm.json").read_text())


def _timm(name: str) -> Example:
    import timm

    import tests.vision  # noqa: F401

    model = timm.create_model(name, pretrained=False)
    return model, (_images(*model.default_cfg.get("input_size", (3, 224, 224))),)


# transformers -----------------------------------------------------------------------------------

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_TEXT = {
    **_SIZES,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_TEXT, "use_cache": False}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_IMAGE = {**_SIZES, "image_size": 32, "patch_size": 8}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}

TRANSFORMERS: Mapping[str, tuple[str, str, Mapping[str, Any], str]] = MappingProxyType(
    {
        # encoders
        "bert": ("BertForSequenceClassification", "BertConfig", _TEXT, "ids mask"),
        "distilbert": (
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100},
            "ids",
        ),
        "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**_TEXT, "pad_token_id": 1}, "ids"),
        "electra": ("ElectraForPreTraining", "ElectraConfig", {**_TEXT, "embedding_size": 16}, "ids"),
        "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 16}, "ids"),
        "deberta": ("DebertaForSequenceClassification", "DebertaConfig", {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "ids"),
        "deberta_v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "ids"),
        "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", _TEXT, "ids"),
        "modernbert": ("ModernBertForSequenceClassification", "ModernBertConfig", {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}, "ids"),
        "xlnet": ("XLNetForSequenceClassification", "XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 100, "use_mems_eval": False, "use_mems_train": False}, "ids"),
        "funnel": ("FunnelForSequenceClassification", "FunnelConfig", {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1], "vocab_size": 100}, "ids"),
        "squeezebert": ("SqueezeBertForSequenceClassification", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32}, "ids"),
        # decoders
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}, "ids"),
        "gpt_neo": ("GPTNeoForCausalLM", "GPTNeoConfig", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}, "ids"),
        "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER, "ids"),
        "gptj": ("GPTJForCausalLM", "GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 100, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}, "ids"),
        "opt": ("OPTForCausalLM", "OPTConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32, "vocab_size": 100, "max_position_embeddings": 64, "use_cache": False}, "ids"),
        "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "use_cache": False}, "ids"),
        "falcon": ("FalconForCausalLM", "FalconConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}, "ids"),
        "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED, "ids"),
        "mistral": ("MistralForCausalLM", "MistralConfig", _GROUPED, "ids"),
        "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_GROUPED, "num_local_experts": 2}, "ids"),
        "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED, "ids"),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_GROUPED, "head_dim": 8}, "ids"),
        "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "head_dim": 8}, "ids"),
        "phi3": ("Phi3ForCausalLM", "Phi3Config", _GROUPED, "ids"),
        "cohere": ("CohereForCausalLM", "CohereConfig", _GROUPED, "ids"),
        "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _GROUPED, "ids"),
        "stablelm": ("StableLmForCausalLM", "StableLmConfig", _GROUPED, "ids"),
        # state space
        "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 4, "use_cache": False}, "ids"),
        # encoder-decoders
        "t5": ("T5ForConditionalGeneration", "T5Config", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "use_cache": False}, "ids decoder"),
        "bart": ("BartForConditionalGeneration", "BartConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}, "ids decoder"),
        "marian": ("MarianMTModel", "MarianConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}, "ids decoder"),
        "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}, "ids decoder"),
        # vision
        "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE, "image"),
        "deit": ("DeiTForImageClassification", "DeiTConfig", _IMAGE, "image"),
        "beit": ("BeitForImageClassification", "BeitConfig", _IMAGE, "image"),
        "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**_IMAGE, "mlp_ratio": 2}, "image"),
        "swin": ("SwinForImageClassification", "SwinConfig", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, "image"),
        "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, "image"),
        "resnet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, "image"),
        "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16}, "large image"),
        "mobilevit": ("MobileViTForImageClassification", "MobileViTConfig", {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64], "num_attention_heads": 2, "image_size": 64}, "large image"),
        # audio
        "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**_SIZES, "vocab_size": 20, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_prob": 0.0}, "wave"),
        "hubert": ("HubertForCTC", "HubertConfig", {**_SIZES, "vocab_size": 20, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_prob": 0.0}, "wave"),
        "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", {**_SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20}, "spectrum decoder"),
        "ast": ("ASTForAudioClassification", "ASTConfig", {**_SIZES, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}, "patches"),
        # multimodal
        "clip": ("CLIPModel", "CLIPConfig", {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 16}, "ids image mask"),
        "siglip": ("SiglipModel", "SiglipConfig", {"text_config": {**_TEXT, "projection_size": 32}, "vision_config": _IMAGE}, "ids image"),
        "vilt": ("ViltForQuestionAnswering", "ViltConfig", {**_TEXT, "image_size": 32, "patch_size": 8, "num_images": 1}, "ids image"),
    }
)  # fmt: skip
"""Model class, configuration class, its arguments, and which inputs the model takes."""


def _transformers(name: str) -> Example:
    import transformers

    import tests.vision  # noqa: F401
    from fxprune.frontends.torch_examples import check_examples

    logging.disable(logging.WARNING)
    kind, config, arguments, inputs = TRANSFORMERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**arguments))
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
    return model, check_examples(model, given)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "torchvision": Family(lambda: list(TORCHVISION), _torchvision),
        "timm": Family(_timm_names, _timm),
        "transformers": Family(lambda: list(TRANSFORMERS), _transformers),
    }
)
"""The families, by the name of their distribution."""
