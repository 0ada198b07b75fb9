"""Values that a trace can know: what constants and shapes alone decide.

A trace that followed the values of one example would be wrong for others.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.torch.frontend.in_place import Modules, works_in_place
from fxprune.torch.frontend.spellings import bare_name

CONSTANT = "fxprune_constant"
"""Key in a node's meta: the tensor that forward makes from nothing, under the node's target."""

_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "uniform", "dropout")


class UndecidedError(FxpruneError):
    """The model's Python asks for a value that no trace can know."""


class KnownValues:
    """Computes nodes of a graph under construction that depend on constants and shapes alone.

    Integer buffers count as constants, others may be trained. `on_size` is called when a value
    depends on a size of the example.
    """

    def __init__(self, modules: Modules, device: torch.device, on_size: Callable[[], None]) -> None:
        self._modules = modules
        self._device = device
        self._on_size = on_size
        buffers = modules[""].named_buffers()
        self._buffers = {n: b for n, b in buffers if not b.is_floating_point()}
        self._values: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Any:
        """The value of a node.

        Raises:
            UndecidedError: it depends on inputs, parameters or random numbers.
        """
        if node not in self._values:
            self._values[node] = self._computed(node)
        return self._values[node]

    def _computed(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and CONSTANT in node.meta:
            return node.meta[CONSTANT].clone()
        if node.op == "get_attr" and str(node.target) in self._buffers:
            return self._buffers[str(node.target)].clone()
        name = bare_name(node)
        if name == "device":
            return self._device
        if node.op in ("placeholder", "get_attr", "call_module") or name.startswith(_RANDOM):
            raise UndecidedError(
                "its Python decides on values that are known only when it runs (they depend on "
                f"{node.name})"
            )
        if name == "size":
            self._on_size()
            return node.meta["value"]
        args: list[Any] = list(fx.map_arg(node.args, self.of))
        kwargs = fx.map_arg(node.kwargs, self.of)
        if works_in_place(self._modules, node) and args:
            args[0] = args[0].clone()
        with torch.no_grad():
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
