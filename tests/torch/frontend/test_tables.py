"""What the tables of spellings claim, tried on torch itself."""

import importlib
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxprune.torch.frontend.module_spellings import MODULES
from fxprune.torch.frontend.spellings import NAMES, Spelling

UNARY = [name for name, spelling in NAMES.items() if spelling == Spelling("elementwise")]
BITS = ("invert", "bitwise_not")

ARGUMENTS = {
    "alpha_dropout": (0.5, True),
    "feature_alpha_dropout": (0.5, True),
    "fill": (0.5,),
    "full_like": (0.5,),
    "threshold": (0.1, 2.0),
    "clamp": (-0.5, 0.5),
    "clip": (-0.5, 0.5),
    "clamp_min": (0.1,),
    "clamp_max": (0.1,),
    "mvlgamma": (1,),
    "special_multigammaln": (1,),
}
COMPLEX = ("imag",)


def function_of(name):
    """A function or method of torch by its bare name, or a function of autograd by its full one."""
    if "." in name:
        home, _, kind = name.rpartition(".")
        return getattr(importlib.import_module(home), kind).apply
    if name.endswith("polygamma"):
        return lambda x: torch.polygamma(1, x)
    for home in (torch, F, operator, torch._C._special, torch._C._nn):
        if hasattr(home, name):
            return getattr(home, name)
    own = name if hasattr(torch.Tensor, name) else f"{name}_"
    return lambda x, *args: getattr(x, own)(*args)


@pytest.mark.parametrize("name", UNARY)
def test_what_the_table_calls_elementwise_looks_at_one_position(name):
    prepared = (lambda x: x > 0.3) if name in BITS else torch.clone
    prepared = torch.Tensor.cdouble if name in COMPLEX else prepared
    assert_elementwise(lambda x: function_of(name)(prepared(x), *ARGUMENTS.get(name, ())))


def assert_elementwise(function):
    x = 0.4 * torch.rand(2, 5, 4, dtype=torch.float64) + 0.05
    other = x.clone()
    other[1, 2, 1] += 0.5
    same = torch.ones(2, 5, 4, dtype=torch.bool)
    same[1, 2, 1] = False
    left, right = (_drawing_alike(function, given).nan_to_num() for given in (x.clone(), other))
    assert left.shape == x.shape
    assert torch.equal(left[same], right[same])


def _drawing_alike(function, x):
    torch.manual_seed(0)
    return function(x)


@pytest.mark.parametrize("function", [lambda x: x.softmax(1), lambda x: x.cumsum(2), F.normalize])
def test_check_of_elementwise_functions_can_fail(function):
    with pytest.raises(AssertionError):
        assert_elementwise(function)


ARGUMENTS_OF_MODULES = {nn.Threshold: (0.1, 2.0)}
ELEMENTWISE = [kind for kind, spelling in MODULES.items() if spelling.op == "elementwise"]


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_what_the_table_calls_an_elementwise_module_looks_at_one_position(kind):
    assert_elementwise(kind(*ARGUMENTS_OF_MODULES.get(kind, ())).eval())


def modules_of(operator, rank):
    names = [k.__name__ for k, s in MODULES.items() if s.op == operator]
    return [name for name in names if name.endswith(f"{rank}d")]


ARGUMENTS_OF_POOLS = {
    "AdaptiveAvgPool": (2,),
    "AdaptiveMaxPool": (2,),
    "AvgPool": (2,),
    "MaxPool": (2,),
    "LPPool": (2, 2),
    "ConstantPad": (1, 0.5),
}

CHANNELWISE = [
    name
    for operator in ("channelwise", "average_pool", "adaptive_average_pool")
    for rank in (1, 2, 3)
    for name in modules_of(operator, rank)
]


@pytest.mark.parametrize("name", CHANNELWISE)
def test_what_the_table_calls_channelwise_keeps_channels_apart(name):
    rank, kind = int(name[-2]), name[:-2]
    module = getattr(nn, name)(*ARGUMENTS_OF_POOLS.get(kind, (1,))).eval()
    x = torch.rand(2, 4, *(6,) * rank, dtype=torch.float64)
    other = x.clone()
    other[:, 2] += 1.0
    left, right = module(x), module(other)
    assert left.shape[:2] == x.shape[:2]
    assert torch.equal(left[:, [0, 1, 3]], right[:, [0, 1, 3]])
    assert not torch.equal(left[:, 2], right[:, 2])
