"""Graphs whose nodes know in whose code they stand."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

OWNER, ORIGINS = "fxprune_owner", "fxprune_origins"
"""Keys in a node's meta: the path of the module whose code makes the call, and where the numbers in
the call come from."""

Kept = dict[tuple[str, str], tuple[Any, ...]]
"""What modules held, by path and attribute, where forward keeps arrays: nothing, or one thing."""


@dataclass(frozen=True, slots=True, eq=False)
class Handed:
    """Something that code only hands on, such as a cache: neither an array nor a plain value."""

    kind: str

    def __bool__(self) -> bool:
        raise TypeError(f"code asks what this {self.kind} is, and does not only hand it on")


class PlainGraph(fx.Graph):
    """A graph that does not look for symbolic sizes in all that a node is made with.

    There are none, and looking for them takes torch half of the time that a node costs.
    """

    def create_node(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        """As ever."""
        node = super().create_node(op, target, (), {}, name, type_expr)
        if args:
            node.args = args
        if kwargs:
            node.kwargs = kwargs
        return node


class OwnedGraph(PlainGraph):
    """A graph whose nodes know whose code makes them, and which knows the calls of modules.

    `calls` has for every module that was entered the arguments and the result of each call, as
    nodes; the result is None if its arrays are not known. `told` says
    whether libraries were told that they are traced, which may take another path than they do, and
    `replaced` whether code was recorded as other code that does the same.
    `batch` is the size that stood in for that of the inputs, 0 for none. `kept` are the attributes
    in which forward keeps arrays. It `forgets` types or sizes of inputs where it would compute with
    those of the example whatever comes in, and `knows_single` samples where code decides by whether
    there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owner = ""
        self.calls: dict[str, list[Any]] = {}
        self.told = False
        self.replaced = False
        self.batch = 0
        self.kept: Kept = {}
        self.forgets = False
        self.knows_single = False
        self._device: fx.Node | None = None

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """As ever."""
        node = super().create_node(*args, **kwargs)
        node.meta[OWNER] = self.owner
        return node

    def device_node(self) -> fx.Node | None:
        """The device of the first tensor that comes in, wherever the model runs later."""
        places = (node for node in self.nodes if node.op == "placeholder")
        first = next((p for p in places if isinstance(p.meta["value"], Tensor)), None)
        if first is not None and self._device is None:
            self._device = self.call_function(getattr, (first, "device"))
            self._device.meta["value"] = torch.device("meta")
        return self._device
