"""The `training` of modules under trace: a node where it is passed on, a bool where Python asks."""

from collections.abc import Callable

from torch import fx, nn


class TrainingFlag:
    """What a module under trace sees as its `training`: a node, or a bool where Python asks."""

    def __init__(self, node: fx.Node, mode: bool, on_branch: Callable[[], None]) -> None:
        self.node = node
        self.mode = mode
        self._on_branch = on_branch

    def __bool__(self) -> bool:
        self._on_branch()
        return self.mode

    def __eq__(self, other: object) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        return hash(bool(self))


def own_training(module: nn.Module) -> bool:
    """The `training` that a module itself has; scripted ones keep it elsewhere."""
    if "training" in module.__dict__:
        return bool(module.__dict__["training"])
    return bool(module.__getattr__("training"))
