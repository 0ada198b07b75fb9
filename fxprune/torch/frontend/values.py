"""Values that a trace can know: what constants and shapes alone decide.

A trace that followed the values of one example would be wrong for others.
"""

from typing import Any

import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.torch.frontend.in_place import Modules, works_in_place
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.frontend.walk import named_buffers

CONSTANT = "fxprune_constant"
"""Key in a node's meta: the tensor that forward makes from nothing, under the node's target."""

_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "uniform", "dropout")


class UndecidedError(FxpruneError):
    """The model's Python asks for a value that no trace can know."""


Batch = tuple[int, int]
"""The size of the batch in the example, and another."""


class KnownValues:
    """Computes nodes of a graph under construction that depend on constants and shapes alone.

    Integer buffers count as constants, others may be trained.
    """

    def __init__(self, modules: Modules, device: torch.device) -> None:
        self._modules = modules
        self._device = device
        buffers = named_buffers(modules[""])
        self._buffers = {n: b for n, b in buffers if not b.is_floating_point()}
        self._values: dict[tuple[fx.Node, Batch], Any] = {}
        self._sized: set[fx.Node] = set()

    def depends_on_size(self, node: fx.Node) -> bool:
        """Whether the known value of a node depends on a size of the example."""
        return node in self._sized

    def of(self, node: fx.Node, batch: Batch = (1, 1)) -> Any:
        """The value of a node, for a `batch` of another size: that of the example and the other.

        Raises:
            UndecidedError: it depends on inputs, parameters or random numbers.
        """
        if (node, batch) not in self._values:
            self._values[node, batch] = self._computed(node, batch)
        return self._values[node, batch]

    def _computed(self, node: fx.Node, batch: Batch) -> Any:
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
            self._sized.add(node)
            return _resized(node.meta["value"], batch)
        args: list[Any] = list(fx.map_arg(node.args, lambda item: self.of(item, batch)))
        kwargs = fx.map_arg(node.kwargs, lambda item: self.of(item, batch))
        if not self._sized.isdisjoint(node.all_input_nodes):
            self._sized.add(node)
        if works_in_place(self._modules, node) and args:
            args[0] = args[0].clone()
        with torch.no_grad():
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]


def _resized(size: Any, batch: Batch) -> Any:
    """A size, or several, where multiples of the batch of the example are those of another."""
    if not isinstance(size, int):
        return torch.Size(_resized(each, batch) for each in size)
    before, now = batch
    return size if size % before else size // before * now
