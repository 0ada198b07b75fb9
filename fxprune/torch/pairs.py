"""One layer as two with the rank between them.

A pair still answers for the layer it was: what reads its weight or a size gets those of the
product, so code that does more with a layer than call it computes what it did.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.passes.factorisation import FORMS, Layer
from fxprune.torch.frontend.walk import named_modules

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, nn.Embedding, *CONVOLUTIONS)
"""The layers that can be two."""


class Pair(nn.Sequential):
    """Two layers that are one: `first`, and `second`, which has the bias.

    `form` says how (`fxprune/passes/factorisation.py`). `weight` is the product, computed when it
    is asked for, and sizes are those of the one layer.
    """

    form = ""
    if TYPE_CHECKING:
        first: Any
        second: Any

    @classmethod
    def of(cls, first: nn.Module, second: nn.Module, form: str) -> "Pair":
        """Two layers as one."""
        pair = cls(OrderedDict(first=first, second=second))
        pair.form = form
        return pair

    def __getattr__(self, name: str) -> Any:
        """What the one layer has and the two do not."""
        modules = self.__dict__.get("_modules", {})
        kinds = type(modules["first"]).__mro__ if "second" in modules else ()
        answer = next((_ANSWERS[kind].get(name) for kind in kinds if kind in _ANSWERS), None)
        return super().__getattr__(name) if answer is None else answer(self)

    def extra_repr(self) -> str:
        """The form."""
        return f"form={self.form}"


def layer_of(module: nn.Module) -> Layer:
    """What passes know of a layer, or of the one that a pair was.

    Requires: it is one of `LAYERS`, or a pair.
    """
    if isinstance(module, Pair):
        return _layer_of_pair(module)
    if isinstance(module, nn.Embedding):
        return Layer(module.embedding_dim, module.num_embeddings)
    if isinstance(module, nn.Linear):
        return Layer(module.out_features, module.in_features)
    kernel, strides = (tuple(getattr(module, name)) for name in ("kernel_size", "stride"))
    conv: Any = module
    return Layer(conv.out_channels, conv.in_channels, kernel, strides, conv.groups)


def _layer_of_pair(pair: Pair) -> Layer:
    """By the shapes of the weights: folding tells layers their sizes where these are called."""
    shape = pair.first.weight.shape
    if FORMS[pair.form].by_input:
        inputs = pair.first.groups
    else:
        inputs = shape[0 if isinstance(pair.first, nn.Embedding) else 1]
    outputs = pair.second.weight.shape[0]
    return Layer(outputs, inputs, _both(pair, "kernel_size"), _both(pair, "stride"))


def pairs_of(model: nn.Module) -> dict[str, Pair]:
    """The layers of a model that are two, by path; of one in a removed branch nothing is left."""
    return {
        path: module
        for path, module in named_modules(model)
        if isinstance(module, Pair) and len(module) == 2
        if all(layer._parameters.get("weight") is not None for layer in module)
    }


def forms_of(model: nn.Module) -> dict[str, str]:
    """By path the forms of those."""
    return {path: pair.form for path, pair in pairs_of(model).items()}


def rank_of(pair: Pair) -> int:
    """The size of the axis between the two layers, for each matrix."""
    if isinstance(pair.first, nn.Embedding):
        return int(pair.first.weight.shape[1])
    return int(pair.first.weight.shape[0]) // FORMS[pair.form].matrices(layer_of(pair))


def _both(pair: Pair, name: str) -> tuple[Any, ...]:
    """A setting along every axis of the kernel, from the layer that has this axis."""
    if not hasattr(pair.first, name):
        return ()
    first, second = (tuple(getattr(layer, name)) for layer in (pair.first, pair.second))
    return FORMS[pair.form].joined(first, second)


def _padding(pair: Pair) -> Any:
    padding: Any = pair.first.padding
    return padding if isinstance(padding, str) else _both(pair, "padding")


def weight_of(pair: Pair, precision: torch.dtype | None = None) -> Tensor:
    """The weights of the one layer, by operators of torch: they can be differentiated."""
    first: Tensor = pair.first.weight
    second: Tensor = pair.second.weight
    if precision is not None:
        first, second = first.to(precision), second.to(precision)
    if isinstance(pair.first, nn.Embedding):
        return first @ second.T
    form, layer = FORMS[pair.form], layer_of(pair)
    count, rank = form.matrices(layer), rank_of(pair)
    left = second.reshape(layer.outputs, count, rank, -1)
    right = first.reshape(count, rank, layer.inputs // count, -1)
    product = torch.einsum("onrb,nria->oniab", left, right)
    return product.reshape(layer.outputs, layer.inputs, *layer.kernel)


_OF_CONVOLUTIONS: Mapping[str, Callable[[Pair], Any]] = MappingProxyType(
    {
        "weight": weight_of,
        "bias": lambda pair: pair.second.bias,
        "in_channels": lambda pair: pair.first.in_channels,
        "out_channels": lambda pair: pair.second.out_channels,
        "kernel_size": lambda pair: _both(pair, "kernel_size"),
        "stride": lambda pair: _both(pair, "stride"),
        "padding": _padding,
        "dilation": lambda pair: _both(pair, "dilation"),
        "padding_mode": lambda pair: pair.first.padding_mode,
        "groups": lambda pair: 1,
    }
)
_ANSWERS: Mapping[type[nn.Module], Mapping[str, Callable[[Pair], Any]]] = MappingProxyType(
    {
        nn.Linear: {
            "weight": weight_of,
            "bias": lambda pair: pair.second.bias,
            "in_features": lambda pair: pair.first.in_features,
            "out_features": lambda pair: pair.second.out_features,
        },
        nn.Embedding: {
            "weight": weight_of,
            "num_embeddings": lambda pair: pair.first.num_embeddings,
            "embedding_dim": lambda pair: pair.second.out_features,
            "padding_idx": lambda pair: pair.first.padding_idx,
        },
        **dict.fromkeys(CONVOLUTIONS, _OF_CONVOLUTIONS),
    }
)
"""What a pair says of the layer it was, by the class of that."""
