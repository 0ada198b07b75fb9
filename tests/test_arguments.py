"""Whatever a verb is called with wrongly is refused in the same words by every verb.

One table of wrong values by the name of the argument serves all public names, so that what is wrong
for one verb is wrong for all of them; a new verb, or a new argument, has to find its row.
"""

import copy
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import plain
from tests.worlds import GROUP, World, X, Y

SHAPE = (1, 3, 8, 8)


# Calls that are right ---------------------------------------------------------------------------

Call = Mapping[str, Any]


def rubik(resolution: float, depth: float, width: float) -> tuple[nn.Module, torch.Tensor]:
    """A network of three sizes."""
    wide, size = max(1, round(16 * width)), int(16 * resolution)
    layers = [nn.Conv2d(wide, wide, 3, padding=1) for _ in range(round(4 * depth))]
    return nn.Sequential(nn.Conv2d(3, wide, 1), *layers), torch.zeros(1, 3, size, size)


RIGHT: dict[str, Callable[[World], Call]] = {
    "AutoBot": lambda w: {},
    "Clock": lambda w: {},
    "Consensus": lambda w: {},
    "FeatureDistillation": lambda w: {"model": w.model, "teacher": w.model, "layers": ["0"]},
    "HardConcrete": lambda w: {},
    "Static": lambda w: {},
    "distillation_loss": lambda w: {
        "logits": torch.zeros(4, 4),
        "teacher_logits": torch.zeros(4, 4),
        "labels": Y,
    },
    "export_onnx": lambda w: {
        "model": w.model,
        "path": w.place("new.onnx"),
        "example_inputs": X,
    },
    "factorise": lambda w: {"model": w.model, "layers": ["0"], "data": [(X, Y)]},
    "factorise_onnx": lambda w: {"source": w.proto, "data": [X.numpy()]},
    "factors": lambda w: {"model": w.model},
    "fold": lambda w: {"gated": w.gated},
    "fold_onnx": lambda w: {"source": w.proto, "keep_set": {GROUP: [True, False] * 4}},
    "groups": lambda w: {"gated": w.gated},
    "importance": lambda w: {"gated": w.gated, "method": "taylor", "data": [(X, Y)]},
    "inspect_onnx": lambda w: {"source": w.proto},
    "keep_set": lambda w: {"gated": w.gated},
    "load": lambda w: {
        "folder": fxprune.save(w.folded, w.place("saved"), overwrite=True),
        "model": w.model,
    },
    "merge": lambda w: {"model": w.model},
    "merge_onnx": lambda w: {"source": w.proto},
    "parameter_groups": lambda w: {"model": w.gated},
    "prepare": lambda w: {"model": w.model, "example_inputs": X},
    "progress": lambda w: {"gated": w.gated},
    "prune": lambda w: {
        "model": w.model,
        "example_inputs": X,
        "method": "taylor",
        "data": [(X, Y)],
    },
    "prune_checkpoint": lambda w: {
        "folder": w.weights(),
        "out": w.place(f"pruned{len(list(w.folder.iterdir()))}"),
        "model": w.model,
        "example_inputs": X,
    },
    "prune_onnx": lambda w: {"source": w.proto, "method": "wanda", "data": [X.numpy()]},
    "quantize": lambda w: {"source": w.proto, "output": w.place("new.onnx")},
    "reach_latency": lambda w: {
        "gated": fxprune.prepare(w.model, X, target={"latency": 1.0}),
        "importance": {GROUP: range(8)},
    },
    "reach_target": lambda w: {"gated": w.gated, "importance": {GROUP: range(8)}},
    "refit": lambda w: {"gated": w.gated, "data": [X]},
    "register_operator": lambda w: {"name": "my.op", "pattern": "b c -> b c", "macs": "b c"},
    "report": lambda w: {"subject": w.gated, "latency": False},
    "resize": lambda w: {"builder": rubik, "macs": 0.5},
    "save": lambda w: {"folded": w.folded, "folder": w.place("saved")},
    "score": lambda w: {"model": w.gated, "data": [(X, Y)], "method": "snip"},
    "search": lambda w: {
        "gated": w.gated,
        "score": "taylor",
        "target": 0.5,
        "trials": 2,
        "data": [(X, Y)],
    },
    "sensitivity": lambda w: {"gated": w.gated, "score": "snip", "data": [(X, Y)]},
    "set_keep_set": lambda w: {"gated": w.gated, "keep": {GROUP: [True, False] * 4}},
    "shrink": lambda w: {
        "gated": w.gated,
        "optimizer": torch.optim.SGD(w.gated.parameters(), lr=0.1),
    },
    "training_cost": lambda w: {"model": w.model},
    "verify": lambda w: {"gated": w.gated, "folded": w.folded},
    "verify_onnx": lambda w: {"before": w.proto, "after": w.proto},
    "write_figures": lambda w: {"subject": w.folded, "folder": w.place("figures")},
    "write_model_card": lambda w: {"subject": w.folded, "folder": w.place("card")},
    "write_report": lambda w: {
        "subject": w.folded,
        "path": w.place("new.html"),
        "latency": False,
    },
}
RESULTS = {
    "Factorised",
    "Found",
    "GroupInfo",
    "GroupView",
    "OnnxFactors",
    "OnnxResult",
    "Quantization",
    "Timed",
    "Report",
    "Sensitivity",
    "TrainingCost",
    "Verdict",
}
"""What verbs return; nobody else makes it."""


def verbs() -> list[str]:
    """All public names that are called by users."""
    named = {name: getattr(fxprune, name) for name in fxprune.__all__}
    errors = {n for n, thing in named.items() if isinstance(thing, type)} & {
        n for n, thing in named.items() if isinstance(thing, type) and issubclass(thing, Exception)
    }
    return [n for n, thing in named.items() if callable(thing) and n not in errors | RESULTS]


def call(verb: str, arguments: Call) -> Any:
    result = getattr(fxprune, verb)(**arguments)
    if verb == "training_cost":
        with result as inside:
            return inside
    return result


# Values that are wrong --------------------------------------------------------------------------


def used_up() -> Iterator[Any]:
    batches = iter([(X, Y)])
    next(batches)
    return batches


NOT_FLAGS = ["yes", "False", None, 1, 0, 2.0, [], object()]
NOT_WHOLE = [2.5, "8", True, None, math.nan, math.inf, [8], object()]
NOT_NUMBERS = ["0.5", "", None, True, math.nan, [0.5], {}, object(), 1j]
MODULES = [None, 3, "model.pt", Path("model.pt"), plain().state_dict(), nn.Conv2d, [nn.ReLU()]]
FILES = [3, "", b"a.onnx", "a\0b.onnx", [], object(), "a" * 5000]
PLACES = [*FILES, "missing/a.onnx", "missing/a.html", "a.txt", ".", "empty.onnx"]
MODELS = [None, *FILES, "missing.onnx", "empty.onnx", "text", b"", b"junk", plain(), {}]
MODELS += [onnx.ModelProto(), torch.zeros(2)]
NAMES = [None, 3, "nowhere", ["nowhere"], [3], [None], b"0", {"0": 1}, "", [""], object()]
BATCHES = [3, 0.5, [], iter(()), used_up(), "missing.npz", b"x", {"x": X}, X, [3], [None], ["x"]]
BATCHES += [object(), [torch.zeros(2, 5)], [(torch.zeros(2, 5, 8, 8), Y)], [()], [{}]]
KEEP_SETS = [3, "small.onnx", [True] * 8, {"nope": [True] * 8}, {3: [True]}]
KEEP_SETS += [
    {GROUP: wrong}
    for wrong in (
        *(None, "all", "11110000", [2] * 8, [0.5] * 8, [math.nan] * 8, [None] * 8, [10**30] * 8),
        *([True] * 7, [], [False] * 8, {0: True}, object(), [[True], [True, False]], 1, b"1" * 8),
    )
]

UNKNOWN_PROVIDER = ["cuda"]

WRONG: dict[str, list[Any]] = {
    "activation_weight": [-1, 0, *NOT_NUMBERS],
    "after": MODELS,
    "base_model": [3, "", "a b", "a/b/c", "../a", b"a", [], object()],
    "batch_sizes": [0, 3, "12", [0], [-1], [2.5], [True], ["1"], None, {1: 2}, object()],
    "batch": [0, -1, *NOT_WHOLE],
    "before": MODELS,
    "binary_weight": [-1, math.inf, *NOT_NUMBERS],
    "bits": [0, -1, 3, 9, 16, *NOT_WHOLE],
    "branches": NOT_FLAGS,
    "builder": [None, 3, "x", [], nn.ReLU(), len, lambda **config: 3],
    "calibration": [*BATCHES, lambda: 3, len, lambda: 1 / 0, [X.numpy() * math.nan]],
    "clock": [3, "", "torch", {}, [], fxprune.Clock, object()],
    "consensus_weight": [-1, math.inf, *NOT_NUMBERS],
    "consume": NOT_FLAGS,
    "copy": NOT_FLAGS,
    "correct": NOT_FLAGS,
    "cost_weight": [-1, math.inf, *NOT_NUMBERS],
    "costs": [3, "macs", {}, lambda: {}, lambda **config: {"macs": 1}],
    "country": [3, None, "Germany", "de", ["DEU"], b"DEU"],
    "data": BATCHES,
    "example_inputs": [
        *(3, "image", [], {}, X.numpy(), object(), {"z": X}, (X, X), X.long()),
        *(
            torch.zeros(1, 5, 8, 8),
            torch.zeros(3),
            nn.ReLU(),
            [1, 2],
            [None],
        ),
    ],
    "factorise": [3, "low", ["spatial", "x"], b"spatial", {"form": "spatial"}, object()],
    "folded": MODULES,
    "form": [None, 3, "low", b"spatial", [], object()],
    "folder": [None, *FILES, "text"],
    "frozen": NOT_FLAGS,
    "gated": [*MODULES, plain()],
    "hidden": [0, -1, *NOT_WHOLE],
    "ignore": [*NAMES, [nn.Conv2d(1, 1, 1)], "*: heads", "nowhere.*"],
    "importance": [
        *(3, "x", [], {}, {GROUP: [1.0] * 8, "zz": [1.0]}),
        *({GROUP: wrong} for wrong in ([1.0] * 7, "all", None, [math.nan] * 8, [1j] * 8, object())),
    ],
    "inputs": [3, "x", X, {"x": X}, ["image"], [None], [torch.zeros(1, 5, 8, 8)], object()],
    "keep": KEEP_SETS,
    "keep_set": KEEP_SETS,
    "uniform": [*NAMES, "nowhere.*", "*: heads"],
    "labels": [3, "x", [0, 1, 2, 3], torch.zeros(5), torch.full((4,), 9), torch.zeros(4)],
    "latency": NOT_FLAGS,
    "layers": [*NAMES, [], [[]]],
    "leaf": NAMES,
    "least": [
        *(-0.1, 1.5, *NOT_NUMBERS[:5], [0.5], {"nowhere": 0.5}, {"0": 2}, {3: 0.5}),
        *(
            {"0": {"0": 0.5}},
            {"0": "x"},
            object(),
        ),
    ],
    "least_score": [math.inf, *NOT_NUMBERS[:2], True, math.nan, {}, object(), 0.5],
    "logits": [3, None, "x", [[0.0]], torch.zeros(4), torch.zeros(4, 4).long(), torch.zeros(4, 5)],
    "loss": [3, "ce", [], lambda m, b: 3, lambda: 0, lambda m, b: m(b[0]), lambda m, b: 1 / 0],
    "lr": [0, -1, math.inf, *NOT_NUMBERS],
    "macs": [3, None, "zz", [], b"b"],
    "method": [
        *(None, 3, "magnitud", "", b"random", ["random"], {}, fxprune.Static, object()),
        *(lambda group: 1 / 0, lambda group: [0.0], lambda group: [math.nan] * 8, lambda: 0),
    ],
    "model": MODULES,
    "name": [3, None, "", [], b"x", "conv"],
    "onnx": [*FILES, "missing.onnx", "empty.onnx", "text"],
    "opening": [0, 1, -1, *NOT_NUMBERS],
    "opset": [0, -1, 10**6, *NOT_WHOLE],
    "optimizer": [
        *("adam", 3, torch.optim.SGD, [], {}, object()),
        *(torch.optim.SGD(plain().parameters(), lr=0.1),),
    ],
    "options": [{"params": []}],
    "out": [None, *FILES, "text", ".", "missing/out", "empty.onnx"],
    "output": [*PLACES, "there.onnx"],
    "overwrite": NOT_FLAGS,
    "path": [None, *PLACES, "there.onnx", "there.html"],
    "pattern": [3, None, "", [], "b c", "b (c -> b", "b c -> b -> c", b"b -> b"],
    "points": [
        *(3, None, "abc", [3], [(1,)], [("a", "b")], [(math.nan, 1)], [(1, 2, "l", "x")]),
        *(
            {1: 2},
            [None],
            ["12"],
            object(),
        ),
    ],
    "polarisation_weight": [-1, 5, math.inf, *NOT_NUMBERS],
    "device": [3.5, "", "nowhere", "cuda:99", "meta", [], object()],
    "providers": [
        *(3, "", "CPUExecutionProvider", [], UNKNOWN_PROVIDER, [3], [("CPUExecutionProvider", 3)]),
    ],
    "ranges": [3, "x", {}, {"depth": [1, 2]}, [1]],
    "ridge": [0, -1, math.inf, *NOT_NUMBERS],
    "round_to": [0, -1, *NOT_WHOLE],
    "rounding": [-0.1, 1.1, *NOT_NUMBERS],
    "depth": [0, -1, math.inf, *NOT_NUMBERS[:2], True, math.nan, [1.0]],
    "resolution": [0, -1, math.inf, *NOT_NUMBERS[:2], True, math.nan, [1.0]],
    "dynamic": [3, "x", [1], {"nowhere": {1: "n"}}, {3: {1: "n"}}, {"nowhere": 3}, object()],
    "in_kind": NOT_FLAGS,
    "runtime": [3, "", "onnx", "Torch", b"torch", [], object()],
    "sampler": [None, 3, "", "best", "tpee", [], {}, b"tpe", object(), lambda seed: 3],
    "scatter": NOT_FLAGS,
    "score": [
        *(
            3,
            "",
            "accuracy",
            "-naswot",
            [],
            {},
            b"macs",
            object(),
            nn.ReLU(),
            [3],
            {"0": [1.0] * 7},
        ),
        *(["macs", "macs"], lambda model: math.nan, lambda model: "x", lambda: 0, lambda m: 1 / 0),
    ],
    "sensitivity": [3, "x", [], {}, object()],
    "settle": NOT_FLAGS,
    "scope": [3, None, [], "nowhere", b"0", True, {}],
    "seed": [-1, 2**64, *NOT_WHOLE],
    "shapes": [
        *(3, "x", [], [SHAPE], {"z": SHAPE}, {"x": (1,)}, {"x": (0, 3, 8, 8)}, {3: SHAPE}),
        *({"x": wrong} for wrong in ((-1, 3, 8, 8), "1388", 3, None, (1.5, 3, 8, 8), (1, 4, 8, 8))),
    ],
    "share": [-0.1, 1.1, *NOT_NUMBERS],
    "shares": [3, 0.5, "x", [], [0], [1], [2], ["a"], [None], {0.5: 1}, object()],
    "sharpening": [-1, math.inf, *NOT_NUMBERS],
    "shrink_every": [-1, *NOT_WHOLE],
    "source": MODELS,
    "steps": [0, -1, 2.5, "8", True, math.nan, math.inf, [8], object()],
    "storage": [3, "", [], b"s", object(), "missing/study.log", ".", "text", "nowhere://x"],
    "stretch": [None, 3, "ab", (1,), (0.1, 1.1), (-0.1, 0.9), (math.nan, 1.1), ("a", "b"), {}],
    "subject": [None, 3, "text", plain(), {}, [], object()],
    "target": [
        *(0, -0.5, math.inf, *NOT_NUMBERS, {"energy": 0.5}, {"macs": "x"}, {3: 0.5}, 1e12),
        *(
            {"macs": math.nan},
            {"0": {"0": 0.5}},
            {"0": {}},
            {"nowhere": {"macs": 0.5}},
        ),
    ],
    "teacher": MODULES,
    "teacher_logits": [3, None, "x", [[0.0]], torch.zeros(4), torch.zeros(4, 5)],
    "temperature": [0, -1, math.inf, *NOT_NUMBERS],
    "threads": [0, -1, *NOT_WHOLE],
    "total_steps": [0, -1, 2.5, "8", True, math.nan, [8]],
    "trials": [0, -1, *NOT_WHOLE],
    "values": [None, 3, "nowhere", ["nowhere"], [3], {}, b"h", [""]],
    "verdict": [3, "ok", [], True, object()],
    "warmup": [-0.1, 1, 1.5, *NOT_NUMBERS],
    "what": [3, None, [], b"x"],
}
ALSO_WRONG: dict[tuple[str, str], list[Any]] = {
    ("quantize", "output"): [None],
    ("resize", "macs"): [0, -1, math.inf, 1e30, math.nan, True],
    ("fold_onnx", "keep_set"): [None],
    ("set_keep_set", "keep"): [None],
    **{(verb, "data"): [None] for verb in ("importance", "prune", "prune_onnx", "refit")},
    ("fold", "optimizer"): [torch.optim.RMSprop(plain().parameters())],
}
SERVES = {("search", "target"): [None], ("Clock", "providers"): [UNKNOWN_PROVIDER]}
"""What is wrong for others."""
WORDS = {
    "after": "after|model",
    "before": "before|model",
    "keep": "keep|group",
    "keep_set": "keep|group",
    "name": "name|operator",
    "options": "params",
    "out": "out|cannot write|cannot use",
    "output": "output|cannot write|cannot use",
    "path": "path|cannot write|cannot use",
    "folder": "folder|cannot use|checkpoint",
    "pattern": "pattern|operator",
    "source": "source|model",
}
"""What a message says where it is not the name of the argument."""


def arguments_of(verb: str) -> list[str]:
    return list(inspect.signature(getattr(fxprune, verb)).parameters)


def test_every_public_name_has_a_right_call():
    assert sorted(verbs()) == sorted(RIGHT)
    assert all(is_dataclass(getattr(fxprune, name)) for name in RESULTS)


def test_every_argument_has_wrong_values():
    used = {argument for verb in verbs() for argument in arguments_of(verb)}
    assert used == set(WRONG)


@pytest.mark.parametrize("verb", RIGHT)
def test_right_calls_are_accepted(verb, world):
    call(verb, RIGHT[verb](world))


def check_refused(verb: str, argument: str, value: Any, world: World) -> None:
    """The call raises an error of ours that names the argument; nothing has changed."""
    arguments = {**RIGHT[verb](world), argument: value}
    if argument == "options":
        arguments = {**RIGHT[verb](world), **value}
    files = {file: file.is_file() and file.read_bytes() for file in world.folder.rglob("*")}
    with assert_unchanged(world.model, world.gated, world.folded):
        try:
            call(verb, arguments)
        except fxprune.InternalError:
            raise
        except fxprune.FxpruneError as error:
            words = WORDS.get(argument, argument).split("|")
            assert any(word in str(error).lower() for word in words), f"not named: {error}"
        else:
            raise AssertionError(f"{verb}({argument}={value!r}) is accepted")
    left = {file: file.is_file() and file.read_bytes() for file in world.folder.rglob("*")}
    assert left == files, "a file has appeared or changed"


@pytest.mark.parametrize(
    ("verb", "argument"), [(verb, name) for verb in RIGHT for name in arguments_of(verb)]
)
def test_wrong_values_are_refused_and_change_nothing(verb, argument, world):
    serves = SERVES.get((verb, argument), [])
    for value in [*WRONG[argument], *ALSO_WRONG.get((verb, argument), [])]:
        if any(value is one for one in serves):
            continue
        check_refused(verb, argument, value, world)


def accepts(gated: nn.Module, optimizer: Any) -> None:
    """Checks nothing."""


def trips(gated: nn.Module, optimizer: Any) -> None:
    operator.index(optimizer)


def mumbles(gated: nn.Module, optimizer: Any) -> None:
    raise fxprune.InputError("something is wrong")


def changes(gated: nn.Module, optimizer: Any) -> None:
    gated.get_parameter("0.bias").data.zero_()
    raise fxprune.InputError("optimizer is wrong")


def writes(gated: nn.Module, optimizer: Any) -> None:
    Path("new").touch()
    raise fxprune.InputError("optimizer is wrong")


def replaces(gated: nn.Module, optimizer: Any) -> None:
    Path("there.onnx").touch()
    Path("there.onnx").write_text("another")
    raise fxprune.InputError("optimizer is wrong")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (accepts, "is accepted"),
        (trips, "cannot be interpreted"),
        (mumbles, "not named"),
        (changes, r"0\.bias"),
        (writes, "a file has appeared or changed"),
        (replaces, "a file has appeared or changed"),
    ],
)
def test_a_verb_that_does_not_refuse_is_found(fault, message, world, monkeypatch):
    monkeypatch.setattr(fxprune, "fold", fault, raising=False)
    with pytest.raises((AssertionError, TypeError), match=message):
        check_refused("fold", "optimizer", "adam", world)


# Values of any kind -----------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([2**63, -(2**64), 10**400]),
    st.floats(),
    st.complex_numbers(),
    st.text("ab0.=:\0\né", max_size=4),
    st.binary(max_size=3),
    st.sampled_from(["0", "2", "x", "macs", "random", "static", GROUP]),
    st.builds(object),
    st.sampled_from([int, len, nn.ReLU, nn.ReLU(), np.float32(0.5), np.int64(2), torch.tensor(1)]),
    st.sampled_from([np.zeros(0), np.ones((2, 2)), X, X.numpy(), torch.zeros(8), range(3)]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.just(GROUP), st.text("ax", max_size=2), st.integers()), inner),
    ),
    max_leaves=4,
)
QUICK = [
    (verb, argument)
    for verb in RIGHT
    for argument in arguments_of(verb)
    if argument != "options" and verb not in ("export_onnx", "quantize")
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair=st.sampled_from(QUICK), value=JUNK)
def test_any_value_is_refused_by_an_error_of_ours_or_serves(pair, value, made, world):
    verb, argument = pair
    fresh = World(world.folder, *copy.deepcopy(made))
    for file in (f for f in world.folder.rglob("*") if f.is_file() and f.stem != "there"):
        file.unlink()
    try:
        call(verb, {**RIGHT[verb](fresh), argument: value})
    except fxprune.InternalError:
        raise
    except fxprune.FxpruneError as error:
        assert str(error)
    assert (world.folder / "there.onnx").read_text() == "what was there"
