"""How torch spells the operators of the table: one entry for modules, functions and methods alike.

`torch.relu`, `F.relu`, `Tensor.relu_` and `operator.add` go by their bare names, modules by the
name of their torch.nn class. A spelling names the operator, the signature, which arguments are
array operands, and how attributes are read (`backend/literals.py` writes them back).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx

from fxprune.passes.contractions import einsum_letters
from fxprune.torch.frontend.elementwise import BINARY, SAME, UNARY


@dataclass(frozen=True, slots=True)
class Call:
    """A torch call with its arguments by name, as values of the example run."""

    node: fx.Node
    arguments: Mapping[str, Any]
    result: Any

    @property
    def input(self) -> Tensor:
        """The first argument."""
        value = self.arguments["input"]
        assert isinstance(value, Tensor)
        return value

    def dim(self, name: str = "dim") -> int:
        """A dimension of the input, counted from the front."""
        return int(self.arguments[name]) % max(self.input.dim(), 1)

    def dims(self, name: str = "dim") -> tuple[int, ...]:
        """Dimensions of the input, counted from the front; all if none is given."""
        value = self.arguments.get(name)
        if value is None or value == () or isinstance(value, bool):  # x.var(False): `unbiased`
            return tuple(range(self.input.dim()))
        values = (value,) if isinstance(value, int) else value
        return tuple(dim % max(self.input.dim(), 1) for dim in values)


def _nothing(call: Call) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a function or method is written.

    `signature` lists argument names, with `=value` for defaults that attributes need; a last
    name with `*` takes the remaining positional arguments. `arrays` are those that are operands,
    in the operator's order.
    """

    op: str
    signature: str = "input"
    arrays: str = "input"
    attributes: Callable[[Call], dict[str, Any]] = _nothing

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name."""
        kwargs = {_ALIASES.get(name, name): value for name, value in kwargs.items()}
        names, bound = self.signature.split(), {}
        for index, item in enumerate(names):
            name, has_default, default = item.partition("=")
            if name.startswith("*"):
                rest = args[index:]
                packed = len(rest) == 1 and isinstance(rest[0], list | tuple)
                bound[name[1:]] = rest[0] if packed else rest or kwargs.get(name[1:], ())
            elif index < len(args):
                bound[name] = args[index]
            elif name in kwargs:
                bound[name] = kwargs[name]
            elif has_default:
                bound[name] = _DEFAULTS[default]
        return bound


_ALIASES = {
    "axis": "dim",
    "keepdims": "keepdim",
    "x": "input",
    "self": "input",
    "mat2": "other",
    "mat_a": "input",
    "mat_b": "weight",
    "upscale_factor": "factor",
    "downscale_factor": "factor",
}
"""Names of arguments in some spellings, and what signatures call them."""

_DEFAULTS = {
    "0": 0,
    "1": 1,
    "2": 2,
    "-1": -1,
    "None": None,
    "False": False,
    "True": True,
    "constant": "constant",
    "fro": "fro",
    "1e-5": 1e-5,
    "100": 100,
}


# Reading attributes --------------------------------------------------------------------------


def _permute(call: Call) -> dict[str, Any]:
    return {"order": call.dims("dims")}


def _transpose(call: Call) -> dict[str, Any]:
    order = list(range(call.input.dim()))
    first, second = call.dim("dim0"), call.dim("dim1")
    order[first], order[second] = order[second], order[first]
    return {"order": tuple(order)}


def _reverse(call: Call) -> dict[str, Any]:
    return {"order": tuple(reversed(range(call.input.dim())))}


def _swap_last(call: Call) -> dict[str, Any]:
    *others, rows, columns = range(call.input.dim())
    return {"order": (*others, columns, rows)}


def _movedim(call: Call) -> dict[str, Any]:
    sources, targets = call.dims("source"), call.dims("destination")
    rest = iter(dim for dim in range(call.input.dim()) if dim not in sources)
    places = dict(zip(targets, sources, strict=True))
    return {
        "order": tuple(
            places[dim] if dim in places else next(rest) for dim in range(call.input.dim())
        )
    }


def _dim(call: Call) -> dict[str, Any]:
    return {"dim": call.dim()}


def _dims(call: Call) -> dict[str, Any]:
    return {"dims": call.dims()}


def _turned(call: Call) -> dict[str, Any]:
    return {"dims": call.dims("dims")}


def _cat(call: Call) -> dict[str, Any]:
    tensors = call.arguments["tensors"]
    return {"dim": call.arguments["dim"] % tensors[0].dim()}


def _stack(call: Call) -> dict[str, Any]:
    tensors = call.arguments["tensors"]
    return {"dim": call.arguments["dim"] % (tensors[0].dim() + 1)}


def _reduce(reading: str | None) -> Callable[[Call], dict[str, Any]]:
    def read(call: Call) -> dict[str, Any]:
        keep = bool(call.arguments.get("keepdim"))
        return {"dims": call.dims(), "keepdim": keep, "reading": reading}

    return read


def _extreme(call: Call) -> dict[str, Any]:
    """`max` along a dimension; where its position is asked for as well, positions matter."""
    asked = [user.args[1] for user in call.node.users if bare_name(user) == "getitem"]
    alone = isinstance(call.arguments["dim"], int) and len(asked) == len(call.node.users)
    return _reduce("normalise" if alone and set(asked) <= {0} else None)(call)


def _norm(call: Call) -> dict[str, Any]:
    """A closed position that is zero adds nothing to a norm of positive order."""
    order = call.arguments.get("p", call.arguments.get("ord"))
    adds = order in (None, "fro") or (isinstance(order, int | float) and order > 0)
    return _reduce("contract" if adds else None)(call)


def _pad(call: Call) -> dict[str, Any]:
    flat = list(call.arguments["pad"])
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    missing = call.input.dim() - len(pairs)
    widths = [(0, 0)] * missing + pairs[::-1]
    return {"widths": tuple(widths), "constant": call.arguments["mode"] == "constant"}


def _narrow(call: Call) -> dict[str, Any]:
    ranges = [(0, n, 1) for n in call.input.shape]
    start = call.arguments["start"] % call.input.shape[call.dim()]
    ranges[call.dim()] = (start, start + call.arguments["length"], 1)
    return {"ranges": tuple(ranges)}


def _select(call: Call) -> dict[str, Any]:
    return {"dim": call.dim()}


def _tile(call: Call) -> dict[str, Any]:
    repeats = tuple(call.arguments.get("repeats", call.arguments.get("dims")))
    return {"repeats": (1,) * (call.result.dim() - len(repeats)) + repeats}


def _norm_dim(call: Call) -> dict[str, Any]:
    return {"dim": call.arguments["dim"] % call.arguments["v"].dim()}


def _repeat_interleave(call: Call) -> dict[str, Any]:
    repeats = call.arguments["repeats"]
    plain = isinstance(repeats, int) and call.arguments["dim"] is not None
    return {"dim": call.dim(), "repeats": repeats} if plain else {}


def _attention(call: Call) -> dict[str, Any]:
    arguments = call.arguments
    return {"gqa": bool(arguments["enable_gqa"]), "causal": bool(arguments["is_causal"])}


def _einsum(call: Call) -> dict[str, Any]:
    ranks = [operand.dim() for operand in call.arguments["operands"]]
    terms, output = einsum_letters(call.arguments["equation"], ranks)
    return {"terms": terms, "output": output}


def _cosine(call: Call) -> dict[str, Any]:
    rank = max(call.arguments[name].dim() for name in ("x1", "x2"))
    return {"dim": call.arguments["dim"] % rank}


def _recurrent(gates: int) -> Callable[[Call], dict[str, Any]]:
    def read(call: Call) -> dict[str, Any]:
        arguments = call.arguments
        states = arguments["hx"]
        return {
            "gates": gates,
            "states": len(states) if isinstance(states, list | tuple) else 1,
            "biases": int(arguments["has_biases"]),
            "directions": 1 + int(arguments["bidirectional"]),
            "time": 1 if arguments["batch_first"] and call.input.dim() == 3 else 0,
        }

    return read


def _cell(gates: int) -> Callable[[Call], dict[str, Any]]:
    def read(call: Call) -> dict[str, Any]:
        states = call.arguments["hx"]
        return {"gates": gates, "states": len(states) if isinstance(states, list | tuple) else 1}

    return read


def _topk(call: Call) -> dict[str, Any]:
    return {"dim": call.dim(), "k": call.arguments["k"], "largest": call.arguments["largest"]}


def _bins(call: Call) -> dict[str, Any]:
    return {"first": call.arguments["min"], "last": call.arguments["max"]}


def _rows_of_bytes(call: Call) -> dict[str, Any]:
    """The kernel takes rows of a multiple of 16 bytes, on a CPU as on a GPU."""
    matrices = call.arguments["weight"]
    rowwise = matrices.dim() == 3 and matrices.stride(-1) == 1
    return {"multiple": max(16 // matrices.element_size(), 1), "rowwise": rowwise}


def _unfold(call: Call) -> dict[str, Any]:
    kernel = call.arguments["kernel_size"]
    return {"sizes": {"k": kernel**2 if isinstance(kernel, int) else math.prod(kernel)}}


def _groups(call: Call) -> dict[str, Any]:
    groups = call.arguments.get("groups", 1)
    return {"sizes": {"g": groups}, "slots": {"groups": "g"}}


def _layer_norm(call: Call) -> dict[str, Any]:
    return {
        "sizes": {"*c": len(call.arguments["normalized_shape"])},
        "slots": {"normalized_shape": "*c"},
    }


def _group_norm(call: Call) -> dict[str, Any]:
    return {"sizes": {"g": call.arguments["num_groups"]}, "slots": {"num_groups": "g"}}


def _pixel_shuffle(call: Call) -> dict[str, Any]:
    factor = call.arguments["factor"]
    return {"sizes": {"r": factor, "s": factor}}


def _feeds(call: Call) -> dict[str, Any]:
    """The names of the nodes whose arrays depend on this size, by way of any arithmetic."""
    pending, feeds = list(call.node.users), dict[str, None]()
    for node in pending:
        if node.op == "output" or _holds_arrays(node.meta["value"]):
            feeds[node.name] = None
        else:
            pending.extend(node.users)
    return {"feeds": tuple(feeds)}


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, list | tuple) and any(map(_holds_arrays, value))
    )


# The table ------------------------------------------------------------------------------------

_OTHER_REDUCTIONS = "argmax argmin any all median logsumexp prod var_mean std_mean"
_SPATIAL = """
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    lp_pool1d lp_pool2d interpolate upsample
"""
RANKS = (1, 2, 3)

_CONV = Spelling(
    "conv",
    "input weight bias=None stride padding dilation groups=1",
    "input weight bias",
    _groups,
)
_CONV_TRANSPOSE = Spelling(
    "conv_transpose",
    "input weight bias=None stride padding output_padding groups=1",
    "input weight bias",
    _groups,
)
_VIEW = Spelling("reshape", "input *shape")
_RESHAPE = Spelling("reshape")
_RESHAPE_LIKE = Spelling("reshape", "input other", "input other")
_SPLIT = Spelling("split", "input sizes dim=0", attributes=_dim)
_MATMUL = Spelling("matmul", "input other", "input other")


def _recurrence(gates: int) -> Spelling:
    return Spelling(
        "recurrent",
        "input hx params has_biases num_layers dropout train bidirectional batch_first",
        "input hx params",
        _recurrent(gates),
    )


_SPREAD = Spelling(
    "reduce",
    "input dim=None unbiased=True keepdim=False correction=None",
    "input",
    _reduce("normalise"),
)
_BINARY = Spelling("elementwise", "input other", "input other")

NAMES: Mapping[str, Spelling] = MappingProxyType(
    {
        **{name: Spelling("elementwise") for name in UNARY.split()},
        **{name: _BINARY for name in BINARY.split()},
        **{name: Spelling("identity") for name in SAME.split()},
        **{name: Spelling("channelwise") for name in _SPATIAL.split()},
        **{f"avg_pool{rank}d": Spelling("average_pool") for rank in RANKS},
        **{f"adaptive_avg_pool{rank}d": Spelling("adaptive_average_pool") for rank in RANKS},
        "add": Spelling("add", "input other alpha=1", "input other"),
        "iadd": Spelling("add", "input other alpha=1", "input other"),
        "copy": _BINARY,
        "broadcast_tensors": Spelling("broadcast_all", "*tensors", "tensors"),
        "where": Spelling("elementwise", "condition input other", "condition input other"),
        "masked_fill": Spelling("elementwise", "input mask value", "input mask value"),
        "lerp": Spelling("elementwise", "input end weight", "input end weight"),
        "conv1d": _CONV,
        "conv2d": _CONV,
        "conv3d": _CONV,
        "conv_transpose1d": _CONV_TRANSPOSE,
        "conv_transpose2d": _CONV_TRANSPOSE,
        "conv_transpose3d": _CONV_TRANSPOSE,
        "linear": Spelling("linear", "input weight bias=None", "input weight bias"),
        **{name: _MATMUL for name in ("matmul", "mm", "bmm", "mv", "dot")},
        "addmm": Spelling("addmm", "input mat1 other beta=1 alpha=1", "input mat1 other"),
        **{
            name: Spelling(
                "grouped_mm", "input weight offs bias=None", "input weight offs bias", attributes
            )
            for name, attributes in (
                ("grouped_mm", _rows_of_bytes),
                ("grouped_mm_fallback", lambda call: {"multiple": 1}),  # of transformers
            )
        },
        "baddbmm": Spelling("baddbmm", "input batch1 batch2 beta=1 alpha=1", "input batch1 batch2"),
        "bilinear": Spelling(
            "bilinear", "input1 input2 weight bias=None", "input1 input2 weight bias"
        ),
        "cosine_similarity": Spelling("cosine", "x1 x2 dim=1", "x1 x2", _cosine),
        "embedding_bag": Spelling(
            "embedding_bag",
            "input weight offsets=None max_norm=None norm_type scale_grad_by_freq mode sparse "
            "per_sample_weights=None",
            "input weight offsets per_sample_weights",
        ),
        "einsum": Spelling("einsum", "equation *operands", "operands", _einsum),
        "scaled_dot_product_attention": Spelling(
            "attention",
            "query key value attn_mask=None dropout_p is_causal=False scale=None enable_gqa=False",
            "query key value attn_mask",
            _attention,
        ),
        **{
            f"{name}_cell": Spelling(
                "recurrent_cell",
                "input hx w_ih w_hh b_ih=None b_hh=None",
                "input hx w_ih w_hh b_ih b_hh",
                _cell(gates),
            )
            for name, gates in {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}.items()
        },
        "lstm": _recurrence(4),
        "gru": _recurrence(3),
        "rnn_tanh": _recurrence(1),
        "rnn_relu": _recurrence(1),
        "weight_norm_interface": Spelling("weight_norm", "v g dim=0", "v g", _norm_dim),
        "weight_norm": Spelling("weight_norm", "v g dim=0", "v g", _norm_dim),
        "unfold": Spelling("unfold", "input kernel_size", "input", _unfold),
        "im2col": Spelling("unfold", "input kernel_size", "input", _unfold),
        "col2im": Spelling("fold", "input output_size kernel_size", "input", _unfold),
        "fold": Spelling("fold", "input output_size kernel_size", "input", _unfold),
        "grid_sampler": Spelling("grid_sample", "input grid", "input grid"),
        "zeros": Spelling("fill", "*size", ""),
        "ones": Spelling("fill", "*size", ""),
        "empty": Spelling("fill", "*size", ""),
        "full": Spelling("fill", "*size", ""),
        **{
            f"new_{name}": Spelling("fill", "input *size", "")
            for name in ("zeros", "ones", "empty", "full")
        },
        "batch_norm": Spelling(
            "batch_norm",
            "input running_mean running_var weight=None bias=None training momentum eps=1e-5",
            "input running_mean running_var weight bias",
        ),
        "instance_norm": Spelling(
            "instance_norm",
            "input running_mean=None running_var=None weight=None bias=None",
            "input running_mean running_var weight bias",
        ),
        "rms_norm": Spelling(
            "rms_norm",
            "input normalized_shape weight=None eps",
            "input weight",
            _layer_norm,
        ),
        "layer_norm": Spelling(
            "layer_norm",
            "input normalized_shape weight=None bias=None eps",
            "input weight bias",
            _layer_norm,
        ),
        "group_norm": Spelling(
            "group_norm",
            "input num_groups weight=None bias=None eps",
            "input weight bias",
            _group_norm,
        ),
        "prelu": Spelling("prelu", "input weight", "input weight"),
        "view": _VIEW,
        "reshape": _VIEW,
        "view_as": _RESHAPE_LIKE,
        "reshape_as": _RESHAPE_LIKE,
        "flatten": _RESHAPE,
        "ravel": _RESHAPE,
        "squeeze": Spelling("reshape", "input dim=None"),
        "unsqueeze": _RESHAPE,
        **{f"atleast_{rank}d": _RESHAPE for rank in RANKS},
        "unflatten": Spelling("reshape", "input dim sizes"),
        "permute": Spelling("permute", "input *dims", attributes=_permute),
        "transpose": Spelling("permute", "input dim0 dim1", attributes=_transpose),
        "swapaxes": Spelling("permute", "input dim0 dim1", attributes=_transpose),
        "t": Spelling("permute", attributes=_reverse),
        "T": Spelling("permute", attributes=_reverse),
        "mT": Spelling("permute", attributes=_swap_last),
        "movedim": Spelling("permute", "input source destination", attributes=_movedim),
        "cat": Spelling("cat", "tensors dim=0", "tensors", _cat),
        "concat": Spelling("cat", "tensors dim=0", "tensors", _cat),
        "concatenate": Spelling("cat", "tensors dim=0", "tensors", _cat),
        "stack": Spelling("stack", "tensors dim=0", "tensors", _stack),
        "split": _SPLIT,
        "chunk": _SPLIT,
        "tensor_split": _SPLIT,
        "unbind": Spelling("unbind", "input dim=0", attributes=_dim),
        "select": Spelling("select", "input dim index", attributes=_select),
        "narrow": Spelling("slice", "input dim start length", "input", _narrow),
        "index_select": Spelling(
            "gather", "input dim index", "input index", lambda call: {"dims": (call.dim(),)}
        ),
        "index_add": Spelling(
            "index_add", "input dim index source alpha=1", "input index source", _dim
        ),
        "gather": Spelling("take_along", "input dim index", "input index", _dim),
        "take_along_dim": Spelling("take_along", "input index dim", "input index", _dim),
        "topk": Spelling("topk", "input k dim=-1 largest=True sorted=True", attributes=_topk),
        "argsort": Spelling("ranked", "input dim=-1", attributes=_dim),
        "sort": Spelling("ranked", "input dim=-1", attributes=_dim),
        "windows": Spelling("windows", "input dim size step", attributes=_dim),
        "pad": Spelling("pad", "input pad mode=constant value", "input", _pad),
        "repeat_interleave": Spelling(
            "repeat_interleave", "input repeats dim=None", "input", _repeat_interleave
        ),
        "expand": Spelling("expand", "input *size"),
        "expand_as": Spelling("expand", "input other", "input other"),
        "repeat": Spelling("tile", "input *repeats", attributes=_tile),
        "tile": Spelling("tile", "input *dims", attributes=_tile),
        "view_as_complex": Spelling("complex_pairs"),
        "glu": Spelling("glu", "input dim=-1", attributes=_dim),
        "channel_shuffle": Spelling("channel_shuffle", "input groups", "input", _groups),
        "embedding": Spelling(
            "embedding", "input weight padding_idx max_norm=None", "input weight"
        ),
        "mean": Spelling("reduce", "input dim=None keepdim=False", "input", _reduce("normalise")),
        "sum": Spelling("reduce", "input dim=None keepdim=False", "input", _reduce("contract")),
        "amax": Spelling("reduce", "input dim=None keepdim=False", "input", _reduce("normalise")),
        "amin": Spelling("reduce", "input dim=None keepdim=False", "input", _reduce("normalise")),
        "max": Spelling("reduce", "input dim=None keepdim=False", "input", _extreme),
        "min": Spelling("reduce", "input dim=None keepdim=False", "input", _extreme),
        "var": _SPREAD,
        "std": _SPREAD,
        "norm": Spelling("reduce", "input p=fro dim=None keepdim=False", "input", _norm),
        "linalg_vector_norm": Spelling(
            "reduce", "input ord=2 dim=None keepdim=False", "input", _norm
        ),
        **{
            name: Spelling("reduce", "input dim=None keepdim=False", "input", _reduce(None))
            for name in _OTHER_REDUCTIONS.split()
        },
        "softmax": Spelling("softmax", "input dim=None dtype=None", attributes=_dims),
        "log_softmax": Spelling("along", "input dim=None", attributes=_dims),
        "cumsum": Spelling("cumsum", "input dim", attributes=_dims),
        "histc": Spelling("histc", "input bins=100 min=0 max=0", attributes=_bins),
        "flip": Spelling("along", "input *dims", attributes=_turned),
        "roll": Spelling("along", "input shifts dims=None", attributes=_turned),
        "pixel_shuffle": Spelling("pixel_shuffle", "input factor", attributes=_pixel_shuffle),
        "pixel_unshuffle": Spelling("pixel_unshuffle", "input factor", attributes=_pixel_shuffle),
        "size": Spelling("size", "input dim=None", attributes=_feeds),
        "shape": Spelling("size", "input dim=None", attributes=_feeds),
    }
)
"""Functions and methods by bare name; a trailing underscore (in place) is not part of it."""


def spatial_rank(name: str) -> dict[str, int]:
    """The number of image axes that a name such as conv2d or MaxPool3d fixes.

    Without it an input that lacks the batch axis would pass for one with fewer image axes.
    """
    rank = re.search(r"([123])d$", name)
    return {"*x": int(rank[1])} if rank and "batchnorm" not in name.lower() else {}


def bare_name(node: fx.Node) -> str:
    """The name a function or method goes by; qualified if torch does not define it."""
    if node.op == "call_method":
        name = str(node.target)
        if name == "unfold":  # F.unfold is another function
            return "windows"
        return name.rstrip("_") if not name.startswith("__") else name
    return str(node.args[1]) if node.target is getattr else bare_name_of(node.target)


def bare_name_of(function: Any) -> str:
    """The bare name of a function."""
    name = getattr(function, "__name__", str(function))
    home = getattr(function, "__module__", None) or ""
    if home.startswith(("torch.", "_operator")) or home == "torch":
        return name.rstrip("_") if not name.startswith("_") else name.strip("_")
    return name if not home else f"{home}.{name}"
