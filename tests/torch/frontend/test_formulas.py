"""Formulas say what torch says: shape, type and order in memory; or they leave it to torch."""

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.torch.frontend.formulas import FORMULAS, by_formula
from fxprune.torch.frontend.meta import MetaModules

SIZES = st.sampled_from((1, 2, 3, 4))
TYPES = st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.int64))


@st.composite
def arrays(draw, shape=None, dtype=None):
    """An array of some order in memory: as it comes, turned, cut out or spread."""
    shape = draw(st.lists(SIZES, max_size=4)) if shape is None else list(shape)
    x = torch.empty(shape, dtype=dtype or draw(TYPES), device="meta")
    order = draw(st.permutations(range(len(shape))))
    back = [order.index(axis) for axis in range(len(shape))]
    kind = draw(st.sampled_from(("plain", "plain", "turned", "cut", "spread")))
    if kind == "turned":
        return x.permute(order).contiguous().permute(back)
    if kind == "cut" and shape:
        return torch.empty([*shape[:-1], shape[-1] + 1], dtype=x.dtype, device="meta")[..., 1:]
    if kind == "spread" and shape:
        return torch.empty([1, *shape[1:]], dtype=x.dtype, device="meta").expand(shape)
    return x


def described(value):
    return tuple(value.shape), value.dtype, value.stride()


def same_as_torch(function, *args, **kwargs):
    """Compare a formula with torch; whether it said something."""
    said = by_formula(function, args, kwargs)
    try:
        expected = function(*args, **kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        assert said is None, f"torch refuses: {error}"
        return False
    assert said is None or described(said) == described(expected)
    return said is not None


def numbers():
    return st.one_of(st.integers(-2, 2), st.floats(-2, 2), st.booleans())


OF_TWO = (operator.mul, operator.add, operator.sub, operator.truediv, torch.mul, Tensor.add)
OF_ONE = (operator.neg, torch.rsqrt, torch.exp, Tensor.tanh, torch.relu, F.silu, F.gelu)


@given(st.data())
def test_of_two(data):
    function, one = data.draw(st.sampled_from(OF_TWO)), data.draw(arrays())
    shape = data.draw(st.sampled_from((one.shape, one.shape[1:], (1,), (2, 3))))
    other = data.draw(st.one_of(arrays(shape), arrays(shape, one.dtype), numbers()))
    same_as_torch(function, one, other)
    if isinstance(other, Tensor) or function not in (Tensor.add, torch.mul):
        same_as_torch(function, other, one)


@given(st.data())
def test_of_two_that_write_into_the_first(data):
    one = data.draw(arrays())
    shape = data.draw(st.sampled_from((one.shape, one.shape[1:], (1,), (2, 3))))
    other = data.draw(st.one_of(arrays(shape), arrays(shape, one.dtype), numbers(), st.just(one)))
    for function in (Tensor.add_, Tensor.mul_, Tensor.div_, operator.iadd):
        same_as_torch(function, one, other)
    same_as_torch(torch.relu_, one)
    assert by_formula(Tensor.add_, (one, one[..., :1] if one.dim() else one), {}) is None


@given(st.data())
def test_of_three(data):
    one = data.draw(arrays())
    shape = st.sampled_from((one.shape, one.shape[1:], (1,)))
    others = [data.draw(arrays(data.draw(shape), one.dtype)) for _ in range(2)]
    same_as_torch(torch.addcmul, one, *others)


@given(st.data())
def test_other_shapes(data):
    x = data.draw(arrays())
    same_as_torch(Tensor.contiguous, x)
    sizes = data.draw(st.sampled_from(((-1,), x.shape, (*x.shape[:-2], -1), (2, -1), (5,))))
    same_as_torch(Tensor.reshape, x, *sizes)
    same_as_torch(torch.reshape, x, sizes)


@given(st.data())
def test_of_one(data):
    same_as_torch(data.draw(st.sampled_from(OF_ONE)), data.draw(arrays()))
    activation = data.draw(st.sampled_from((F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid)))
    same_as_torch(activation, data.draw(arrays()), inplace=data.draw(st.booleans()))
    same_as_torch(operator.pow, data.draw(arrays()), data.draw(numbers()))


@given(st.data())
def test_means(data):
    x = data.draw(arrays())
    axes = st.integers(-5, 4)
    dim = data.draw(st.one_of(axes, st.lists(axes, max_size=3), st.none()))
    same_as_torch(torch.mean, x, dim, keepdim=data.draw(st.booleans()))
    order = data.draw(st.sampled_from((2, 1, "fro", float("inf"), "nuc")))
    same_as_torch(Tensor.norm, x, order, dim, keepdim=data.draw(st.booleans()))


@given(st.data())
def test_products(data):
    x = data.draw(arrays())
    rows, width = data.draw(SIZES), x.shape[-1] if x.dim() else 1
    weight = data.draw(arrays((rows, data.draw(st.sampled_from((width, 3))))))
    bias = data.draw(st.one_of(st.none(), arrays((rows,))))
    same_as_torch(F.linear, x, weight, bias)
    same_as_torch(torch.matmul, x, data.draw(arrays((*x.shape[:-2], width, rows), x.dtype)))
    same_as_torch(torch.addmm, data.draw(arrays((rows,), x.dtype)), x, weight.T)


@given(st.data())
def test_joining(data):
    x = data.draw(arrays())
    others = [data.draw(arrays(x.shape, x.dtype)), data.draw(arrays())]
    same_as_torch(torch.cat, data.draw(st.lists(st.sampled_from((x, *others)), max_size=3)),
                  dim=data.draw(st.integers(-4, 4)))  # fmt: skip


@given(st.data())
def test_norms(data):
    x = data.draw(arrays())
    own = x.shape[data.draw(st.integers(0, 3)) :]
    weight = data.draw(st.one_of(st.none(), arrays(own), arrays(own, x.dtype)))
    same_as_torch(torch.layer_norm, x, own, weight)
    same_as_torch(F.layer_norm, x, own, weight, eps=1e-3)


@given(st.data())
def test_attention(data):
    batch, queries, keys, width = (data.draw(SIZES) for _ in range(4))
    heads, shared = data.draw(st.sampled_from(((4, 4), (4, 2), (4, 3), (2, 1))))
    dtype = data.draw(TYPES)
    query = data.draw(arrays((batch, heads, queries, width), dtype))
    key = data.draw(arrays((batch, shared, keys, data.draw(st.sampled_from((width, 3)))), dtype))
    value = data.draw(arrays((batch, shared, keys, data.draw(SIZES)), dtype))
    masks = arrays((batch, 1, queries, keys), data.draw(st.sampled_from((torch.bool, dtype))))
    same_as_torch(
        F.scaled_dot_product_attention,
        query,
        key,
        value,
        attn_mask=data.draw(st.one_of(st.none(), masks)),
        is_causal=data.draw(st.booleans()),
        enable_gqa=data.draw(st.booleans()),
    )


def recurrent(kind, states):
    """What a recurrence of torch is called with: two steps of three samples."""
    layer = kind(4, 5, device="meta")
    x, state = torch.empty(2, 3, 4, device="meta"), torch.empty(1, 3, 5, device="meta")
    start = (state, state) if states == 2 else state
    return x, start, list(layer._flat_weights), True, 1, 0.0, False, False, False


OF_OTHER_ARGUMENTS = {
    F.scaled_dot_product_attention: (torch.empty(2, 4, 3, 5, device="meta"),) * 3,
    torch._grouped_mm: (torch.empty(4, 8, device="meta"), torch.empty(2, 8, 8, device="meta")),
    torch.lstm: recurrent(nn.LSTM, 2),
    torch.gru: recurrent(nn.GRU, 1),
    torch.rnn_tanh: recurrent(nn.RNN, 1),
    torch.rnn_relu: recurrent(nn.RNN, 1),
}


def test_formulas_say_something():
    x, y = torch.empty(2, 3, device="meta"), torch.empty(3, device="meta")
    usual = (
        (x,),
        (x, y),
        (x, 2),
        (x, (1,)),
        ((x, x),),
        (x, x),
        (y, x, x.T @ x),
        (x, x.T),
        (x, (3,)),
        (x, 2, 1),
        (x.T, 6),
        (x, x, x),
    )
    for function in FORMULAS:
        name = getattr(function, "__name__", "")
        tried = (OF_OTHER_ARGUMENTS[function],) if function in OF_OTHER_ARGUMENTS else usual
        assert any(by_formula(function, args, {}) is not None for args in tried), name


MODULES = {
    "layer norm": (nn.LayerNorm(4), (2, 4)),
    "of two axes": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "rms norm": (nn.RMSNorm(4), (2, 4)),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 3)),
    "to one": (nn.AdaptiveAvgPool2d(1), (2, 4, 5, 6)),
    "to some": (nn.AdaptiveAvgPool2d((None, 3)), (4, 5, 6)),
    "linear": (nn.Linear(4, 3), (2, 4)),
    "convolution": (nn.Conv2d(4, 3, 3, padding=1), (2, 4, 5, 5)),
}


@pytest.mark.parametrize(("module", "shape"), MODULES.values(), ids=MODULES)
def test_modules(module, shape):
    known = MetaModules({}).by_formula(module, (torch.empty(shape, device="meta"),), {})
    assert described(known) == described(module(torch.empty(shape)))


def test_layers_one_after_another_are_those_of_torch_with_their_hooks():
    layers, x = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU())), torch.empty(2, 4)
    known = MetaModules({}).call(layers, (x.to("meta"),), {})
    assert described(known) == described(layers(x))
    layers[1].register_forward_hook(lambda layer, given, result: result[:, :1])
    assert MetaModules({}).call(layers, (x.to("meta"),), {}).shape == (2, 1)


def test_embeddings():
    embedding, tokens = nn.Embedding(5, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.long)
    known = MetaModules({}).by_formula(embedding, (tokens.to("meta"),), {})
    assert described(known) == described(embedding(tokens))


def test_layers_of_another_size_are_left_to_torch():
    for module, shape in MODULES.values():
        if not isinstance(module, nn.AdaptiveAvgPool2d):
            wrong = torch.empty((*(n + 1 for n in shape),), device="meta")
            assert MetaModules({}).by_formula(module, (wrong,), {}) is None
