"""Graphs whose nodes know in whose code they stand."""

from typing import Any

from torch import fx

OWNER, ORIGINS = "fxprune_owner", "fxprune_origins"
"""Keys in a node's meta: the path of the module whose code makes the call, and where the numbers in
the call come from."""


class OwnedGraph(fx.Graph):
    """A graph whose nodes know whose code makes them, and which knows the calls of modules.

    `calls` has for every module that was entered the arguments of each call, as nodes. `told` says
    whether libraries were told that they are traced, which may take another path than they do.
    `batch` is the size that stood in for that of the inputs, 0 for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owner = ""
        self.calls: dict[str, list[Any]] = {}
        self.told = False
        self.batch = 0

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """As ever."""
        node = super().create_node(*args, **kwargs)
        node.meta[OWNER] = self.owner
        return node
