"""Is this a model that can be worked with?"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.torch.frontend.walk import modules_in, named_buffers, named_parameters, named_tensors
from fxprune.torch.gates.module import Gates
from fxprune.torch.wrapping import check_module, check_whole, unwrapped

Model = TypeVar("Model", bound=nn.Module)
"""What verbs give back is of the class of what they are given."""


def check_model(model: nn.Module, *, empty: bool = False) -> None:
    """Raise InputError unless `model` is a plain module with values; `empty` ones may have none."""
    check_module("model", model)
    if any(isinstance(module, Gates) for module in modules_in(model)):
        raise InputError("the model is gated already: pass the original or a folded one")
    if unwrapped(model) is not model:
        inner = type(unwrapped(model)).__name__
        raise InputError(
            f"the model is a {inner} that is already wrapped in {type(model).__name__}: prepare "
            f"the {inner}, then wrap what prepare returns"
        )
    check_whole(model, "prepare the model first, then shard what prepare returns")
    tensors = named_tensors(model)
    if lazy := [name for name, p in tensors if nn.parameter.is_lazy(p)]:
        raise InputError(f"{lazy[0]} has no shape yet: run the model once before preparing it")
    if sparse := [n for n, p in named_parameters(model) if p.layout is not torch.strided]:
        raise InputError(
            f"{sparse[0]} is a sparse parameter, which torch itself cannot copy: hold it as a "
            "buffer, or dense"
        )
    if not empty:
        check_weights(model)


def check_weights(model: nn.Module) -> None:
    """Raise InputError where a tensor has no values."""
    tensors = named_tensors(model)
    if meta := next((name for name, tensor in tensors if tensor.is_meta), ""):
        raise InputError(
            f"{meta} of the model is on the meta device, so it has no values, which this needs: "
            "load the weights first (model.to_empty(device='cpu'), then load_state_dict), or let "
            "fxprune.prune_checkpoint read them from files"
        )


def has_weights(model: nn.Module) -> bool:
    """Whether all parameters of a model have values."""
    return not any(parameter.is_meta for parameter in model.parameters())


def check_finite(model: nn.Module) -> None:
    """Parameters are finite and buffers are numbers (a mask may hold -inf)."""
    for name, buffer in named_buffers(model):
        check_values(name, buffer, endless=True)
    for name, parameter in named_parameters(model):
        check_values(name, parameter.detach())


def check_values(name: str, values: Tensor, *, endless: bool = False) -> None:
    """Raise InputError where a tensor holds what is no number; it may be `endless` in buffers."""
    if values.is_meta:
        return
    if endless:
        if values.is_floating_point() and math.isnan(values.sum()) and bool(values.isnan().any()):
            raise InputError(f"{name} holds NaN: restore a sound checkpoint first")
    elif not math.isfinite(abs(values.sum().item())) and not bool(torch.isfinite(values).all()):
        raise InputError(
            f"{name} holds NaN or infinite values: masking would spread them; restore "
            "a sound checkpoint first"
        )
