"""Which arguments of a torch call are the operands of its operator?"""

from typing import Any

from torch import Tensor, fx, nn

from fxprune.torch.frontend.leaves import torch_base
from fxprune.torch.frontend.module_spellings import module_spelling
from fxprune.torch.frontend.spellings import NAMES, bare_name


def parameter_names(model: nn.Module, node: fx.Node) -> list[str]:
    """The parameters that follow the input among the operands of a module call."""
    spelling = module_spelling(torch_base(type(model.get_submodule(str(node.target)))))
    if spelling is None:
        own = dict(model.get_submodule(str(node.target)).named_parameters())
        return list(own)
    return spelling.parameters.split()


def argument(node: fx.Node, operand: int) -> fx.Node:
    """The fx node that is array operand number `operand` of a call."""
    value: Any = operands_of(node)[operand][1]
    assert isinstance(value, fx.Node)
    return value


def operands_of(node: fx.Node) -> list[tuple[str, Any]]:
    """Array operands by argument name, absent ones left in place as our graph does."""
    if node.op == "call_module":
        return [("input", node.args[0])]
    name = bare_name(node)
    spelling = NAMES.get(name)
    if spelling is None:
        return [("", arg) for arg in node.args]
    bound = spelling.bind(node.args, node.kwargs)
    names = spelling.arrays.split()
    if spelling.op in ("add", "elementwise"):
        return [(n, bound[n]) for n in names if _is_array(bound.get(n))]
    operands: list[tuple[str, Any]] = []
    for n in names:
        value = bound.get(n)
        several = isinstance(value, list | tuple)
        operands.extend((n, item) for item in (value if several else [value]))  # type: ignore[union-attr]
    return operands


def _is_array(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("value"), Tensor)


def replace_argument(node: fx.Node, operand: int, new: fx.Node) -> None:
    """Put `new` where operand number `operand` stands, and nowhere else."""
    old = argument(node, operand)
    new.meta.setdefault("value", old.meta.get("value"))
    same = sum(value is old for _, value in operands_of(node)[:operand])
    position = -1

    def swap(item: fx.Node) -> fx.Node:
        nonlocal position
        position += item is old
        return new if item is old and position == same else item

    args, kwargs = fx.map_arg((node.args, node.kwargs), swap)
    node.args, node.kwargs = args, kwargs
