"""What Python in a forward the tracer follows, what it refuses, and what it leaves as it was.

Each forward stands between two linear layers, `first` with 8 channels and `last`. It is traced with
a batch of two and compared with the original at other batches, and with the folded model.
"""

import copy
import math
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.passes.operators import _operators
from fxprune.testing import (
    assert_costs,
    assert_rewrite_equivalent,
    assert_unchanged,
    randomise,
)
from fxprune.torch.record import record_of
from tests.torch.test_samples import some_keep_sets

Pair = namedtuple("Pair", "left right")


@dataclass
class Answer(OrderedDict):
    """Holds its fields twice, as the outputs of transformers do, and leaves out what is None."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


def network(forward, **parts):
    """A model with this forward."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            for name, part in parts.items():
                setattr(self, name, part)
            self.last = nn.Linear(8, 3)

    Network.forward = forward
    model = Network().double().eval()
    randomise(model, torch.Generator().manual_seed(0))
    return model


def vectors(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 6, dtype=torch.float64, generator=generator)


def rebatched(value, batch):
    """The same structure with tensors of another batch."""
    if isinstance(value, Tensor):
        return vectors(batch, seed=batch)
    if isinstance(value, dict):
        return {key: rebatched(item, batch) for key, item in value.items()}
    if isinstance(value, Pair):
        return Pair(*(rebatched(item, batch) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(rebatched(item, batch) for item in value)
    return value


def check(model, inputs, expected):
    """These groups and branches are free, and models agree at every batch and keep-set."""
    gated = fxprune.prepare(model, inputs, target=1.0)
    groups = [f"{group.name}:{group.size}" for group in fxprune.groups(gated) if not group.pin]
    assert " ".join(groups) == expected
    batches = [rebatched(inputs, batch) for batch in (2, 1, 5)]
    for other in batches:
        assert_rewrite_equivalent(model, gated, inputs=other)
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        for other in batches:
            assert_rewrite_equivalent(gated, folded, inputs=other)


# Control flow ---------------------------------------------------------------------------------


def _branches_on_shapes(m, x):
    x = m.first(x)
    if x.dim() == 2 and x.shape[-1] > 4 and x.shape[1:] == (8,):
        x = x.relu()
    return m.last(x)


def _loops_over_modules(m, x):
    x = m.first(x)
    for layer in m.layers:
        if layer.in_features == x.shape[-1]:
            x = x + layer(x)
    return m.last(x)


def _loops_over_chunks(m, x):
    return m.last(torch.cat([c * (i + 1) for i, c in enumerate(m.first(x).chunk(4, -1))], -1))


def _loops_over_a_size(m, x):
    x = m.first(x)
    for _ in range(x.size(1) // 4):
        x = torch.tanh(x)
    return m.last(x)


def _computes_with_sizes(m, x):
    x = m.first(x)
    batch, width = x.shape
    half = int(width * 0.5)
    return m.last(x.reshape(batch, 2, half)[:, 0].repeat(1, width // half) / batch)


def _stacks_heads(m, x):
    heads = x.size(0) * 4
    x = m.first(x).view(heads, 1, 2)
    scores = torch.baddbmm(x.new_ones(heads, 1, 1), x, x.mT, beta=0.3)
    return m.last((scores @ x).view(int(x.shape[0] / 4), 8))


def _loses_the_batch(m, x):
    return m.last(m.first(x).view(int(x.shape[0] ** 1.0), 8)) / len(x)


def _looks_at_constants(m, x):
    rates = torch.linspace(0, 0.5, 4)
    x = m.first(x) * rates[2].item()
    for shift in torch.arange(3).tolist():
        x = x + shift
    if torch.ones(3, 3).tril().any():
        x = x * float(torch.tensor(x.shape[1:]).prod())
    return m.last(x)


def _asks_what_it_has(m, x):
    x = m.first(x)
    assert isinstance(x, Tensor), f"not {x.shape}"
    return m.last(x if torch.is_tensor(x) and x.is_floating_point() and not x.is_complex() else -x)


CONTROL_FLOW = {
    "branches on shapes": (_branches_on_shapes, "first:8"),
    "a loop over modules": (_loops_over_modules, "first:8 layers+:1 layers++:1"),
    "a loop over chunks": (
        _loops_over_chunks,
        "first[0:2]:2 first[2:4]:2 first[4:6]:2 first[6:8]:2",
    ),
    "a loop over a size": (_loops_over_a_size, "first:8"),
    "arithmetic on sizes": (_computes_with_sizes, "first/1:4"),
    "heads beside the batch": (_stacks_heads, "first/0:4 first/1:2"),
    "the batch as a plain number": (_loses_the_batch, "first:8"),
    "decisions on constants": (_looks_at_constants, "first:8"),
    "questions about types": (_asks_what_it_has, "first:8"),
}


@pytest.mark.parametrize(("forward", "expected"), CONTROL_FLOW.values(), ids=CONTROL_FLOW)
def test_control_flow_is_followed(forward, expected):
    layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(5, 5), nn.Linear(8, 8)])
    parts = {"layers": layers} if forward is _loops_over_modules else {}
    check(network(forward, **parts), (vectors(2),), expected)


VALUES = {
    "a comparison": lambda m, x: m.last(x) if x.sum() > 0 else x,
    "a number": lambda m, x: m.last(x * x.mean().item()),
    "a list": lambda m, x: m.last(x * x.tolist()[0][0]),
    "a float": lambda m, x: m.last(x * float(x.mean())),
    "a range": lambda m, x: [m.last(x) for _ in range(int(x.abs().sum()))],
    "a trained parameter": lambda m, x: m.last(x * m.last.bias[0].item()),
    "a random number": lambda m, x: m.last(x) if torch.rand(()) < 0.5 else x,
}


@pytest.mark.parametrize("body", VALUES.values(), ids=VALUES)
def test_decision_on_values_is_refused_with_its_line(body):
    model = network(lambda m, x: body(m, m.first(x)))
    with pytest.raises(fxprune.TraceError, match="decides on values") as caught:
        fxprune.prepare(model, vectors(2))
    line = body.__code__.co_firstlineno
    assert f"{__file__}:{line}: {Path(__file__).read_text().splitlines()[line - 1].strip()}" in str(
        caught.value
    )


BATCHES = {
    "a loop": lambda m, x: sum(m.last(x * i) for i in range(x.shape[0])),
    "a loop over the length": lambda m, x: sum(m.last(x * i) for i in range(len(x))),
    "a loop over samples": lambda m, x: torch.stack([m.last(sample) for sample in x]),
    "samples one by one": lambda m, x: torch.cat([m.last(sample) for sample in x.split(1)]),
    "a list": lambda m, x: m.last(torch.stack([x.sum(0)] * x.shape[0])),
    "a float": lambda m, x: m.last(x) / float(x.shape[0]),
    "just two": lambda m, x: m.last(x) * (2 if x.shape[0] == 2 else 1),
    "at least four": lambda m, x: m.last(x) / max(x.shape[0], 4),
    "a root": lambda m, x: m.last(x) / math.sqrt(x.shape[0]),
}


@pytest.mark.parametrize("body", BATCHES.values(), ids=BATCHES)
def test_size_of_the_batch_is_followed_or_refused(body):
    model = network(lambda m, x: body(m, m.first(x)))
    try:
        gated = fxprune.prepare(model, X, target=1.0)
    except fxprune.TraceError as error:
        assert "depends on the size of the batch" in str(error)
        return
    for batch in (1, 5):
        assert_rewrite_equivalent(model, gated, inputs=[vectors(batch)])


# Inputs and outputs ---------------------------------------------------------------------------


X, Y = vectors(2), vectors(2, seed=1)
INPUTS = {
    "any number of arguments": (
        lambda m, *xs: m.last(sum(m.first(x) for x in xs)),
        (X, Y),
        "first:8 add_1+:1",
    ),
    "one argument and any number": (
        lambda m, x, *xs: m.last(sum((m.first(y) for y in xs), m.first(x))),
        (X, Y, Y),
        "first:8 add+:1",
    ),
    "a list": (lambda m, xs: m.last(m.first(xs[0]) * m.first(xs[1])), ([X, Y],), "first:8"),
    "a dict": (lambda m, d: m.last(m.first(d["a"]) * m.first(d["b"][0])), ({"a": X, "b": [Y]},),
               "first:8"),
    "a named tuple": (
        lambda m, pair: m.last(m.first(pair.left) * m.first(pair.right)),
        (Pair(X, Y),),
        "first:8",
    ),
    "None": (
        lambda m, x, y, mask=None: m.last(m.first(x) * m.first(y) if mask is None else mask),
        (X, Y, None),
        "first:8",
    ),
    "a list beside a tensor, numbers": (
        lambda m, x, ys, scale=2.0, flip=False: m.last(m.first(x) * scale - m.first(ys[0])),
        (X, [Y], 3.0, True),
        "first:8",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "inputs", "expected"), INPUTS.values(), ids=INPUTS)
def test_inputs_of_every_structure(forward, inputs, expected):
    check(network(forward), inputs, expected)


def _with_options(m, x, mask=None, other=None, *, scale=2.0):
    x = m.first(x) if mask is None else m.first(x) * mask
    return m.last(x * scale if other is None else x + m.first(other))


def test_arguments_by_name():
    model = network(_with_options)
    gated = fxprune.prepare(model, {"x": X, "other": Y}, target=1.0)
    assert torch.equal(gated(X, other=Y), model(X, other=Y))
    assert torch.equal(gated(other=Y, x=X), model(X, other=Y))
    with pytest.raises(fxprune.InputError, match="traced with mask=None"):
        gated(X, mask=Y, other=Y)


def test_arguments_by_name_only():
    model = network(lambda m, x, *, y: m.last(m.first(x) + m.first(y)))
    gated = fxprune.prepare(model, {"x": X, "y": Y}, target=1.0)
    assert torch.equal(gated(X, y=Y), model(X, y=Y))


OUTPUTS = {
    "a named tuple": lambda m, x: Pair(m.last(x), {"a": m.last(x.cos())}),
    "a mapping of a class of its own": lambda m, x: Answer(m.last(x), m.last(x.cos())),
    "a mapping that leaves one out": lambda m, x: Answer(logits=m.last(x)),
    "a list with None": lambda m, x: [m.last(x), None, (m.last(x.cos()), 2)],
    "keys that are no names": lambda m, x: {"a b": m.last(x), "0": [m.last(x.cos())], 1: x.size(1)},
    "a dict of its own class": lambda m, x: OrderedDict([("0", m.last(x)), ("class", m.last(-x))]),
}


@pytest.mark.parametrize("body", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_every_structure(body):
    model = network(lambda m, x: body(m, m.first(x)))
    check(model, (X,), "first:8")
    expected, got = model(X), fxprune.fold(fxprune.prepare(model, X, target=1.0))(X)
    assert type(got) is type(expected)
    if isinstance(expected, Mapping):
        assert list(got) == list(expected)
    if isinstance(expected, Answer):
        assert torch.equal(got.logits, expected.logits)


# Writes ---------------------------------------------------------------------------------------


def _adds_and_reads_later(m, x):
    x = m.first(x)
    same = x
    x += 1.0
    x *= torch.sigmoid(x)
    return m.last(x * same)


def _writes_a_part(m, x):
    x = m.first(x)
    x[:, :3] = 0.5
    return m.last(x)


def _writes_a_part_of_a_part(m, x):
    x = m.first(x).unflatten(1, (2, 4))
    x[:, 0][:, :2] = x[:, 1, 2:] * 2
    return m.out(m.mid(x.flatten(1)))


def _fills_in(m, x):
    x, y = m.first(x), torch.zeros(x.size(0), 8, dtype=x.dtype)
    y[:, 2:] = x[:, 2:]
    y[:, :2] += x[:, :2].cos()
    return m.last(y)


def _writes_a_position(m, x):
    x = m.first(x)
    x[:, 0] = x[:, 1]
    return m.out(m.mid(x))


def _writes_what_it_reads(m, x):
    x = m.first(x)
    x[:, 2:5] = x[:, 5:]
    return m.last(x)


def _writes_what_a_layer_makes(m, x):
    x = m.first(x)
    x[..., -5:] = m.mid(x)
    return m.last(x)


def _changes_parts(m, x):
    x = m.first(x)
    x[:, :2].mul_(2.0).relu_()
    x[:, 2:5].add_(x[:, 5:].cos())
    x[:, 5:] -= 1.0
    return m.last(x)


WRITES = {
    "what is added to is read later": (_adds_and_reads_later, "first:8"),
    "a part is overwritten": (_writes_a_part, "first[0:3]:3 first[3:8]:5"),
    "a part is overwritten by another": (_writes_what_it_reads, "first[0:2]:2 first[2:5]:3"),
    "the end is overwritten by a layer": (
        _writes_what_a_layer_makes,
        "first[0:3]:3 first[3:8]:5",
    ),
    "parts are changed in place": (_changes_parts, "first[0:2]:2 first[2:5]:3"),
    "a part of a part is overwritten": (_writes_a_part_of_a_part, "first/1[0:2]:2 mid:5"),
    "an array is filled in": (_fills_in, "first[0:2]:2 first[2:8]:6"),
    "a position is overwritten": (_writes_a_position, "mid:5"),
}


@pytest.mark.parametrize(("forward", "expected"), WRITES.values(), ids=WRITES)
def test_writes_are_followed(forward, expected):
    check(network(forward, mid=nn.Linear(8, 5), out=nn.Linear(5, 3)), (X,), expected)


# Regions --------------------------------------------------------------------------------------


REGIONS = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
}


def norm_in(region):
    """A model that divides by a norm without gradient."""

    def forward(m, x):
        x = m.first(x)
        with region():
            length = x.norm(dim=1, keepdim=True)
        return m.last(x / length.clone())

    return network(forward)


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_region_without_gradient_records_none(region):
    model = norm_in(region)
    check(model, (X,), "first:8")
    gated = fxprune.prepare(model, X, target=1.0)
    for module in (gated, fxprune.fold(gated)):
        for name, parameter in model.named_parameters():
            own = module.get_parameter(name)
            expected, got = (torch.autograd.grad(net(X).square().sum(), p)[0]
                             for net, p in ((model, parameter), (module, own)))  # fmt: skip
            torch.testing.assert_close(got, expected)


class Sign(torch.autograd.Function):
    """A straight-through estimator: its backward is not that of what its forward calls."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class SignOfItsOwn(Sign):
    """Makes a tensor where the model is, and draws a random number."""

    @staticmethod
    def forward(ctx, x):
        torch.rand(())
        return torch.where(x > 0, torch.tensor([1.0]).to(x.dtype), torch.tensor([-1.0]).to(x.dtype))


def _signs(m, x):
    return m.last(m.kind.apply(m.first(x)))


@pytest.fixture
def known_sign():
    """Registers the operators for one test."""
    names = [f"{__name__}.{kind.__name__}" for kind in (Sign, SignOfItsOwn)]
    for name in names:
        fxprune.register_operator(name, "b c *x -> b c *x")
    yield
    for name in names:
        _operators.pop(name)


def test_function_of_autograd_is_pinned_until_it_is_registered():
    with pytest.raises(fxprune.NothingToPruneError, match=r"unknown operator .*\.Sign at"):
        fxprune.prepare(network(_signs, kind=Sign), X)


@pytest.mark.parametrize("kind", [Sign, SignOfItsOwn])
def test_function_of_autograd_keeps_its_backward(known_sign, kind):
    model, random = network(_signs, kind=kind), torch.get_rng_state()
    gated = fxprune.prepare(model, X)
    assert torch.equal(torch.get_rng_state(), random)
    for module in (gated, copy.deepcopy(gated), fxprune.fold(gated, settle=False)):
        for name, parameter in model.named_parameters():
            pairs = (model, parameter), (module, module.get_parameter(name))
            expected, got = (torch.autograd.grad(net(X).sum(), p)[0] for net, p in pairs)
            assert expected.any()
            torch.testing.assert_close(got, expected)
    fxprune.reach_target(gated)
    fxprune.verify(gated, fxprune.fold(gated))


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("outside", [True, False])
def test_region_without_gradient_ends_as_it_began(region, outside):
    gated = fxprune.prepare(norm_in(region), X, target=1.0)
    for module in (gated, fxprune.fold(gated)):
        with torch.set_grad_enabled(outside):
            assert module(X).requires_grad is outside
            assert torch.is_grad_enabled() is outside


@pytest.mark.parametrize("inside", [True, False])
def test_autocast_region_begins_and_ends_where_it_does(inside):
    def forward(m, x):
        x = m.first(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            x = m.mid(x.float())
        kinds.append(x.dtype)
        return m.last(x.float())

    kinds = []
    model, x = network(forward, mid=nn.Linear(8, 8)).float(), X.float()
    gated = fxprune.prepare(model, x, target=1.0)
    folded = fxprune.fold(gated)
    kinds.clear()
    for module in (gated, folded):
        with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
            assert_rewrite_equivalent(model, module, inputs=[x], rtol=0.0)
            assert torch.is_autocast_enabled("cpu") is not inside
    assert set(kinds) == {torch.bfloat16 if inside else torch.float32}


# Modes ----------------------------------------------------------------------------------------


def _drops(m, x):
    return m.last(F.dropout(m.first(x), 0.5, m.training))


def _compares(m, x):
    return m.last(m.first(x) * (2 if m.training == True else 1))  # noqa: E712


def _answers_more_in_training(m, x):
    x = m.first(x)
    x = F.dropout(x, 0.5) if m.training and x.dim() == 2 else x
    return (m.last(x), m.last(x.cos())) if m.training else m.last(x)


@pytest.mark.parametrize("forward", [_drops, _compares, _answers_more_in_training])
@pytest.mark.parametrize("traced_in", [True, False])
def test_training_is_read_when_the_model_runs(forward, traced_in):
    model = network(forward)
    gated = fxprune.prepare(model.train(traced_in), X, target=1.0)
    for module in (gated, fxprune.fold(gated)):
        for mode in (True, False):
            results = []
            for net in (model, module):
                torch.manual_seed(3)
                results.append(net.train(mode)(X))
            torch.testing.assert_close(*results, rtol=1e-10, atol=0.0)


def _branches_after_its_mode(m, x):
    x = m.first(x)
    x = x.cos() if m.training else x
    return m.last(x + m.block(x))


def test_branch_of_both_modes_has_one_gate():
    block = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8))
    model = network(_branches_after_its_mode, block=block)
    check(model, (X,), "first:8 block.0:5 block+:1")
    for keep in ({"block+": [False]}, {"first": [True, False] * 4}):
        gated = fxprune.prepare(model, X, target=1.0)
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        assert bool(list(folded.block.parameters())) is ("block+" not in keep)
        for mode in (True, False):
            assert_rewrite_equivalent(gated.train(mode), folded.train(mode), inputs=[X])
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        assert_costs(folded, [X], record_of(gated).analysis.costs.at(sizes))


# Types and devices ----------------------------------------------------------------------------


def _in_its_type(m, x):
    x = m.first(x)
    return m.last(x * torch.full((1, 8), 0.3).to(x.dtype) + torch.ones(8).to(x))


def _made_in_its_type(m, x):
    x = m.first(x)
    return m.last(x + torch.zeros(x.size(0), 8, dtype=x.dtype, device=x.device))


def _single_inside(m, x):
    kind = x.dtype
    x = m.first(x).to(torch.float32)
    return m.last((x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))).to(kind))


@pytest.mark.parametrize("forward", [_in_its_type, _made_in_its_type, _single_inside])
def test_types_that_follow_the_input_do_so_later(forward):
    single = network(forward).float()
    gated = fxprune.prepare(single, X.float(), target=1.0)
    folded = fxprune.fold(gated)
    double, x = network(forward), X + 1e-9  # an explicit float32 inside cannot see the difference
    for module in (gated.double(), folded.double()):
        module.load_state_dict(double.state_dict(), strict=False)
        assert module(x).dtype is torch.float64
        assert torch.equal(module(x), double(x))
        assert torch.equal(module(x), module(X)) is (forward is _single_inside)


def test_devices_that_follow_the_input_do_so_later():
    gated = fxprune.prepare(network(_made_in_its_type), X, target=1.0)
    folded = fxprune.fold(gated)
    for module in (gated.to("meta"), folded.to("meta")):
        assert module(X.to("meta")).is_meta


# What tracing leaves as it was ----------------------------------------------------------------


def _remembers(m, x):
    m.shape, m.count = x.shape, m.count + 1
    m.steps.add_(1)
    m.last_input = x
    m.first.seen = m.late = nn.Identity()
    return m.last(m.first(x))


def _remembers_and_fails(m, x):
    _remembers(m, x)
    return m.last(x if m.first(x).sum() > 0 else -x)


@pytest.mark.parametrize(
    ("forward", "error"), [(_remembers, None), (_remembers_and_fails, fxprune.TraceError)]
)
def test_model_is_as_it_was(forward, error):
    model = network(forward, count=7, steps=nn.Buffer(torch.zeros(())))
    before = dict(model.__dict__), list(model._modules)
    with assert_unchanged(model):
        if error is None:
            fxprune.prepare(model, X)
        else:
            with pytest.raises(error):
                fxprune.prepare(model, X)
    assert (dict(model.__dict__), list(model._modules)) == before


def _global_state():
    return {
        "training": nn.Module.__dict__.get("training"),
        "call": nn.Module.__call__,
        "compiling": torch.compiler.is_compiling(),
        "exporting": torch.compiler.is_exporting(),
        "type": torch.get_default_dtype(),
        "gradient": torch.is_grad_enabled(),
        "modes": torch._C._len_torch_function_stack(),
        "function": torch.autograd.Function.__dict__["apply"],
    }


FAILING = {
    "not at all": lambda m, x: m.last(F.dropout(m.first(x).to(x.dtype), 0.5, m.training)),
    "on a value": lambda m, x: m.last(x if m.first(x).sum() > 0 else -x),
    "in a region": lambda m, x: m.last(_fails_without_gradient(m.first(x))),
    "in torch": lambda m, x: m.last(m.first(x) @ m.first(x)),
    "in Python": lambda m, x: m.last(m.first(x).no_such_method()),
    "in its result": lambda m, x: object(),
}


def _fails_without_gradient(x):
    with torch.no_grad():
        return x * x.mean().item()


@pytest.mark.parametrize("forward", FAILING.values(), ids=FAILING)
def test_torch_is_as_it_was(forward):
    model = network(forward)
    before, random = _global_state(), torch.get_rng_state()
    try:
        fxprune.prepare(model, X)
    except (fxprune.TraceError, fxprune.InputError):
        assert forward is not FAILING["not at all"]
    assert _global_state() == before
    assert torch.equal(torch.get_rng_state(), random)
    assert nn.Linear(2, 2).training


def _centred(m, x):
    """Gates act in its own code, which then is that for several samples."""
    inside = m.first(x)
    return m.last((inside - inside.mean(-1, keepdim=True)) if x.shape[0] > 1 else inside)


SINGLE = {
    "in generated code": (_centred, True),
    "in its own code": (lambda m, x: m.last(m.first(x) * (2 if x.shape[0] > 1 else 1)), False),
    "not at all": (lambda m, x: m.last(m.first(x) * (2 if x.shape[0] > 0 else 1)), False),
}


@pytest.mark.parametrize(("forward", "warned"), SINGLE.values(), ids=SINGLE)
def test_other_code_for_a_single_sample_is_said(forward, warned, caplog):
    fxprune.fold(fxprune.prepare(network(forward), X))
    said = "may run other code for a single sample than for several" in caplog.text
    assert said == warned
