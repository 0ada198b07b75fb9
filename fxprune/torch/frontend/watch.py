"""What a model meets while its forward is recorded, beside torch's own calls.

Modules, their `training`, functions of other libraries, regions, and Python's `len` and `range` in
the model's own code are replaced by stand-ins that tell the recorder, in its thread and for that
time only; everything is put back afterwards, and while a module is imported.
"""

import functools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointFunction

from fxprune.passes.operators import OPERATORS
from fxprune.torch.frontend.experts import experts_at_once
from fxprune.torch.frontend.global_names import (
    Globals,
    as_written,
    globals_in,
    namespaces_with,
    replaced_in,
)
from fxprune.torch.frontend.leaves import is_leaf
from fxprune.torch.frontend.namespaces import Namespace, is_own
from fxprune.torch.frontend.origins import remembering
from fxprune.torch.frontend.recorder import Recorder
from fxprune.torch.frontend.scripted import Scripted, is_scripted
from fxprune.torch.frontend.spellings import NAMES
from fxprune.torch.frontend.stand_ins import StandIn, StandIns, undisturbed_imports
from fxprune.torch.frontend.states import restored_state
from fxprune.torch.frontend.walk import modules_in


@contextmanager
def watched(
    recorder: Recorder, model: nn.Module, namespaces: Sequence[Namespace], leaves: Collection[str]
) -> Iterator[None]:
    """Let everything that runs inside be recorded; the model is restored at the end.

    `namespaces` are those of its code, `leaves` the paths of modules that are not to be entered.
    In its own code Python's `len` and `range` tell where a number comes from.
    """
    found = globals_in(namespaces)
    stand_ins = StandIns(
        [
            _training(recorder),
            _calls(recorder, leaves),
            *_regions(recorder),
            _functions_of_autograd(recorder),
            *_recurrences(recorder),
            *experts_at_once(recorder),
            *_whole(recorder, _whole_functions(), namespaces),
            *_functions_as_written(recorder, model, found),
        ],
        namespaces,
        {"len": recorder.sizes.length, "range": recorder.sizes.spy_on_range()},
    )

    @contextmanager
    def aside() -> Iterator[None]:
        with recorder.pause(), stand_ins.aside():
            yield

    with (
        restored_state(model, found) as kept,
        remembering(model),
        undisturbed_imports(aside),
        stand_ins.in_place(),
        recorder,
    ):
        yield
    recorder.graph.kept |= kept


@contextmanager
def told_of_trace() -> Iterator[None]:
    """Tell libraries that ask that they are being traced, so that they do not look at values."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {
        name: getattr(torch.compiler, name) for name in flags if hasattr(torch.compiler, name)
    }
    for name in before:
        setattr(torch.compiler, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.compiler, name, value)


def _training(recorder: Recorder) -> StandIn:
    """Let modules read their `training` from the recorder; a data descriptor wins over __dict__."""

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    def delete(module: nn.Module) -> None:
        del module.__dict__["training"]

    return StandIn(nn.Module, "training", property(recorder.training_flag, write, delete))


def _calls(recorder: Recorder, leaves: Collection[str]) -> StandIn:
    """Let calls of leaf modules reach the recorder."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = None if recorder.paused else recorder.path_of(module)
        if path is None:
            return original(module, *args, **kwargs)
        if path in leaves or is_leaf(module):
            return recorder.call_module(module, args, kwargs)
        inner = module.__dict__["_modules"].get("_orig_mod")  # of torch.compile
        forward = functools.partial(original, module if inner is None else inner)
        return recorder.entered(path, forward, args, kwargs)

    return StandIn(nn.Module, "__call__", call)


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""C functions that do not take a live `training`."""


def _recurrences(recorder: Recorder) -> Iterator[StandIn]:
    for name in _RECURRENT:
        stand_in = _stand_in(recorder, getattr(torch, name))
        yield StandIn(torch, name, stand_in)  # folded modules call it there
        yield StandIn(torch._VF, name, stand_in)


def _regions(recorder: Recorder) -> Iterator[StandIn]:
    """Record the regions that are no torch calls: autocast and inference mode."""
    regions: dict[int, Any] = {}

    def watch(kind: type, begin: Callable[[Any], Any]) -> Iterator[StandIn]:
        begun, ended = kind.__enter__, kind.__exit__  # type: ignore[attr-defined]

        def enter(self: Any) -> Any:
            if recorder.paused:
                return begun(self)
            regions[id(self)] = begin(self)
            regions[id(self)].__enter__()
            return self

        def leave(self: Any, *error: Any) -> Any:
            if id(self) not in regions:
                return ended(self, *error)
            return regions.pop(id(self)).__exit__(*error)

        yield StandIn(kind, "__enter__", enter)
        yield StandIn(kind, "__exit__", leave)

    yield from watch(torch.autocast, recorder.regions.autocast)
    yield from watch(torch.no_grad, lambda region: recorder.regions.grad(False))
    yield from watch(torch.enable_grad, lambda region: recorder.regions.grad(True))
    yield from watch(torch.inference_mode, lambda region: recorder.regions.grad(not region.mode))


@dataclass(frozen=True)
class Differentiated:
    """Calls a torch.autograd.Function; operators are known by the name of its class."""

    kind: Any

    def __post_init__(self) -> None:
        for name in ("__name__", "__qualname__", "__module__"):
            object.__setattr__(self, name, getattr(self.kind, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(item, Tensor) and item.is_meta for item in args):
            return self.kind.apply(*args, **kwargs)
        with torch.random.fork_rng(devices=[]):
            try:
                return self.kind.apply(*args, **kwargs)
            except RuntimeError:  # it makes tensors of its own: learn the shapes from zeros
                result = self.kind.apply(*tree_map_only(Tensor, _zeros, args), **kwargs)
                return tree_map_only(Tensor, lambda item: item.to("meta"), result)


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, device="cpu")


def _functions_of_autograd(recorder: Recorder) -> StandIn:
    """Record a torch.autograd.Function as one call: entered, it would lose its own backward."""
    original = vars(Function)["apply"]  # a class method, of Python or, since torch 2.14, of C

    def apply(kind: type, *args: Any, **kwargs: Any) -> Any:
        if recorder.paused:
            return original.__get__(None, kind)(*args, **kwargs)
        if kind is CheckpointFunction:  # reentrant activation checkpointing: an identity
            function, _, *inputs = args
            return function(*inputs)
        return recorder.call(Differentiated(kind), args, kwargs)

    return StandIn(Function, "apply", classmethod(apply))


def _stand_in(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """What records a call of `function` and otherwise is it."""

    @functools.wraps(function, updated=())
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if recorder.paused:
            return function(*args, **kwargs)
        return recorder.call(function, args, kwargs)

    return stand_in


def _whole_functions() -> list[Any]:
    """The functions outside of torch that the table knows."""
    found = []
    for name in (*OPERATORS, *NAMES):
        home, _, attribute = name.rpartition(".")
        function = getattr(sys.modules.get(home), attribute, None) if home else None
        if callable(function) and not isinstance(function, type):
            found.append(function)
    return found


def _whole(
    recorder: Recorder, functions: Sequence[Any], namespaces: Sequence[Namespace]
) -> Iterator[StandIn]:
    """A recording stand-in wherever a module has imported one of `functions`."""
    for function in functions:
        stand_in = _stand_in(recorder, function)
        for namespace in namespaces_with(function.__name__, function, namespaces):
            yield StandIn(namespace, function.__name__, stand_in)


def _functions_as_written(
    recorder: Recorder, model: nn.Module, found: Sequence[Globals]
) -> Iterator[StandIn]:
    """Functions of the model's own code that run as they were written.

    Those that torch has compiled, and those that keep their results: they would keep arrays without
    data.
    """
    for each in found:
        yield from _as_written(recorder, each.names, each.replaced)
    modules = modules_in(model)
    classes = dict.fromkeys(base for m in modules for base in type(m).__mro__)
    for kind in filter(is_own, classes):
        yield from _as_written(recorder, kind, replaced_in(vars(kind)))
    for module in modules:
        yield from _as_written(recorder, module.__dict__, replaced_in(module.__dict__))


def _as_written(
    recorder: Recorder, owner: Any, functions: Sequence[tuple[str, Any]]
) -> Iterator[StandIn]:
    """What stands in for functions that are cached, compiled or scripted."""
    for name, value in functions:
        new = _stand_in(recorder, Scripted(value)) if is_scripted(value) else as_written(value)
        yield StandIn(owner, name, new)
