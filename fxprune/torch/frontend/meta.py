"""What shape does a module return? Modules run on the meta device, the frequent ones by formula."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.torch.frontend.formulas import ByFormula
from fxprune.torch.frontend.module_spellings import module_spelling
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.walk import named_tensors

_META = torch.device("meta")


class MetaModules:
    """Runs modules without data; keeps one meta tensor for every tensor it was shown.

    `types` replaces types of data by others.
    """

    def __init__(self, types: Mapping[torch.dtype, torch.dtype]) -> None:
        self._twins: dict[int, Tensor] = {}
        self._types = types

    def twin(self, tensor: Tensor) -> Tensor:
        """A meta tensor like `tensor`, which must outlive this object."""
        if id(tensor) not in self._twins:
            self._twins[id(tensor)] = self.like(tensor.detach())
        return self._twins[id(tensor)]

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the module returns for meta tensors."""
        result = self.by_formula(module, args, kwargs)
        if result is not None:
            return result
        if not kwargs and len(args) == 1 and _calls_one_after_another(module):
            result = args[0]
            for child in module._modules.values():
                result = self.call(child, (result,), {})  # type: ignore[arg-type]
            return result
        if isinstance(module, torch.jit.ScriptModule):
            return self._for_real(module, args, kwargs)
        state = {name: self.twin(tensor) for name, tensor in named_tensors(module)}
        try:
            with ByFormula():
                if not state:
                    return module(*args, **kwargs)
                return torch.func.functional_call(module, state, args, dict(kwargs))
        except (RuntimeError, NotImplementedError):
            if module_spelling(type(module)) is not None:
                raise
            return self._for_real(module, args, kwargs)

    def by_formula(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        """What the frequent modules return, None where that has to be tried."""
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        x = args[0]
        if x.is_floating_point():
            shape = _module_shape(module, tuple(x.shape))
            return None if shape is None else torch.empty(shape, dtype=x.dtype, device=_META)
        if type(module) is nn.Embedding and x.dtype in (torch.int64, torch.int32):
            return self.twin(module.weight).new_empty((*x.shape, module.embedding_dim))
        return None

    def _for_real(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a copy of a module that needs values (kept whole by `leaf=`) on zeros."""
        device = device_of(module)

        def zeros(value: Any) -> Any:
            if isinstance(value, Tensor):
                return torch.zeros(value.shape, dtype=value.dtype, device=device)
            return value

        with torch.random.fork_rng():
            inputs = tree_map(zeros, (args, dict(kwargs)))
            return self.like(copy.deepcopy(module)(*inputs[0], **inputs[1]))

    def like(self, value: Any) -> Any:
        """The same structure with meta tensors."""
        if isinstance(value, Tensor):
            dtype = self._types.get(value.dtype, value.dtype)
            return torch.empty(value.shape, dtype=dtype, device="meta")
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.like, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self.like, value))
        if isinstance(value, Mapping):
            return {key: self.like(item) for key, item in value.items()}
        return value


_LARGEST = 2**24
"""The largest array, in elements, that an operator is tried on."""


def shaped_by_trial(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator without a rule for shapes returns for zeros and, alike, for ones.

    Raises:
        NotImplementedError: its shape depends on values, or trying it is too much work.
    """
    sizes = [x.numel() for x in leaves_of((args, kwargs)) if isinstance(x, Tensor)]
    if sum(sizes) > _LARGEST:
        raise NotImplementedError("it has no rule for shapes, and is too large to be tried")

    def attempt(filled: Any) -> Any:
        def real(value: Any) -> Any:
            return filled(value, device="cpu") if isinstance(value, Tensor) else value

        given = tree_map(real, (args, dict(kwargs)))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return func(*given[0], **given[1])

    zeros, ones = attempt(torch.zeros_like), attempt(torch.ones_like)
    shapes = [[x.shape for x in leaves_of(r) if isinstance(x, Tensor)] for r in (zeros, ones)]
    if shapes[0] != shapes[1]:
        raise NotImplementedError("the shape of what it returns depends on values")
    return zeros


def _calls_one_after_another(module: nn.Module) -> bool:
    """Whether a module only calls those in it, each on what the one before returned."""
    if not isinstance(module, nn.Sequential):
        return False
    kind, own = type(module), nn.Sequential
    if kind.forward is not own.forward or kind.__iter__ is not own.__iter__:
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks for m in (module, *module.children()))


_SAME_SHAPE = (nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish,
               nn.Hardsigmoid, nn.Sigmoid, nn.GELU, nn.Dropout, nn.Identity)  # fmt: skip


def _module_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The output shape of the modules that make up most of a CNN; None for the others."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return shape if len(shape) > 1 and shape[1] == module.num_features else None
    if isinstance(module, _SAME_SHAPE):
        return shape
    if type(module) is nn.Conv2d and len(shape) == 4 and shape[1] == module.in_channels:
        return _conv_shape(module, shape)
    if type(module) is nn.Linear and shape and shape[-1] == module.in_features:
        return (*shape[:-1], module.out_features)
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        own = tuple(module.normalized_shape)  # type: ignore[arg-type]
        return shape if shape[-len(own) :] == own else None
    if type(module) is nn.GroupNorm:
        return shape if len(shape) > 1 and shape[1] == module.num_channels else None
    if type(module) is nn.AdaptiveAvgPool2d and len(shape) in (3, 4):
        return _pooled(module.output_size, shape)
    return None


def _pooled(sizes: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image pooled to given sizes, None for as it is."""
    height, width = sizes if isinstance(sizes, tuple | list) else (sizes, sizes)
    wanted = zip((height, width), shape[-2:], strict=True)
    return (*shape[:-2], *(own if size is None else size for size, own in wanted))


def _conv_shape(module: nn.Conv2d, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if isinstance(module.padding, str):
        return None
    windows = zip(
        shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True
    )
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in windows]
    return (shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its first parameter is, or else the CPU."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def real_device_of(module: nn.Module) -> torch.device:
    """The same for what has values: beside a module without any they are on the CPU."""
    device = device_of(module)
    return torch.device("cpu") if device.type == "meta" else device
