"""What shape has every value of a graph? One run on the meta device, which computes nothing."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._device import _device_constructors

from fxprune.torch.backend.module import copy_graph
from fxprune.torch.frontend.formulas import by_formula
from fxprune.torch.frontend.meta import MetaModules, shaped_by_trial
from fxprune.torch.frontend.nests import mapped
from fxprune.torch.frontend.regions import EFFECTS
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.frontend.walk import named_modules


def with_values(model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]) -> fx.Graph:
    """A copy of a graph whose nodes carry the values of a run on `inputs`, one per placeholder."""
    graph, _ = copy_graph(graph)
    run = _Run(model)
    given = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            value = next(given, node.args[0] if node.args else node.meta.get("value"))
            node.meta["value"] = run.modules.like(value)
        elif node.op != "output":
            node.meta["value"] = run.computed(node)
    return graph


class _Run:
    def __init__(self, model: nn.Module) -> None:
        self.modules = MetaModules({})
        self._model = model
        self._own = dict(named_modules(model, again=True))

    def computed(self, node: fx.Node) -> Any:
        """What a node returns for the values of its arguments."""
        if node.op == "get_attr":
            value = node.meta.get("value")
            if not isinstance(value, Tensor):
                return value
            known = node.meta.get(CONSTANT)
            return self.modules.like(self._tensor(str(node.target)) if known is None else known)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["value"])
        if node.target in EFFECTS:
            return None
        args, kwargs = self._on_meta(args), dict(self._on_meta(kwargs))
        if node.target in _device_constructors():
            kwargs["device"] = "meta"
        with torch.no_grad():
            if node.op == "call_module":
                return self._fresh(self.modules.call(self._own[str(node.target)], args, kwargs))
            of_class = node.op == "call_method"
            function: Any = getattr(type(args[0]), str(node.target)) if of_class else node.target
            if (result := by_formula(function, args, kwargs)) is not None:
                return result
            try:
                return self._fresh(function(*args, **kwargs))
            except (RuntimeError, NotImplementedError):
                if isinstance(known := node.meta.get("value"), int | float):
                    return known  # only values tell it: what the example told
                return self.modules.like(shaped_by_trial(function, args, kwargs))

    def _tensor(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        value: Tensor = getattr(self._own[path], leaf)
        return value

    def _on_meta(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("meta")
        if isinstance(value, Tensor):
            return value
        return mapped(value, self._on_meta)

    def _fresh(self, value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value
