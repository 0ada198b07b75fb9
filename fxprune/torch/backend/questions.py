"""What a graph asks of arrays that a fold removes is asked of others.

`x.to(self.branch.weight.dtype)` only wants to know how the model computes. With the branch removed,
any other parameter of that type knows as well; the question alone must not keep the branch.
"""

from collections.abc import Iterator

from torch import Tensor, fx, nn

from fxprune.torch.frontend.regions import EFFECTS

_ASKED = ("dtype", "device")


def ask_what_stays(model: nn.Module, graph: fx.Graph) -> None:
    """Redirect questions for the type or device of arrays that nothing else needs.

    Requires: everything that a fold removes is without users by now, but for such questions.
    """
    alive = _alive(graph)
    for node in list(graph.nodes):
        if _is_question(node) and node in alive and node.args[0] not in alive:
            _redirect(model, node, alive)


def _is_question(node: fx.Node) -> bool:
    source = node.args[0] if node.target is getattr and len(node.args) == 2 else None
    asks = isinstance(source, fx.Node) and node.args[1] in _ASKED
    return asks and isinstance(source.meta.get("value"), Tensor)  # type: ignore[union-attr]


def _alive(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that are computed for more than such a question."""
    alive: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in alive or node.op in ("placeholder", "output") or node.target in EFFECTS:
            alive.add(node)
            alive.update(() if _is_question(node) else node.all_input_nodes)
    return alive


def _redirect(model: nn.Module, question: fx.Node, alive: set[fx.Node]) -> None:
    """Ask a parameter if one was asked, else the nearest array of that type before."""
    source = question.args[0]
    assert isinstance(source, fx.Node)
    own = _parameter(model, str(source.target)) if source.op == "get_attr" else None
    dtype = source.meta["value"].dtype if own is None else own.dtype  # it may have been converted
    for other in () if source.op == "get_attr" else _before(question):
        value = other.meta.get("value")
        if other in alive and isinstance(value, Tensor) and value.dtype == dtype:
            question.replace_input_with(source, other)
            return
    for name in _read(question.graph, alive):
        parameter = _parameter(model, name)
        if parameter is not None and parameter.dtype == dtype:
            with question.graph.inserting_before(question):
                asked = question.graph.get_attr(name)
            asked.meta["value"] = parameter.detach().to("meta")
            question.replace_input_with(source, asked)
            return
    if question.args[1] == "dtype":  # nothing of this type is left to follow
        for user in list(question.users):
            user.args, user.kwargs = fx.map_arg(
                (user.args, user.kwargs), lambda item: dtype if item is question else item
            )


def _before(node: fx.Node) -> Iterator[fx.Node]:
    """The computing nodes before `node`, the nearest first."""
    node = node.prev
    while node.op != "root":
        if node.op != "get_attr":
            yield node
        node = node.prev


def _read(graph: fx.Graph, alive: set[fx.Node]) -> Iterator[str]:
    """The names that parameters of live nodes may have."""
    for node in graph.nodes:
        if node in alive and node.op == "get_attr":
            yield str(node.target)
        elif node in alive and node.op == "call_module":
            yield f"{node.target}.weight"


def _parameter(model: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(path), leaf, None)
    return found if isinstance(found, Tensor) else None
