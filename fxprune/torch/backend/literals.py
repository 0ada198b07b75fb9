"""Where torch calls keep sizes, and how they are rewritten."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.torch.frontend.spellings import NAMES, bare_name


@dataclass(frozen=True, slots=True)
class Resized:
    """The new value of a size; `old` is what it was, where a computed size is to be scaled.

    No kind of int, which would go into the user's graphs and layers.
    """

    value: int
    old: int = 0

    def __int__(self) -> int:
        return self.value

    def replacing(self, size: Any, node: fx.Node) -> Any:
        """What stands in a call of `node` where `size` stood: a number, or a node if it was one."""
        if not self.old or not isinstance(size, fx.Node):
            return int(self)
        with node.graph.inserting_before(node):
            grown = node.graph.call_function(operator.mul, (size, int(self)))
            scaled = node.graph.call_function(operator.floordiv, (grown, self.old))
        grown.meta["value"] = size.meta["value"] * int(self)
        scaled.meta["value"] = int(self)
        return scaled


Changes = Mapping[tuple[str, int], Resized]
"""New values of the literals of one node, by slot."""


def set_argument(node: fx.Node, position: int, name: str, value: Any) -> None:
    """Write an argument of a call where it stands, positional or by name."""
    if position < len(node.args):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def _write_shape(node: fx.Node, changes: Changes) -> None:
    """`view`, `reshape`, `expand`: sizes follow the input, one by one or as a tuple."""
    packed = len(node.args) == 2 and not isinstance(node.args[1], int)
    sizes: Any = node.args[1] if packed else node.args[1:]
    if "shape" in node.kwargs or "size" in node.kwargs:
        sizes = node.kwargs.get("shape", node.kwargs.get("size"))
    if isinstance(sizes, fx.Node) and not isinstance(sizes.meta["value"], int):
        with node.graph.inserting_before(node):
            sizes = [
                node.graph.call_function(operator.getitem, (sizes, dim))
                for dim in range(len(sizes.meta["value"]))
            ]
    elif isinstance(sizes, fx.Node):
        sizes = [sizes]
    new = list(sizes)
    for (slot, dim), value in changes.items():
        if slot == "shape" and not (isinstance(new[dim], int) and new[dim] < 0):
            new[dim] = value.replacing(new[dim], node)
    node.args, node.kwargs = (node.args[0], tuple(new)), {}


def _write_unflatten(node: fx.Node, changes: Changes) -> None:
    dim = int(node.args[1] if len(node.args) > 1 else node.kwargs["dim"])  # type: ignore[arg-type]
    sizes: Any = node.args[2] if len(node.args) > 2 else node.kwargs["sizes"]
    dim %= node.args[0].meta["value"].dim()  # type: ignore[union-attr]
    new = [
        size if isinstance(size, int) and size < 0 else _new_size(changes, dim + index, size, node)
        for index, size in enumerate(sizes)
    ]
    node.args, node.kwargs = (node.args[0], dim, tuple(new)), {}


def _write_squeeze(node: fx.Node, changes: Changes) -> None:
    """An axis that has shrunk to one position stays: only axes that had one are squeezed."""
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    asked: Any = NAMES["squeeze"].bind(node.args, node.kwargs)["dim"]
    asked = range(len(shape)) if asked is None else (asked,) if isinstance(asked, int) else asked
    dims = [dim % len(shape) for dim in asked if shape[dim] == 1]
    node.op, node.target = "call_function", torch.squeeze
    node.args, node.kwargs = (node.args[0], dims), {}


def _write_split(node: fx.Node, changes: Changes) -> None:
    """`split` and `chunk` become a split into explicit sizes."""
    pieces = node.meta["value"]
    dim: Any = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    sizes = [
        int(changes.get(("sizes", index), piece.shape[dim])) for index, piece in enumerate(pieces)
    ]
    node.op, node.target = "call_function", torch.split
    node.args, node.kwargs = (node.args[0], sizes, dim), {}


def _write_pad(node: fx.Node, changes: Changes) -> None:
    rank = node.args[0].meta["value"].dim()  # type: ignore[union-attr]
    widths: Any = list(node.kwargs.get("pad", node.args[1] if len(node.args) > 1 else ()))  # type: ignore[arg-type]
    for (slot, dim), value in changes.items():
        widths[2 * (rank - 1 - dim) + (slot == "after")] = int(value)
    set_argument(node, 1, "pad", tuple(widths))


def _write_fill(first: int) -> Callable[[fx.Node, Changes], None]:
    """`zeros` and its like: sizes from argument `first` on, one by one or as a tuple."""

    def write(node: fx.Node, changes: Changes) -> None:
        kwargs = {name: value for name, value in node.kwargs.items() if name != "size"}
        sizes: Any = node.kwargs.get("size", node.args[first:])
        packed = len(sizes) > 0 and isinstance(sizes[0], list | tuple)
        rest = node.args[first + 1 :] if packed and "size" not in node.kwargs else ()
        old = sizes[0] if packed else sizes
        new = tuple(_new_size(changes, dim, size, node) for dim, size in enumerate(old))
        node.args, node.kwargs = (*node.args[:first], new, *rest), kwargs

    return write


def _plain(size: Any) -> Any:
    return int(size) if isinstance(size, Resized) else size


def _new_size(changes: Changes, dim: int, size: Any, node: fx.Node) -> Any:
    change = changes.get(("shape", dim))
    return size if change is None else change.replacing(size, node)


def _write_scale(node: fx.Node, changes: Changes) -> None:
    """The scale that torch would take from the size of the heads stays the original one."""
    if NAMES[bare_name(node)].bind(node.args, node.kwargs)["scale"] is None:
        set_argument(node, 6, "scale", int(changes["scale", 0]) ** -0.5)


def _write_narrow(node: fx.Node, changes: Changes) -> None:
    arguments = NAMES["narrow"].bind(node.args, node.kwargs)
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    dim = arguments["dim"] % len(shape)
    old = arguments["start"] % shape[dim]
    start = int(changes.get(("start", dim), old))
    stop = int(changes.get(("stop", dim), old + arguments["length"]))
    node.args, node.kwargs = (node.args[0], dim, start, stop - start), {}


def _write_bins(node: fx.Node, changes: Changes) -> None:
    """One bin for each position, up to the number of the last."""
    bins = int(changes["bins", 0])
    set_argument(node, 1, "bins", bins)
    set_argument(node, 3, "max", bins - 1)


def _write_argument(position: int, name: str) -> Callable[[fx.Node, Changes], None]:
    """A literal argument that is one size, or a tuple of them."""

    def write(node: fx.Node, changes: Changes) -> None:
        old: Any = node.args[position] if position < len(node.args) else node.kwargs.get(name)
        old = old.meta["value"] if isinstance(old, fx.Node) else old
        if isinstance(old, list | tuple):
            new: Any = tuple(_plain(changes.get((name, i), size)) for i, size in enumerate(old))
        else:
            new = _plain(changes.get((name, 0), old))
        set_argument(node, position, name, new)

    return write


_CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"

_WRITERS: Mapping[str, Callable[[fx.Node, Changes], None]] = {
    **dict.fromkeys(_CONVOLUTIONS.split(), _write_argument(6, "groups")),
    **dict.fromkeys(("view", "reshape", "expand"), _write_shape),
    **dict.fromkeys(("zeros", "ones", "empty", "full"), _write_fill(0)),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), _write_fill(1)),
    **dict.fromkeys(("split", "chunk", "tensor_split"), _write_split),
    **dict.fromkeys(("layer_norm", "rms_norm"), _write_argument(1, "normalized_shape")),
    "group_norm": _write_argument(1, "num_groups"),
    "channel_shuffle": _write_argument(1, "groups"),
    "squeeze": _write_squeeze,
    "unflatten": _write_unflatten,
    "narrow": _write_narrow,
    "pad": _write_pad,
    "histc": _write_bins,
    "scaled_dot_product_attention": _write_scale,
}
"""How sizes are rewritten, by the bare name of a call; others keep none."""


def write_literals(node: fx.Node, changes: Changes) -> None:
    """Rewrite the sizes that a function or method is called with."""
    if writer := _WRITERS.get(bare_name(node)):
        writer(node, changes)
