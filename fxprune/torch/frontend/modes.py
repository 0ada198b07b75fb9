"""Training and evaluation: the modes of a module, and where its code asks for them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import fx, nn

from fxprune.torch.frontend.regions import EFFECTS


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """A model in evaluation; afterwards each of its modules is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def is_training_flag(node: fx.Node) -> bool:
    """Whether a node reads `training` of a module."""
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


def remove_dead(graph: fx.Graph, alive: Collection[str] = ()) -> None:
    """Remove nodes without users, but for calls of the modules `alive`.

    In-place effects have been turned into uses before.
    """

    def is_needed(node: fx.Node) -> bool:
        if node.op == "call_module":
            return str(node.target) in alive
        return node.op in ("placeholder", "output") or node.target in EFFECTS

    graph.eliminate_dead_code(is_impure_node=is_needed)
