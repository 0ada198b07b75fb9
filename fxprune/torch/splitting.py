"""One layer made two, with values or on the meta device, and two made one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.matrices import (
    Factors,
    factors_of,
    first_matrices,
    first_weight,
    matrices_of,
    second_matrices,
    second_weight,
)
from fxprune.passes.factorisation import FORMS, Form
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.pairs import (
    CONVOLUTIONS,
    LAYERS,
    Pair,
    forms_of,
    layer_of,
    pairs_of,
    rank_of,
    weight_of,
)


def two_layers(layer: Any, form: Form) -> tuple[Pair, np.ndarray]:
    """A layer as two, with the energies of the positions between them; its bias is the same object.

    On the meta device there are no values, and all energies are one.
    """
    pair = empty_pair(layer, form)
    if layer.weight.is_meta:
        return pair, np.ones(rank_of(pair))
    values = doubles(layer.weight)
    found = factors_of(matrices_of(values.T if isinstance(layer, nn.Embedding) else values, form))
    set_factors(pair, found, layer.weight)
    return pair, found.energies


def with_pairs(model: nn.Module, forms: Mapping[str, str]) -> nn.Module:
    """A model whose layers that are two are these, by path, with their forms; new ones are zero.

    Raises:
        InputError: the model has no layer there that could have the form.
    """
    present = forms_of(model)
    if present == dict(forms):
        return model
    changed = copy_module(model)
    for path, pair in pairs_of(changed).items():
        if path not in forms:
            put(changed, pair, one_layer(pair))
    for path in forms.keys() - present.keys():
        layer: Any = dict(changed.named_modules()).get(path)
        if type(layer) not in LAYERS or FORMS[forms[path]].refusal(layer_of(layer)):
            raise InputError(f"the model has no layer {path} that could be {forms[path]}")
        put(changed, layer, empty_pair(layer, FORMS[forms[path]]))
    return changed


def put(model: nn.Module, module: nn.Module, other: nn.Module) -> None:
    """Put another module wherever one is."""
    other.train(module.training)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is module:
                parent._modules[name] = other


def doubles(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor."""
    array: np.ndarray = tensor.detach().cpu().double().numpy()
    return array


def set_factors(pair: Pair, factors: Factors, like: Tensor) -> None:
    """Give both layers new weights, of the precision and on the device of a tensor."""
    layer, form = layer_of(pair), FORMS[pair.form]
    first = first_weight(factors.first, form, layer.kernel)
    second = second_weight(factors.second, form, layer.outputs, layer.kernel)
    if isinstance(pair.first, nn.Embedding):
        first = first.T
    for module, array in ((pair.first, first), (pair.second, second)):
        values = torch.from_numpy(np.ascontiguousarray(array)).to(like)
        module.weight = nn.Parameter(values, requires_grad=like.requires_grad)


def factors_in(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The weights of both layers as matrices, as `Factors` has them."""
    layer, form = layer_of(pair), FORMS[pair.form]
    first, second = doubles(pair.first.weight), doubles(pair.second.weight)
    if isinstance(pair.first, nn.Embedding):
        first = first.T
    count = form.matrices(layer)
    return first_matrices(first, count), second_matrices(second, count)


def empty_pair(layer: Any, form: Form) -> Pair:
    """Two layers of full rank, all zeros (on the meta device nothing); the bias is that of one."""
    shape = layer_of(layer)
    groups = form.matrices(shape)
    width = groups * form.full_rank(shape)
    options: dict[str, Any] = {"device": "meta", "dtype": layer.weight.dtype}
    first: Any
    second: Any
    if isinstance(layer, nn.Embedding):
        own = {name: getattr(layer, name) for name in _OF_LOOKUP}
        first = nn.Embedding(shape.inputs, width, **own, **options)
        second = nn.Linear(width, shape.outputs, bias=False, **options)
    elif isinstance(layer, nn.Linear):
        first = nn.Linear(shape.inputs, width, bias=False, **options)
        second = nn.Linear(width, shape.outputs, bias=False, **options)
    else:
        kind: Any = type(layer)
        options |= {"bias": False, "padding_mode": layer.padding_mode}
        own, others = _shared_out(layer, form)
        first = kind(shape.inputs, width, groups=groups, **own, **options)
        second = kind(width, shape.outputs, **others, **options)
    for module in (first, second):
        values = torch.zeros_like(module.weight, device=layer.weight.device)
        module.weight = nn.Parameter(values, requires_grad=layer.weight.requires_grad)
    if getattr(layer, "bias", None) is not None:
        second.register_parameter("bias", layer.bias)
    return Pair.of(first, second, form.name)


_OF_LOOKUP = ("padding_idx", "scale_grad_by_freq", "sparse")


def _shared_out(layer: Any, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a convolution along each axis, for whichever of two layers has this axis."""
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    for name, nothing in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(layer, name)
        by_name = isinstance(value, str)  # padding by name goes by the kernel of each
        shared = (value, value) if by_name else form.shared_out(value, nothing)
        first[name], second[name] = shared
    return first, second


def one_layer(pair: Pair) -> nn.Module:
    """The layer that computes what two do, with the very bias of the second one."""
    like, layer = pair.first.weight, layer_of(pair)
    options: dict[str, Any] = {"device": "meta", "dtype": like.dtype}
    kind: Any = type(pair.first)
    module: nn.Module
    if isinstance(pair.first, nn.Embedding):
        own = {name: getattr(pair.first, name) for name in _OF_LOOKUP}
        module = kind(layer.inputs, layer.outputs, **own, **options)
    elif kind not in CONVOLUTIONS:
        module = kind(layer.inputs, layer.outputs, bias=False, **options)
    else:
        settings = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        own = {name: getattr(pair, name) for name in settings}
        module = kind(layer.inputs, layer.outputs, bias=False, **own, **options)
    values = weight_of(pair, torch.float64).detach().to(like.dtype)
    module.weight = nn.Parameter(values, requires_grad=like.requires_grad)
    if getattr(pair.second, "bias", None) is not None:
        module.register_parameter("bias", pair.second.bias)
    return module
