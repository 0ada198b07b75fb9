"""Which masked form stands for which layer or call of torch?"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fxprune.errors import InternalError
from fxprune.torch.backend import masked_forms
from fxprune.torch.frontend.leaves import torch_base
from fxprune.torch.frontend.module_spellings import module_spelling


def _masked_layer_norm(
    module: nn.LayerNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    shape = tuple(module.normalized_shape)
    mask = _trailing_mask(x, masks, dims, len(shape))
    return masked_forms.layer_norm(x, mask, shape, module.weight, module.bias, module.eps)


def _masked_group_norm(
    module: nn.GroupNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    return masked_forms.group_norm(
        x, masks[0], module.num_groups, module.weight, module.bias, module.eps
    )


def joint_mask(masks: tuple[Tensor, ...], dims: tuple[int, ...], rank: int) -> Tensor:
    """The product of masks of single axes, as an array of `rank` that broadcasts."""
    joint = masks[0].new_ones((1,) * rank)
    for mask, dim in zip(masks, dims, strict=True):
        joint = joint * mask.view([-1 if axis == dim % rank else 1 for axis in range(rank)])
    return joint


def _trailing_mask(
    x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...], rank: int
) -> Tensor:
    """The joint mask over the last `rank` axes of `x`."""
    return joint_mask(masks, tuple(dim - x.dim() for dim in dims), rank)


def masked_function(
    name: str, arguments: dict[str, Any], masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Any:
    """The masked form of a functional normalisation or reduction."""
    x = arguments["input"]
    if name == "layer_norm":
        shape = tuple(arguments["normalized_shape"])
        mask = _trailing_mask(x, masks, dims, len(shape))
        return masked_forms.layer_norm(
            x, mask, shape, arguments["weight"], arguments["bias"], arguments.get("eps", 1e-5)
        )
    if name == "batch_norm":
        return masked_forms.standardise(
            x,
            joint_mask(masks, dims, x.dim()),
            arguments["weight"],
            arguments["bias"],
            arguments["eps"],
        )
    if name == "rms_norm":
        shape = tuple(arguments["normalized_shape"])
        mask = _trailing_mask(x, masks, dims, len(shape))
        return masked_forms.rms_norm(x, mask, shape, arguments["weight"], arguments.get("eps"))
    if name == "group_norm":
        return masked_forms.group_norm(
            x,
            masks[0],
            arguments["num_groups"],
            arguments["weight"],
            arguments["bias"],
            arguments.get("eps", 1e-5),
        )
    if name in ("softmax", "topk"):
        return _masked_choice(name, arguments, joint_mask(masks, dims, x.dim()))
    reduced = arguments.get("dim")
    if isinstance(reduced, bool):  # x.var(False)
        arguments, reduced = {**arguments, "unbiased": reduced}, None
    reduced = tuple(range(x.dim())) if reduced is None else reduced
    reduced = (reduced,) if isinstance(reduced, int) else tuple(reduced)
    keepdim, mask = bool(arguments["keepdim"]), joint_mask(masks, dims, x.dim())
    if name in ("var", "std"):
        correction = arguments["correction"]
        correction = int(arguments["unbiased"]) if correction is None else correction
        variance = masked_forms.variance(x, reduced, keepdim, mask, correction)
        return variance if name == "var" else variance.sqrt()
    if name in ("max", "min"):  # only the values are read
        extreme = masked_forms.amax if name == "max" else masked_forms.amin
        return (extreme(x, reduced, keepdim, mask), None)
    form: Callable[..., Tensor] = {
        "mean": masked_forms.mean,
        "amax": masked_forms.amax,
        "amin": masked_forms.amin,
    }[name]
    return form(x, reduced, keepdim, mask)


def _masked_choice(name: str, arguments: dict[str, Any], mask: Tensor) -> Any:
    """The masked form of what compares positions, or takes the largest."""
    x, dim = arguments["input"], arguments["dim"]
    if name == "softmax":
        return masked_forms.softmax(x, dim, arguments["dtype"], mask)
    return masked_forms.topk(x, arguments["k"], dim, arguments["sorted"], mask)


def _masked_rms_norm(
    module: nn.RMSNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    shape = tuple(module.normalized_shape)
    mask = _trailing_mask(x, masks, dims, len(shape))
    return masked_forms.rms_norm(x, mask, shape, module.weight, module.eps)


MODULE_FORMS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _masked_layer_norm,
    "group_norm": _masked_group_norm,
    "rms_norm": _masked_rms_norm,
}


def form_of(module: nn.Module, name: str) -> Callable[..., Tensor]:
    """The masked form of a layer, called by the node `name`."""
    spelling = module_spelling(torch_base(type(module)))
    if spelling is None or spelling.op not in MODULE_FORMS:
        raise InternalError(f"no masked form for {type(module).__name__} at {name}; please report")
    return MODULE_FORMS[spelling.op]
