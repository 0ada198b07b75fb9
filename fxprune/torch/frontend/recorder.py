"""Every torch call of a forward, written down while it runs on tensors without data.

A `TorchFunctionMode` sees each call that a model's Python makes: functions, methods, operators,
attributes of tensors, factories. The tensors are real ones on the meta device, so `isinstance`,
shapes, types and all control flow that depends on them work as always; the graph gets a node per
call. Where Python asks for a value (`if mask.any():`), it is computed if it depends on constants
and shapes alone; a trace that followed the values of one example would be wrong for others.
"""

import math
import operator
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from fxprune.errors import FxpruneError
from fxprune.torch.frontend.calls import (
    ANSWERED,
    VALUE_SHAPED,
    VALUES,
    CallError,
    as_operator,
    attribute_read,
    entered,
    holds_arrays,
    is_inside_torch,
    is_method,
    is_number,
    is_python,
    plain_index,
    target_name,
    types_in,
)
from fxprune.torch.frontend.decisions import Decisions
from fxprune.torch.frontend.flags import TrainingFlag, own_training
from fxprune.torch.frontend.formulas import by_formula
from fxprune.torch.frontend.in_place import set_item, works_in_place
from fxprune.torch.frontend.meta import MetaModules, device_of, shaped_by_trial
from fxprune.torch.frontend.nests import leaves_of, mapped, rebuilt
from fxprune.torch.frontend.numbers import TracedNumber, plain_number
from fxprune.torch.frontend.origins import OwnFloat, OwnInt, origins_in
from fxprune.torch.frontend.owners import ORIGINS, OWNER, Handed, OwnedGraph
from fxprune.torch.frontend.regions import Pause, Regions
from fxprune.torch.frontend.sizes import Sizes
from fxprune.torch.frontend.spellings import NAMES, bare_name_of
from fxprune.torch.frontend.values import CONSTANT, KnownValues, UndecidedError
from fxprune.torch.frontend.walk import named_modules, named_tensors


class Recorder(TorchFunctionMode):
    """Records into `graph` what runs under it; every node gets `meta["value"]`."""

    def __init__(self, root: nn.Module, mode: bool, stand_in: torch.dtype | None = None) -> None:
        """`stand_in` replaces the floating type of the model, to see what depends on it."""
        super().__init__()
        self.graph = OwnedGraph()
        for name in (*root._parameters, *root._buffers):  # values have names of their own
            self.graph._graph_namespace._used_names.add(name)
        self.mode = mode
        self.branched_on_mode = False
        self.ended = False
        self.known_results: Mapping[str, Any] = {}
        self.silent = False
        self._thread = threading.get_ident()
        self.decisions = Decisions()
        self.device = device_of(root)
        self._modules = dict(named_modules(root))
        self._paths = {id(module): name for name, module in self._modules.items()}
        self._names = {id(tensor): name for name, tensor in named_tensors(root)}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Any] = []  # a tensor that is gone could lend its id to another
        self._attributes: dict[str, fx.Node] = {}
        self._views: dict[int, tuple[Tensor, Any]] = {}  # x[index] of which array, and where
        self.regions = Regions(self)
        self.sizes = Sizes(self)
        self._known = KnownValues(self._modules, self.device)
        self.floats = next(
            (p.dtype for p in root.parameters() if p.is_floating_point()), torch.float32
        )
        self.reads_types: dict[torch.dtype, fx.Node] = {}
        self.writes_types: dict[fx.Node, fx.Node] = {}
        self._meta = MetaModules({self.floats: stand_in} if stand_in else {})

    @property
    def paused(self) -> bool:
        """Whether calls pass unseen: for a while, after the end, and those of other threads."""
        return self.silent or threading.get_ident() != self._thread

    def let_go(self) -> None:
        """Forget the model, which would else live until Python looks for cycles of references."""
        self.ended = self.silent = True
        self._modules.clear()
        self._alive.clear()
        self._views.clear()

    # What the graph starts from --------------------------------------------------------------

    def input(self, name: str, value: Any, default: tuple[Any, ...] = ()) -> tuple[fx.Node, Any]:
        """A placeholder, and what forward is to be called with."""
        node = self.graph.create_node("placeholder", name, default, {})
        return node, self._introduce(node, self._meta.like(value))

    def _introduce(self, node: fx.Node, value: Any) -> Any:
        """Let the tensors in `value`, which `node` computes, be known; they are returned."""
        node.meta["value"] = plain_number(value)
        if isinstance(value, Tensor | Handed):
            self._nodes[id(value)] = node
            self._alive.append(value)
            return value
        if isinstance(value, Mapping):
            return {k: self._introduce(self._item(node, k), v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            parts = [self._introduce(self._item(node, i), item) for i, item in enumerate(value)]
            return rebuilt(value, parts)
        return value

    def _item(self, node: fx.Node, key: Any) -> fx.Node:
        return self.graph.call_function(operator.getitem, (node, key))

    def path_of(self, module: nn.Module) -> str | None:
        """Where a module is in the model, if it is."""
        return self._paths.get(id(module))

    def training_flag(self, module: nn.Module) -> Any:
        """What a module under trace sees as its `training`."""
        path = self._paths.get(id(module))
        if self.paused or path is None:
            return own_training(module)
        node = self._attribute(f"{path}.training" if path else "training", self.mode)
        return TrainingFlag(node, self.mode, self._branch)

    def entered(
        self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Let calls be those of the module at `path`, whose `forward` is called with arguments."""
        with self.pause():
            call = [self.to_nodes(args), self.to_nodes(dict(kwargs)), None]
        self.graph.calls.setdefault(path, []).append(call)
        before, self.graph.owner = self.graph.owner, path
        try:
            result = forward(*args, **kwargs)
            if isinstance(result, Tensor | list | tuple):  # of other classes it would lose its own
                with self.pause(), suppress(FxpruneError):
                    call[2] = self.to_nodes(result)
            return result
        except Exception as error:
            if not getattr(error, "owner", ""):
                error.owner = path  # type: ignore[attr-defined]
            raise
        finally:
            self.graph.owner = before

    def number_lost(self, *numbers: Any) -> None:
        """Python has made numbers of its own out of some of the trace."""
        self.decisions.number_lost(*numbers)

    def size_compared(self, compare: Callable[[int, Any], Any], size: int, to: Any) -> None:
        """Python has compared a size."""
        if not self.paused:
            self.decisions.size_compared(compare, size, to)

    def _branch(self) -> None:
        self.branched_on_mode = True

    def _attribute(self, name: str, value: Any) -> fx.Node:
        if name not in self._attributes:
            node = self.graph.create_node("get_attr", name, (), {})
            node.meta["value"] = value
            self._attributes[name] = node
        return self._attributes[name]

    def _tensor_node(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor: computed, or one that the model owns, or a constant."""
        node = self._nodes.get(id(tensor))
        if node is not None:
            return node
        name = self._names.get(id(tensor))
        if tensor.is_meta and name is None:
            raise FxpruneError("a tensor was made by a call that torch does not show to tracers")
        self._alive.append(tensor)
        if name is None:
            name = f"_fxprune_constant{len(self._attributes)}"
            node = self._attribute(name, self._meta.twin(tensor))
            node.meta[CONSTANT] = tensor.detach().clone()
        else:
            node = self._attribute(name, self._meta.twin(tensor))
        self._nodes[id(tensor)] = node
        return node

    # Calls ------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or is_inside_torch(sys._getframe(1)):
            return func(*args, **kwargs)
        attribute = attribute_read(func)
        if attribute is not None:
            return self._read(args[0], attribute)
        name = getattr(func, "__name__", str(func))
        if name == "size" and isinstance(args[0], Tensor):
            return self.sizes.of(*args, **kwargs)
        if name in ("numel", "nelement"):
            return math.prod(self.sizes.of(args[0]))
        if name in VALUES:
            return self._value(func, args, kwargs)
        if name in ANSWERED:
            return func(*self._to_meta(args), **self._to_meta(kwargs))
        if name in ("__reduce_ex__", "__deepcopy__") and isinstance(args[0], Tensor):
            raise TypeError("its forward copies a tensor by Python's copy module: use x.clone()")
        if name == "__iter__":
            return iter(args[0].unbind(0))
        if name == "__setitem__":
            if not self._is_part(*args):
                self.call(set_item, args, kwargs)
            return None
        if name.startswith("__"):
            func, args = as_operator(func, args)
        if is_python(func) and bare_name_of(func) not in NAMES:
            with self:
                return entered(func)(*args, **kwargs)
        return self.call(func, args, kwargs)

    def _is_part(self, whole: Tensor, index: Any, value: Any) -> bool:
        """Whether `value` is `whole[index]`: `x[i] += 1` puts back what was changed in place."""
        known, place = self._views.get(id(value), (None, None))
        return known is whole and plain_index(place) == plain_index(index)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Record one call and compute its result without data."""
        with self.pause():
            return self._call(func, args, kwargs)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func is torch._C._set_grad_enabled:
            return self.regions.set_grad_mode(*args)
        arguments, keywords = self.to_nodes(args), self.to_nodes(kwargs)
        if is_method(func):
            node = self.graph.call_method(func.__name__, arguments, keywords)
        else:
            node = self.graph.call_function(func, arguments, keywords)
        if origins := origins_in(args, kwargs):
            node.meta[ORIGINS] = origins
        if self.floats in self.reads_types and self.floats in types_in(args, kwargs):
            self.writes_types[node] = self.reads_types[self.floats]
        target = self._overwritten(node, args, kwargs)
        result = self._compute(node, lambda: self._run(func, args, kwargs))
        if target is not None:
            return self._renew(target, node)
        if not any(isinstance(item, Tensor) for item in leaves_of(result)):
            self.graph.erase_node(node)
            return result
        if isinstance(result, list | tuple) and len(result) == self.decisions.batch:
            self.number_lost(self.decisions.batch)  # perhaps it took the batch apart
        result = self._introduce(node, self._apart(result, (args, kwargs)))
        if func is operator.getitem and not holds_arrays(args[1]):
            self._views[id(result)] = args
        return result

    def note(self, func: Callable[..., Any], *args: Any) -> fx.Node:
        """A node for a call that is no computation."""
        node = self.graph.call_function(func, args)
        node.meta["value"] = None
        return node

    def _apart(self, result: Any, operands: Any) -> Any:
        """A result that is no object that went in, so that each keeps its own node."""
        given = [self._meta_of(x) for x in leaves_of(operands) if isinstance(x, Tensor)]
        if isinstance(result, Tensor):
            return result.detach() if any(result is x for x in given) else result
        return mapped(result, lambda item: self._apart(item, operands))

    def _overwritten(self, node: fx.Node, args: Any, kwargs: Any) -> Tensor | None:
        """The tensor that a call writes its result into; its present node keeps its shape."""
        if not works_in_place(self._modules, node):
            return None
        target = kwargs.get("out", args[0] if args else kwargs.get("input"))
        if not isinstance(target, Tensor):
            return None
        self._tensor_node(target).meta["value"] = self._meta_of(target).detach()
        return target

    def _renew(self, target: Tensor, node: fx.Node) -> Tensor:
        """What was overwritten is from now on what `node` computed."""
        node.meta["value"] = self._meta_of(target).detach()
        self._nodes[id(target)] = node
        if id(target) in self._views:  # what it was cut from has changed as well
            whole, index = self._views[id(target)]
            self.call(set_item, (whole, index, target), {})
        return target

    def call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Record the call of a leaf module."""
        with self.pause():
            with torch._C.DisableTorchFunction():  # no call made here is the model's
                path = self._paths[id(module)]
                node = self.graph.call_module(path, self.to_nodes(args), self.to_nodes(kwargs))
                arguments, keywords = self._to_meta(args), self._to_meta(kwargs)
                target = self._overwritten(node, args, kwargs)
                known = path in self.known_results
                result = None if known else self._meta.by_formula(module, arguments, keywords)
            if result is None:
                result = self._compute(node, lambda: self._returned(path, arguments, keywords))
            if target is not None:
                return self._renew(target, node)
            with torch._C.DisableTorchFunction():
                return self._introduce(node, self._apart(result, (arguments, keywords)))

    def _returned(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a leaf module returns for meta tensors."""
        if path in self.known_results:
            return self._meta.like(self.known_results[path])
        return self._meta.call(self._modules[path], args, kwargs)

    def _compute(self, node: fx.Node, function: Callable[[], Any]) -> Any:
        try:
            with self.pause(), torch.no_grad():
                return function()
        except UndecidedError:
            raise
        except Exception as error:
            place = f"{node.name} ({target_name(node)})"
            raise CallError(place, error, node.meta[OWNER]) from error

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        arguments, keywords = self._to_meta(args), dict(self._to_meta(kwargs))
        if func in _device_constructors():
            keywords["device"] = "meta"
        if (result := by_formula(func, arguments, keywords)) is not None:
            return result
        name = getattr(func, "__name__", "")
        if name in ("cpu", "cuda", "xpu", "pin_memory") and isinstance(arguments[0], Tensor):
            return arguments[0].detach()
        try:
            return func(*arguments, **keywords)
        except (RuntimeError, NotImplementedError) as error:
            if not any(word in str(error).lower() for word in ("meta", "fake impl")):
                raise
            # A tensor stands where a number is needed, as in x[:n] with a tensor n, or the shape
            # of the result depends on values, as that of nonzero.
            if getattr(func, "__name__", "") in VALUE_SHAPED:
                return self._meta.like(self._value(func, args, kwargs))
            numbers = self._with_numbers(args), self._with_numbers(kwargs)
            try:
                return func(*numbers[0], **numbers[1])
            except (RuntimeError, NotImplementedError):
                return self._meta.like(shaped_by_trial(func, *numbers))

    def _with_numbers(self, value: Any) -> Any:
        """As `_to_meta`, with the values of the tensors that are single integers."""
        if isinstance(value, Tensor) and is_number(value):
            return self._value(Tensor.item, (value,), {})
        if isinstance(value, Mapping | list | tuple | slice):
            return mapped(value, self._with_numbers)
        return self._to_meta(value)

    # Questions --------------------------------------------------------------------------------

    def _read(self, tensor: Tensor, name: str) -> Any:
        if name == "shape":
            return self.sizes.of(tensor)
        with self.pause():
            if name == "device":
                return self.device if tensor.is_meta else tensor.device
            if name == "is_meta":
                return False
            if name == "dtype":
                dtype = self._meta_of(tensor).dtype
                self.reads_types[dtype] = self._tensor_node(tensor)
                return dtype
            if not tensor.is_meta and name == "requires_grad":
                return tensor.requires_grad
            result = getattr(self._meta_of(tensor), name)
        if not isinstance(result, Tensor):
            return result
        node = self.graph.call_function(getattr, (self._tensor_node(tensor), name))
        return self._introduce(node, self._apart(result, tensor))

    def computed(self, tensor: Tensor) -> fx.Node | None:
        """The node that computes a tensor; None for what the model owns."""
        node = self._nodes.get(id(tensor))
        return None if node is None or node.op == "get_attr" else node

    def pause(self) -> Pause:
        """Let torch calls through unseen."""
        return Pause(self)

    def _value(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Answer a question about values."""
        known = self._known
        given = [self._tensor_node(x) if isinstance(x, Tensor) else plain_number(x) for x in args]
        nodes = [x for x in given if isinstance(x, fx.Node)]

        def answer(batch: int) -> Any:
            sizes = (max(self.decisions.batch, 1), max(batch, 1))
            real = (known.of(x, sizes) if isinstance(x, fx.Node) else x for x in given)
            return func(*real, **kwargs)

        with self.pause():
            result = answer(self.decisions.batch)
            if any(map(known.depends_on_size, nodes)):
                self.decisions.value_asked(answer)
        return result

    # Arguments --------------------------------------------------------------------------------

    def _meta_of(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        return self._meta.twin(tensor)

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._meta_of(value)
        if isinstance(value, TracedNumber | OwnInt | OwnFloat):
            return plain_number(value)
        if isinstance(value, TrainingFlag):
            return value.mode
        if isinstance(value, torch.device):
            return torch.device("meta")
        return mapped(value, self._to_meta)

    def to_nodes(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor_node(value)
        if isinstance(value, Handed):
            return self._nodes[id(value)]
        if isinstance(value, TracedNumber | TrainingFlag):
            return value.node
        if isinstance(value, OwnInt | OwnFloat):
            return plain_number(value)
        if isinstance(value, torch.device) and value == self.device:
            return self.graph.device_node() or value
        if type(value).__module__ == "numpy" and hasattr(value, "item"):
            return value.item()
        if isinstance(value, tuple):
            return tuple(map(self.to_nodes, value))
        return mapped(value, self.to_nodes)
