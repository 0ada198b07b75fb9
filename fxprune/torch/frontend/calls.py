"""Which calls does a recorder see, and what are they called?"""

import operator
from collections.abc import Mapping
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.errors import FxpruneError
from fxprune.torch.frontend.nests import leaves_of


class CallError(FxpruneError):
    """A torch call of the model fails on the example inputs."""

    def __init__(self, place: str, message: object, owner: str = "") -> None:
        super().__init__(str(message))
        self.place = place
        self.owner = owner


def attribute_read(func: Any) -> str | None:
    """The attribute that a call of a getter reads."""
    if getattr(func, "__name__", "") == "__get__":
        return str(func.__self__.__name__)
    return None


_INSIDES = ("torch._refs", "torch._prims", "torch._decomp", "torch._meta_registrations")


def is_inside_torch(frame: FrameType) -> bool:
    """Whether a call is made by torch's own formulas for shapes.

    They run where a call that no tracer sees, as of compiled code, computes without data.
    """
    return str(frame.f_globals.get("__name__", "")).startswith(_INSIDES)


def is_method(func: Any) -> bool:
    """Whether `func` is a method of tensors; some operators go by the name of one."""
    name = getattr(func, "__name__", "")
    operator_of = getattr(func, "__module__", "") == "torch._tensor" and hasattr(Tensor, name)
    return operator_of or getattr(Tensor, name, None) is func


VALUES = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "equal",
          "__contains__", "allclose", "is_nonzero", "__complex__")  # fmt: skip
"""Methods that ask for values."""
ANSWERED = ("__repr__", "__str__", "__format__", "__len__", "__dir__", "__hash__", "register_hook",
            "requires_grad_", "retain_grad", "is_floating_point", "is_complex")  # fmt: skip
"""Methods that need none, and are no calls of the graph."""
VALUE_SHAPED = ("nonzero", "unique", "_unique2", "_return_output", "masked_select", "argwhere")
"""Functions whose results have shapes that depend on values."""


def is_number(tensor: Tensor) -> bool:
    return tensor.dim() == 0 and not tensor.is_floating_point()


def plain_index(index: Any) -> Any:
    items = index if isinstance(index, tuple) else (index,)
    return [(i.start, i.stop, i.step) if isinstance(i, slice) else i for i in items]


def types_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.dtype]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]


def holds_arrays(index: Any) -> bool:
    return any(isinstance(item, Tensor | list) for item in leaves_of([index]))


def as_operator(func: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """`Tensor.__getitem__` and its like as functions of the operator module."""
    name = func.__name__.strip("_").replace("rdiv", "rtruediv")
    if found := getattr(operator, func.__name__, None):
        return found, args
    if name.startswith("r") and (found := getattr(operator, f"__{name[1:]}__", None)):
        return found, args[::-1]
    return func, args


def is_python(func: Any) -> bool:
    return isinstance(func, FunctionType) and func.__module__ == "torch.nn.functional"


def entered(func: FunctionType) -> FunctionType:
    """A Python function of torch.nn that runs its body instead of asking to be recorded whole."""
    blind = {name: never for name in func.__globals__ if name.startswith("has_torch_function")}
    entered = FunctionType(
        func.__code__,
        {**func.__globals__, **blind},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    entered.__kwdefaults__ = func.__kwdefaults__
    return entered


def never(*args: Any) -> bool:
    return False


def target_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
