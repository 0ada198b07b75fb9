"""Sizes of computed tensors are nodes of the graph, wherever a model's Python asks for them."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from fxprune.torch.frontend.numbers import TracedNumber, Watcher, traced_number

_len, _range = len, range  # Python's own


class Asked(Watcher, Protocol):
    """Who is asked for sizes while a model runs."""

    @property
    def paused(self) -> bool:
        """Whether calls pass unseen."""

    def pause(self) -> AbstractContextManager[None]:
        """Let torch calls through unseen."""

    def computed(self, tensor: Tensor) -> fx.Node | None:
        """The node that computes a tensor."""


class Sizes:
    """What `shape`, `size`, `len` and `range` say under one recorder."""

    def __init__(self, recorder: Asked) -> None:
        self._recorder = recorder
        self._known: dict[tuple[fx.Node, int], Any] = {}

    def of(self, tensor: Tensor, dim: int | None = None) -> Any:
        """The sizes of computed tensors are nodes, those of parameters plain numbers."""
        with self._recorder.pause():
            shape = tensor.size()
        node = self._recorder.computed(tensor)
        if node is not None:
            shape = torch.Size([self._of_axis(node, i, n) for i, n in enumerate(shape)])
        return shape if dim is None else shape[dim]

    def _of_axis(self, node: fx.Node, dim: int, size: int) -> Any:
        if (node, dim) not in self._known:
            number = node.graph.call_method("size", (node, dim))
            self._known[node, dim] = traced_number(size, number, self._recorder)
        return self._known[node, dim]

    def length(self, thing: Any, /) -> Any:
        """`len`: that of a computed tensor is a node."""
        if isinstance(thing, Tensor) and not self._recorder.paused and thing.dim():
            return self.of(thing, 0)
        return _len(thing)

    def spy_on_range(self) -> Any:
        """`range`, which is noted where it is over a size."""
        recorder = self._recorder

        class Spy(type):
            def __instancecheck__(cls, thing: Any) -> bool:
                return isinstance(thing, _range)

            def __call__(cls, *bounds: Any) -> Any:
                if any(isinstance(bound, TracedNumber) for bound in bounds):
                    recorder.number_lost(*bounds)
                return _range(*bounds)

        return Spy("range", (), {})
