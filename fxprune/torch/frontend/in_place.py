"""What do operators that overwrite their operand mean for everything that reads it later?

After `y = x.relu_()` a reader of `x` sees `y`, so the graph lets it read `y`. Where `x` shares its
memory with another array that is read later, as a view does, the graph could not say what that
sees, and the model is refused.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from fxprune.errors import TraceError
from fxprune.passes.kinds import SHARING
from fxprune.torch.frontend.module_spellings import module_spelling
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.frontend.walk import named_modules

Modules = Mapping[str, nn.Module]
"""The modules of a model by path."""

_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "iand", "ior",
              "ixor", "ilshift", "irshift")  # fmt: skip


def follow_in_place(model: nn.Module, graph: fx.Graph) -> None:
    """Let what comes after an in-place operator read its result instead of its operand.

    Raises:
        TraceError: what is overwritten is read later under another name.
    """
    modules = dict(named_modules(model, again=True))
    order = {node: index for index, node in enumerate(graph.nodes)}
    origins = memory_origins(modules, graph)
    sharing: dict[fx.Node, list[fx.Node]] = {}
    for node, origin in origins.items():
        sharing.setdefault(origin, []).append(node)
    for node in graph.nodes:
        operand = overwritten(modules, node)
        if operand is None:
            continue
        for user in list(operand.users):
            if order[user] > order[node]:
                user.replace_input_with(operand, node)
        if node.target is set_item and origins.get(node.args[2]) is origins[operand]:
            continue  # a part that was overwritten is written back to where it is
        for other in sharing[origins[operand]]:
            if order[other] >= order[node]:
                break
            later = [user for user in other.users if order[user] > order[node] and _reads(user)]
            if any(not _writes_back(user, other, origins) for user in later):
                raise TraceError(
                    f"{type(model).__name__} overwrites {operand.name} in {node.name}, and "
                    f"{other.name}, which shares its memory, is read later: write "
                    "`y = x.relu()` instead of `x.relu_()`, or give it `x.clone()`"
                )


def _writes_back(user: fx.Node, whole: fx.Node, origins: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether `user` tells `whole` what has become of a part of it that was overwritten."""
    part = user.args[2] if user.target is set_item else None
    return user.args[:1] == (whole,) and origins.get(part) is origins[whole]  # type: ignore[arg-type]


def _reads(user: fx.Node) -> bool:
    """Whether a node looks at what an array holds, not only at its size."""
    spelling = NAMES.get(bare_name(user)) if user.op != "output" else None
    return spelling is None or spelling.op != "size"


def overwritten(modules: Modules, node: fx.Node) -> fx.Node | None:
    """The operand that a node writes its result into, if it does."""
    if isinstance(out := node.kwargs.get("out"), fx.Node):
        return out
    operand = node.args[0] if node.args else None
    return operand if isinstance(operand, fx.Node) and works_in_place(modules, node) else None


def set_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """`x[index] = value` as a function of `x`."""
    x[index] = value
    return x


def works_in_place(modules: Modules, node: fx.Node) -> bool:
    """Whether a node writes its result into its first operand."""
    if node.target is set_item:
        return True
    if node.op == "call_module":
        return getattr(modules[str(node.target)], "inplace", False) is True
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator":
        return getattr(node.target, "__name__", "") in _OPERATORS
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    trailing = str(name).endswith("_") and not str(name).startswith("__")
    return trailing or (node.op == "call_function" and node.kwargs.get("inplace") is True)


def memory_origins(modules: Modules, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For every node the one whose memory its result may lie in: nodes of one origin may share."""
    origins: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = overwritten(modules, node)
        if source is None and node.args and isinstance(node.args[0], fx.Node):
            source = node.args[0] if _shares_memory(modules, node) else None
        origins[node] = node if source is None else origins[source]
    return origins


def _shares_memory(modules: Modules, node: fx.Node) -> bool:
    if node.op == "call_module":
        module_spelled = module_spelling(type(modules[str(node.target)]))
        return module_spelled is not None and module_spelled.op in SHARING
    if node.op not in ("call_function", "call_method"):
        return False
    name = bare_name(node)
    if name == "getitem":
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return isinstance(source.meta["value"], Tensor) or _shares_memory(modules, source)
    spelling = NAMES.get(name)
    return spelling is not None and spelling.op in SHARING and name != "clone"
