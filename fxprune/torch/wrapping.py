"""What torch wraps around a model for training, and how to get at what is inside."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from fxprune.errors import InputError
from fxprune.torch.frontend.walk import named_modules, named_parameters

GATHER = (
    "call torch.distributed.checkpoint.state_dict.get_model_state_dict(sharded, "
    "options=StateDictOptions(full_state_dict=True)) in every process, load the result into a "
    "gated model that is not sharded (prepared in the same way), and pass that"
)
"""What to do with a gated model that is sharded."""


_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


_COMPILED = "_orig_mod"  # where torch.compile keeps what it compiles


def check_module(name: str, value: Any) -> None:
    """Raise InputError unless an argument is a module, with what to do about what it is."""
    if isinstance(value, nn.Module):
        return
    advice = ""
    if isinstance(value, type) and issubclass(value, nn.Module):
        advice = f": make one, {value.__name__}(...)"
    elif isinstance(value, str | os.PathLike):
        advice = ": build the model, then load the file into it"
    elif isinstance(value, Mapping):
        advice = ": build the model, then load_state_dict"
    raise InputError(f"{name} must be a torch.nn.Module, got {type(value).__name__}{advice}")


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's model inside of what torch wraps around it for training."""
    while isinstance(module, _WRAPPERS) or isinstance(getattr(module, _COMPILED, None), nn.Module):
        module = module.module if isinstance(module, _WRAPPERS) else getattr(module, _COMPILED)
    return module


def check_whole(module: nn.Module, advice: str) -> None:
    """Raise InputError, with what to do, where tensors of a module are sharded over processes."""
    sharded = [name for name, part in named_modules(module) if hasattr(type(part), "unshard")]
    sharded += [name for name, p in named_parameters(module) if hasattr(p, "full_tensor")]
    if sharded:
        place = sharded[0] or type(module).__name__
        raise InputError(f"{place} is sharded over processes: {advice}")
