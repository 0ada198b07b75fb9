"""Recording a model leaves no trace: in torch, in Python, in other threads, in what it imports."""

import builtins
import functools
import importlib
import logging
import os
import pickle
import random
import sys
import threading
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fxprune
from fxprune.torch.backend.generated import GRAPH
from fxprune.torch.backend.literals import Resized
from fxprune.torch.frontend.flags import TrainingFlag
from fxprune.torch.frontend.numbers import TracedNumber
from fxprune.torch.frontend.origins import OwnInt
from tests.torch.models import Residual
from tests.torch.test_laws import drawn, examples, pruned

FORWARDS = {}
"""What the imported module asks for, by name."""


class Network(nn.Module):
    """Runs `inside(self, x)` between two layers."""

    def __init__(self, inside):
        super().__init__()
        self.first, self.last, self.inside = nn.Linear(6, 8), nn.Linear(8, 3), inside

    def forward(self, x):
        return self.last(self.inside(self, self.first(x)))


def inputs():
    return torch.randn(4, 6)


# What can be seen from elsewhere ---------------------------------------------------------------


def visible():
    """All that code may find in Python's and torch's namespaces and classes."""
    owners = [builtins, torch, torch._VF, torch.compiler, torch.nn.functional, torch.autograd]
    owners += [nn.Module, Tensor, torch.autograd.Function, torch.autocast, torch.no_grad]
    owners += [torch.enable_grad, torch.inference_mode]
    return {(str(owner), name): value for owner in owners for name, value in vars(owner).items()}


def assert_as(before):
    now = visible()
    changed = {key for key in before if now.get(key) is not before[key]}
    # Torch imports parts of itself when it first needs them.
    new = {key for key in now.keys() - before.keys() if not isinstance(now[key], ModuleType)}
    assert not changed | new


def warm():
    """What torch does to itself when it runs for the first time is none of ours."""
    fxprune.prepare(Network(lambda m, x: x.relu()), inputs())


@pytest.fixture
def looking_module(tmp_path, monkeypatch):
    """A module that looks around when it is imported."""
    (tmp_path / "fxprune_looks_around.py").write_text(
        "import torch\n"
        "from tests.torch.frontend.test_global_state import visible\n"
        "seen, made = visible(), torch.arange(3)\n"
        "training = torch.nn.Linear(2, 2).training\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "fxprune_looks_around"
    sys.modules.pop("fxprune_looks_around", None)


def test_what_forward_imports_sees_nothing_of_the_trace(looking_module):
    warm()
    before = visible()

    def inside(model, x):
        importlib.import_module(looking_module)
        return x.relu()

    gated = fxprune.prepare(Network(inside), inputs())
    module = sys.modules[looking_module]
    assert {key: module.seen[key] for key in before} == before
    assert module.training is True
    assert not module.made.is_meta
    assert type(module.__loader__).__module__ == type(module.__spec__.loader).__module__
    assert "fxprune" not in type(module.__loader__).__module__
    assert not any("fxprune" in type(finder).__module__ for finder in sys.meta_path)
    assert [group.name for group in fxprune.groups(gated) if not group.pin] == ["first"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_torch_is_as_before_however_forward_ends(error):
    warm()
    before = visible()

    def inside(model, x):
        with torch.no_grad(), torch.autocast("cpu"):
            if error is not None:
                raise error
        return x.relu()

    if error is None:
        fxprune.prepare(Network(inside), inputs())
    else:
        with pytest.raises((error, fxprune.FxpruneError)):
            fxprune.prepare(Network(inside), inputs())
    assert_as(before)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_builtins_are_never_replaced():
    def inside(model, x):
        assert (builtins.len, builtins.range, builtins.isinstance) == kept
        return x.view(len(x), -1).relu()

    kept = builtins.len, builtins.range, builtins.isinstance
    gated = fxprune.prepare(Network(inside), inputs())
    assert gated(torch.randn(7, 6)).shape == (7, 3)


def test_another_thread_notices_nothing():
    other = Network(lambda m, x: x.relu())
    wanted, seen = other(torch.ones(2, 6)), []

    def look():
        seen.extend([other.training is True, torch.equal(other(torch.ones(2, 6)), wanted)])
        seen.append(not torch.nn.LSTM(2, 3)(torch.ones(1, 1, 2))[0].is_meta)

    def inside(model, x):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return x.relu()

    fxprune.prepare(Network(inside), inputs())
    assert seen and all(seen)


def test_threads_prepare_at_once():
    before, found = visible(), []

    def work(width):
        model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
        for _ in range(3):
            gated = fxprune.prepare(model, inputs())
            found.append([g.size for g in fxprune.groups(gated) if not g.pin] == [width])

    threads = [threading.Thread(target=work, args=(8 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12
    assert_as(before)


# What the model's code keeps ------------------------------------------------------------------


@functools.lru_cache
def grid(size):
    return torch.linspace(0.0, 1.0, size)


_KEPT: dict[str, Tensor] = {}


class Keeps:
    def __init__(self):
        self.shapes, self.last = [], None


def filled(number):
    return torch.full((), float(number))


lookup = filled
"""What a forward makes a function of that keeps its results."""


def test_what_keeps_results_from_the_second_run_on_keeps_nothing_of_the_trace(monkeypatch):
    monkeypatch.setitem(globals(), "lookup", filled)

    def inside(network, x):
        y = x * lookup(3)
        if lookup is filled:
            globals()["lookup"] = functools.lru_cache(filled)
        return y if network.training else y + 1

    fxprune.prepare(Network(inside), inputs())
    assert lookup is not filled
    assert not lookup(3).is_meta


def test_forward_keeps_nothing_of_the_trace():
    def inside(model, x):
        model.shapes.append(x.shape)
        model.nested["deep"] = [{"shape": x.shape}]
        model.helper.shapes.append(x.shape)
        model.helper.last = x
        _KEPT["x"] = x
        return x.relu() + grid(3).sum()

    model = Network(inside)
    model.shapes, model.nested, model.helper = [], {"deep": []}, Keeps()
    helper = model.helper
    gated = fxprune.prepare(model, inputs())
    assert (model.shapes, model.nested, _KEPT) == ([], {"deep": []}, {})
    assert (helper.shapes, helper.last) == ([], None)
    assert not grid(3).is_meta
    assert torch.equal(model(x := inputs()), gated.eval()(x))


OURS = (*TracedNumber.__args__, TrainingFlag, Resized, OwnInt)


def held_in(value):
    """All that hangs on a value, itself included."""
    pending, met = [value], set()
    while pending:
        item = pending.pop()
        if id(item) in met:
            continue
        met.add(id(item))
        yield item
        if isinstance(item, dict):
            pending.extend((*item.keys(), *item.values()))
        elif isinstance(item, list | tuple | set):
            pending.extend(item)
        elif isinstance(item, slice):
            pending.extend((item.start, item.stop, item.step))


def assert_plain(module):
    """Attributes of all modules, and all arguments in their graphs, are of the user's types."""
    for part in module.modules():
        own = {k: v for k, v in part.__dict__.items() if k not in ("_graph", "meta")}
        assert not [item for item in held_in(own) if isinstance(item, OURS)]
        for node in getattr(type(part), GRAPH, fx.Graph()).nodes:
            kept = [node.args, node.kwargs, node.meta.get("value")]
            assert not [item for item in held_in(kept) if isinstance(item, OURS)], node


@examples(20)
@given(drawn(), st.data())
def test_gated_and_folded_hold_plain_numbers(network, data):
    gated, folded = pruned(network, data)
    for module in (gated, folded):
        assert_plain(module)


def test_bounds_of_slices_are_plain_numbers_after_a_fold():
    model = Network(lambda m, x: torch.cat([x[:, 4:].relu(), x[:, :4].narrow(1, 1, 2)], 1))
    model.last = nn.Linear(6, 3)
    gated = fxprune.prepare(model, inputs(), target=1.0)
    free = [group for group in fxprune.groups(gated) if not group.pin]
    keep = {g.name: [i == 0 for i in range(g.size)] for g in free if g.kind != "branch"}
    fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated)
    assert_plain(folded)
    assert folded.get_parameter("first.weight").shape[0] < 8


def test_pickles_name_none_of_our_numbers():
    folded = fxprune.fold(gated())
    for name in (b"TracedInt", b"TracedFloat", b"Resized", b"TrainingFlag"):
        assert name not in pickle.dumps(folded)


def test_layers_whose_numbers_are_ours_are_found():
    folded = fxprune.fold(fxprune.prepare(Residual(), torch.randn(2, 3, 8, 8), target=1.0))
    folded.head.sizes = [{"width": TracedNumber.__args__[0](3)}]
    with pytest.raises(AssertionError):
        assert_plain(folded)


# What verbs leave -------------------------------------------------------------------------------


def settings_now():
    """Everything that a verb could switch for the whole process."""
    loggers = [
        logging.getLogger(),
        *map(logging.getLogger, sorted(logging.root.manager.loggerDict)),
    ]
    return {
        "loggers": {log.name: (log.level, tuple(log.handlers), log.disabled) for log in loggers},
        "disabled": logging.root.manager.disable,
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "random": (random.getstate(), str(np.random.get_state())),
        "torch random": torch.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "types": (torch.get_default_dtype(), torch.get_default_device()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "compiling": (torch.compiler.is_compiling(), torch.compiler.is_exporting()),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
        "finders": list(sys.meta_path),
        "hooks": len(torch.nn.modules.module._global_forward_hooks),
    }


def differences(before, after):
    """The settings that differ; a logger that is new must be as new loggers are."""
    new = {name: state for name, state in after["loggers"].items() if name not in before["loggers"]}
    changed = [key for key in before if key != "loggers" and before[key] != after[key]]
    changed += [n for n, state in before["loggers"].items() if after["loggers"][n] != state]
    return changed + [n for n, (level, _, off) in new.items() if (level or off) and "fxprune" in n]


def gated():
    return fxprune.prepare(Residual(), torch.randn(2, 3, 8, 8))


VERBS = {
    "prepare": lambda folder: gated(),
    "fold": lambda folder: fxprune.fold(gated()),
    "prune": lambda folder: fxprune.prune(Residual(), torch.randn(2, 3, 8, 8)),
    "importance": lambda folder: fxprune.importance(gated()),
    "verify": lambda folder: fxprune.verify(model := gated(), fxprune.fold(model)),
    "save": lambda folder: fxprune.save(fxprune.fold(gated()), folder, overwrite=True),
    "report": lambda folder: fxprune.report(gated()),
    "export": lambda folder: fxprune.export_onnx(
        fxprune.fold(gated()), folder / "a.onnx", overwrite=True
    ),
    "refused": lambda folder: fxprune.prepare(Residual(), torch.randn(2, 4, 8, 8)),
    "refused by name": lambda folder: fxprune.prune(
        Residual(), torch.randn(2, 3, 8, 8), method="?"
    ),
    "refused by values": lambda folder: fxprune.prepare(
        Network(lambda m, x: x if x.sum() > 0 else -x), inputs()
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_leaves_every_setting_as_it_was(verb, tmp_path):
    def attempt():
        try:
            VERBS[verb](tmp_path)
        except fxprune.FxpruneError:
            assert "refused" in verb

    attempt()  # torch sets up its own loggers and generators when it first exports
    before = settings_now()
    attempt()
    changed = differences(before, settings_now())
    assert [name for name in changed if name != "torch random"] == []  # it draws its own model


def test_random_numbers_stay_those_that_would_have_come(tmp_path):
    model, x = Residual(), torch.randn(2, 3, 8, 8)
    state = torch.get_rng_state()
    prepared = fxprune.prepare(model, x)
    folded = fxprune.fold(prepared)
    fxprune.verify(prepared, folded)
    fxprune.save(folded, tmp_path)
    fxprune.report(prepared)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_setting_that_is_left_is_seen():
    before = settings_now()
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(level + 10)
    try:
        assert differences(before, settings_now()) == ["torch.onnx"]
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
