"""What a model meets while its forward is recorded, beside torch's own calls.

Modules, their `training`, functions of other libraries, regions and Python's `len` and `range` are
replaced by stand-ins that tell the recorder; everything is put back afterwards.
"""

import builtins
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointFunction

from fxprune.passes.operators import OPERATORS
from fxprune.torch.frontend.leaves import is_leaf
from fxprune.torch.frontend.origins import remembering
from fxprune.torch.frontend.recorder import Recorder
from fxprune.torch.frontend.spellings import NAMES


@contextmanager
def watched(recorder: Recorder, model: nn.Module, leaves: Collection[str]) -> Iterator[None]:
    """Let everything that runs inside be recorded; the model is restored at the end.

    `leaves` are the paths of modules that are not to be entered.
    """
    with (
        _restored(model),
        remembering(model),
        _live_training(recorder),
        _watched_calls(recorder, leaves),
        recorder,
    ):
        yield


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


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo what forward writes on the modules."""
    dictionaries = [
        values
        for module in model.modules()
        for values in (module.__dict__, *module.__dict__.values())
        if isinstance(values, dict)
    ]
    before = [dict(values) for values in dictionaries]
    try:
        yield
    finally:
        for values, original in zip(dictionaries, before, strict=True):
            values.clear()
            values.update(original)


@contextmanager
def _live_training(recorder: Recorder) -> Iterator[None]:
    """Let modules read their `training` from the recorder; a data descriptor wins over __dict__."""

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    nn.Module.training = property(recorder.training_flag, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


@contextmanager
def _watched_calls(recorder: Recorder, leaves: Collection[str]) -> Iterator[None]:
    """Let calls of leaf modules and of registered functions reach the recorder."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = None if recorder.paused else recorder.path_of(module)
        if path is None:
            return original(module, *args, **kwargs)
        if not (path in leaves or is_leaf(module)):
            with recorder.inside(path, args, kwargs):
                return original(module, *args, **kwargs)
        return recorder.call_module(module, args, kwargs)

    with ExitStack() as stack:
        nn.Module.__call__ = call  # type: ignore[method-assign]
        stack.callback(setattr, nn.Module, "__call__", original)
        _watch_regions(recorder, stack)
        _watch_functions_of_autograd(recorder, stack)
        for name, watched in (("len", recorder.length), ("range", recorder.spy_on_range())):
            stack.callback(setattr, builtins, name, getattr(builtins, name))
            setattr(builtins, name, watched)
        for name in _RECURRENT:  # C functions that do not take a live `training`
            stand_in = _stand_in(recorder, getattr(torch, name))
            stack.callback(setattr, torch, name, getattr(torch, name))
            setattr(torch, name, stand_in)  # folded modules call it there
            setattr(torch._VF, name, stand_in)
            stack.callback(delattr, torch._VF, name)
        for function in _whole_functions():
            stack.enter_context(_watched_function(recorder, function))
        yield


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def _watch_regions(recorder: Recorder, stack: ExitStack) -> None:
    """Record the regions that are no torch calls: autocast and inference mode."""
    regions: dict[int, Any] = {}

    def watch(kind: type, begin: Callable[[Any], Any]) -> None:
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

        for name, method in (("__enter__", enter), ("__exit__", leave)):
            stack.callback(setattr, kind, name, getattr(kind, name))
            setattr(kind, name, method)

    watch(torch.autocast, recorder.autocast)
    watch(torch.no_grad, lambda region: recorder.grad_region(False))
    watch(torch.enable_grad, lambda region: recorder.grad_region(True))
    watch(torch.inference_mode, lambda region: recorder.grad_region(not region.mode))


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


def _watch_functions_of_autograd(recorder: Recorder, stack: ExitStack) -> None:
    """Record a torch.autograd.Function as one call: entered, it would lose its own backward."""
    descriptor = Function.__dict__["apply"]
    original = descriptor.__func__

    def apply(kind: type, *args: Any, **kwargs: Any) -> Any:
        if recorder.paused:
            return original(kind, *args, **kwargs)
        if kind is CheckpointFunction:  # reentrant activation checkpointing: an identity
            function, _, *inputs = args
            return function(*inputs)
        return recorder.call(Differentiated(kind), args, kwargs)

    stack.callback(setattr, Function, "apply", descriptor)
    Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]


def _stand_in(recorder: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """What records a call of `function` and otherwise is it."""

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


@contextmanager
def _watched_function(recorder: Recorder, function: Callable[..., Any]) -> Iterator[None]:
    """Put a recording stand-in wherever a module has imported `function`."""

    places = [
        vars(module)
        for module in list(sys.modules.values())
        if getattr(module, "__dict__", {}).get(function.__name__) is function
    ]
    for place in places:
        place[function.__name__] = _stand_in(recorder, function)
    try:
        yield
    finally:
        for place in places:
            place[function.__name__] = function
