"""Modules whose code is generated: a subclass of the module's own class whose forward runs a graph.

Methods, attributes, hooks and `isinstance` stay what they are. Such modules can be copied and
pickled where their class can.
"""

import logging
from typing import Any

from torch import fx, nn

from fxprune.torch.backend.derived import base_of, derived, state_of
from fxprune.torch.backend.forwards import codes_of, forward_of
from fxprune.torch.frontend.packing import Row, pack_graph, unpack_graph
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.frontend.walk import named_modules

_log = logging.getLogger("fxprune")

GRAPH = "_fxprune_graph"
"""Where a generated class keeps the graph that its forward runs."""


REASON = "_fxprune_reason"
"""Where it keeps why its code is generated."""


def warn_of_single_samples(model: nn.Module) -> None:
    """Say that generated code of a whole model is that for several samples."""
    _log.warning(
        "%s may run other code for a single sample than for several: its generated code runs that "
        "for several",
        type(model).__name__,
    )


def generate(module: nn.Module, graph: fx.Graph, reason: str) -> None:
    """Let a module run `graph`: it becomes an instance of a subclass of its own class."""
    for node in graph.nodes:
        if CONSTANT in node.meta:
            module.__dict__.setdefault(str(node.target), node.meta[CONSTANT])
    _warn_of_hooks(module, graph)
    kind = type(module)
    own = base_of(kind) if GRAPH in vars(kind) else kind
    module.__class__ = _subclass(own, module, graph, reason)


def _warn_of_hooks(module: nn.Module, graph: fx.Graph) -> None:
    """The code of modules inside is a part of the graph now, so their hooks are not called."""
    hooked = {
        path
        for path, child in named_modules(module)
        if path and (child._forward_hooks or child._forward_pre_hooks)
    }
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for path in sorted(hooked):
        if any(target.startswith(f"{path}.") for target in called):
            _log.warning(
                "the forward hooks of %s will not be called, because a %s around it has "
                "generated code: register them on the layers inside",
                path,
                type(module).__name__,
            )


def generated_code(model: nn.Module) -> dict[str, str]:
    """The modules of a model whose code is generated, with the reason."""
    return {
        path: str(getattr(type(module), REASON))
        for path, module in named_modules(model)
        if is_generated(module)
    }


def is_generated(module: nn.Module) -> bool:
    """Whether the code of a module is generated."""
    return graph_run_by(module) is not None


def graph_run_by(module: nn.Module) -> fx.Graph | None:
    """The graph that generated code of a module is made from, None if its code is its own."""
    return getattr(type(module), GRAPH, None)


def _subclass(
    kind: type[nn.Module], module: nn.Module, graph: fx.Graph, reason: str
) -> type[nn.Module]:
    forward = forward_of(codes_of(module, graph))
    return derived(kind, forward=forward, __reduce_ex__=_reduce, **{GRAPH: graph, REASON: reason})


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    kind = type(self)
    rows, reason = pack_graph(getattr(kind, GRAPH)), getattr(kind, REASON)
    return _rebuilt, (base_of(kind), state_of(self), rows, reason)


def _rebuilt(
    kind: type[nn.Module], state: dict[str, Any], rows: list[Row], reason: str
) -> nn.Module:
    module = kind.__new__(kind)
    module.__dict__ = state
    generate(module, unpack_graph(rows), reason)
    return module
