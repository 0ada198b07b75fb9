"""What torch has compiled, transformed or never learned to trace: exact, or refused."""

import copy
import functools
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.frontend.packing import Imported, imported
from fxprune.torch.frontend.scripted import Scripted
from tests.torch.test_samples import some_keep_sets


def script(function):
    """`torch.jit.script`, which warns of its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(function)


def traced(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, torch.randn(2, 8))


@script
def scripted(x, y):
    return torch.tanh(x) * torch.sigmoid(y)


@script
def scripted_alone(x):
    return torch.sigmoid(torch.tanh(x))


@torch.compile(backend="eager")
def compiled(x):
    return torch.relu(x) * 2


@torch.library.custom_op("fxprune_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@torch.library.custom_op("fxprune_tests::positive", mutates_args=())
def positive(x: torch.Tensor) -> torch.Tensor:
    return x[x > 0].clone()


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.layer(x))


class Network(nn.Module):
    """`inside` stands beside a path of plain layers, so that something can always be pruned."""

    def __init__(self, inside, **parts):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.beside, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.inside = inside
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        inner = self.last(self.inside(self, self.first(x)))
        return self.out(torch.relu(self.beside(x))) + inner


@torch.no_grad()
def assert_exact(model, x, other):
    """Gated and folded do what the model does, at another batch as well."""
    expected = model(other)
    gated = fxprune.prepare(model, x, target=1.0)
    torch.testing.assert_close(gated(other), expected)
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        torch.testing.assert_close(gated(other), folded(other))
        copy_module(folded)(other)
    return gated


def pins(gated):
    return {group.name: group.pin for group in fxprune.groups(gated)}


BODIES = {
    "scripted function": (lambda m, x: scripted(x, x), {}, "unknown operator"),
    "scripted attribute": (lambda m, x: m.f(x, x), {"f": scripted}, "unknown operator"),
    "scripted module": (lambda m, x: m.part(x), {"part": Inner}, "unknown operator"),
    "traced module": (lambda m, x: m.part(x), {"part": Inner}, "unknown operator"),
    "compiled function": (lambda m, x: compiled(x), {}, ""),
    "compiled module": (lambda m, x: m.part(x), {"part": Inner}, ""),
    "partial": (lambda m, x: functools.partial(F.leaky_relu, negative_slope=0.3)(x), {}, ""),
    "operator without a rule for shapes": (lambda m, x: doubled(x), {}, "unknown operator"),
}
MAKE = {
    "scripted module": lambda kind: script(kind()),
    "traced module": lambda kind: traced(kind()),
    "compiled module": lambda kind: torch.compile(kind(), backend="eager"),
}


def model_of(name):
    inside, parts, _ = BODIES[name]
    make = MAKE.get(name, lambda part: part)
    return Network(inside, **{key: make(part) for key, part in parts.items()}).eval()


@pytest.mark.parametrize("name", BODIES)
def test_what_is_compiled_keeps_its_values(name):
    gated = assert_exact(model_of(name), torch.randn(4, 6), torch.randn(7, 6))
    assert pins(gated)["first"].startswith(BODIES[name][2])
    assert bool(pins(gated)["first"]) == bool(BODIES[name][2])


REFUSED = {
    "vmap": lambda m, x: torch.vmap(torch.relu)(x),
    "grad": lambda m, x: torch.func.grad(lambda y: y.sin().sum())(x),
    "numpy": lambda m, x: torch.from_numpy(x.detach().numpy() * 2),
    "scripted in a closure": (lambda f: lambda m, x: f(x, x))(scripted),
    "shape depends on values": lambda m, x: x * positive(x).sum(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_seen_is_refused_or_exact(name):
    model, x = Network(REFUSED[name]).eval(), torch.randn(4, 6)
    try:
        gated = fxprune.prepare(model, x, target=1.0)
    except (fxprune.TraceError, fxprune.InputError):
        return
    torch.testing.assert_close(gated.eval()(other := torch.randn(7, 6)), model(other))


# Saved by torch.save ----------------------------------------------------------------------------

SAVED = {
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "lp_pool": lambda x: F.lp_pool2d(x, 2, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "torch._C._nn": lambda x: torch._C._nn.gelu(x),
    "operator": lambda x: 2 - x,
    "method": lambda x: x.relu(),
    "special": lambda x: torch.special.expit(x),
}


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.beside, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)


@pytest.mark.parametrize("name", SAVED)
def test_torch_save_names_functions_by_where_they_are(name, monkeypatch):
    function = SAVED[name]

    def forward(self, x):
        beside = self.out(torch.relu(self.beside(x))).mean((2, 3), keepdim=True)
        return self.last(function(self.first(x))) + beside

    monkeypatch.setattr(Convolutions, "forward", forward, raising=False)
    x = torch.randn(2, 3, 8, 8)
    gated = fxprune.prepare(Convolutions().eval(), x, target=1.0)
    for model in (gated, fxprune.fold(gated)):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_functions_without_a_name_are_refused_when_saved():
    assert imported(F.max_pool2d) == Imported("torch.nn.functional", "max_pool2d")
    assert imported(somewhere).found() is somewhere
    with pytest.raises(pickle.PicklingError, match="cannot be imported by a name"):
        imported(lambda x: x)


def test_scripted_functions_are_saved_by_name():
    loaded = pickle.loads(pickle.dumps(Scripted(scripted_alone)))
    assert loaded.function is scripted_alone


def somewhere():
    """A function that says where it is."""


# Types of parameters ------------------------------------------------------------------------------


class Spectral(nn.Module):
    """Complex weights in the frequency domain."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.randn(4, dtype=torch.cfloat))
        self.mix = nn.Linear(8, 8, dtype=torch.cfloat)

    def forward(self, x):
        x = torch.fft.irfft(torch.fft.rfft(x) * self.scale, n=6)
        y = torch.relu(self.first(x))
        return self.last(y) + self.last(self.mix(y.to(torch.cfloat)).abs() * 0.1)


def test_complex_parameters_stay_whole():
    x = torch.randn(4, 6)
    model = Spectral().eval()
    model.beside, model.out = nn.Linear(6, 5), nn.Linear(5, 2)
    plain = Spectral.forward
    Both = type(
        "Both",
        (Spectral,),
        {"forward": lambda self, x: plain(self, x) + self.out(self.beside(x).relu())},
    )
    model.__class__ = Both
    gated = assert_exact(model, x, torch.randn(5, 6))
    folded = fxprune.fold(gated)
    assert folded.get_parameter("scale").is_complex()
    fxprune.verify(gated, folded)
    assert pins(gated)["beside"] == ""


def test_sparse_parameters_are_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model.table = nn.Parameter(torch.eye(4).to_sparse())
    with pytest.raises(fxprune.InputError, match="table is a sparse parameter"):
        fxprune.prepare(model, torch.randn(2, 4))


# A branch that tells the others its type ------------------------------------------------------


class Adapted(nn.Module):
    """A layer with a low-rank branch, which is asked for the type to compute in."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.down = nn.ModuleDict({"one": nn.Linear(inputs, 4, bias=False)})
        self.up = nn.ModuleDict({"one": nn.Linear(4, outputs, bias=False)})

    def forward(self, x):
        y = self.base(x)
        low = self.down["one"](x.to(self.down["one"].weight.dtype))
        return (y + self.up["one"](low).to(self.base.weight.dtype) * 2.0).to(low.dtype)


def test_removed_branches_are_not_asked_for_their_type():
    model = nn.Sequential(Adapted(8, 12), nn.ReLU(), Adapted(12, 6), nn.ReLU(), nn.Linear(6, 4))
    x = torch.randn(2, 8)
    gated = fxprune.prepare(model.eval(), x, target=1.0)
    branches = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    assert len(branches) == 2
    fxprune.set_keep_set(gated, {name: [False] for name in branches})
    folded = fxprune.fold(gated)
    assert not [name for name, _ in folded.named_parameters() if "down" in name or "up" in name]
    assert_rewrite_equivalent(gated.double(), folded.double(), inputs=(x.double(),))
    assert copy.deepcopy(folded).half()(x.half()).dtype == torch.half


# Losses in forward ----------------------------------------------------------------------------

REAL, CLASS = torch.randn(5, 4), torch.randint(0, 4, (5,))
LOSSES = {
    "mse_loss": (F.mse_loss, REAL),
    "l1_loss": (F.l1_loss, REAL),
    "smooth_l1_loss": (F.smooth_l1_loss, REAL),
    "huber_loss": (F.huber_loss, REAL),
    "cross_entropy": (F.cross_entropy, CLASS),
    "smoothed": (lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), CLASS),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, REAL.sigmoid()),
    "binary": (lambda y, t: F.binary_cross_entropy(y.sigmoid(), t), REAL.sigmoid()),
    "kl_div": (lambda y, t: F.kl_div(y.log_softmax(-1), t.softmax(-1)), REAL),
    "triplet": (lambda y, t: F.triplet_margin_loss(y, t, -t), REAL),
    "unreduced": (lambda y, t: F.mse_loss(y, t, reduction="none").sum(), REAL),
    "broadcast": (lambda y, t: sum(torch.broadcast_tensors(y, t[:, :1])).mean(), REAL),
}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", LOSSES)
def test_models_that_compute_their_loss_are_followed(name):
    loss, target = LOSSES[name]

    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x, labels):
            y = self.last(torch.relu(self.first(x)))
            return loss(y, labels), y

    model, x = Trained().eval(), torch.randn(5, 6)
    gated = fxprune.prepare(model, (x, target), target=1.0)
    torch.testing.assert_close(gated(x, target), model(x, target))
    fxprune.set_keep_set(gated, {"first": [True, False] * 4})
    torch.testing.assert_close(fxprune.fold(gated)(x, target), gated(x, target))


def test_both_results_of_broadcast_tensors_have_the_channels_of_their_operands():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 1), nn.Linear(8, 3)

        def forward(self, x):
            wide, narrow = torch.broadcast_tensors(self.a(x), self.b(x))
            return self.out(wide.relu() * narrow.sigmoid())

    gated = assert_exact(Broadcast().eval(), torch.randn(4, 6), torch.randn(7, 6))
    assert pins(gated)["a"] == ""
