"""Gate plans and fold plans carried out on a copy of a torch model."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.backends import masked_forms
from fxprune.backends.torch_copy import clone_tensor
from fxprune.backends.torch_module import TracedModule, copy_graph
from fxprune.errors import InternalError
from fxprune.frontends.torch_fx import Program, index_items
from fxprune.frontends.torch_in_place import memory_origins, overwritten, set_item
from fxprune.frontends.torch_leaves import torch_base
from fxprune.frontends.torch_meta import device_of
from fxprune.frontends.torch_modes import remove_dead
from fxprune.frontends.torch_spellings import NAMES, Changes, Resized, bare_name, module_spelling
from fxprune.gates.module import PREFIX
from fxprune.passes.axes import Axis
from fxprune.passes.condition import Condition
from fxprune.passes.fold import FoldPlan, ScatterOperand, SetLiteral, Slice
from fxprune.passes.gate import GateBranch, GatePlan, MaskedForm, MaskOperand

# Gating ---------------------------------------------------------------------------------------


def mask_axes(plan: GatePlan) -> tuple[Axis, ...]:
    """The distinct axes that a plan masks, in order."""
    edits: tuple[MaskOperand | MaskedForm, ...] = (*plan.masks, *plan.forms)
    return tuple(dict.fromkeys(edit.axis for edit in edits))


def mask_branches(plan: GatePlan) -> tuple[str, ...]:
    """The distinct branches that a plan scales, in order."""
    return tuple(dict.fromkeys(gate.branch for gate in plan.branches))


def insert_gates(
    model: nn.Module, program: Program, plan: GatePlan, gates: nn.Module
) -> TracedModule:
    """Carry out a gate plan: `model` (our own copy) becomes a gated module.

    Ensures: with every gate open the result computes the bits that the model computes.
    """
    graph, copies = copy_graph(program.graph)
    editor = _GateEditor(model, graph, {node.name: copies[node] for node in copies}, plan)
    for mask in plan.masks:
        editor.mask_operand(mask)
    for name, forms in _by_node(plan.forms).items():
        editor.use_masked_form(name, forms)
    for branch in plan.branches:
        editor.gate_branch(branch)
    for condition in plan.conditions:
        editor.condition(condition)
    model.add_module(PREFIX, gates)
    return TracedModule(model, graph)


def _by_node(forms: Iterable[MaskedForm]) -> dict[str, list[MaskedForm]]:
    grouped: dict[str, list[MaskedForm]] = {}
    for form in forms:
        grouped.setdefault(form.node, []).append(form)
    return grouped


class _GateEditor:
    """Edits one graph; masks come from one call of the gates at its start."""

    def __init__(
        self, model: nn.Module, graph: fx.Graph, nodes: Mapping[str, fx.Node], plan: GatePlan
    ) -> None:
        self._model = model
        self._graph = graph
        self._nodes = nodes
        self._names: dict[str, list[str]] = {}
        self._overrides: dict[str, dict[str, fx.Node]] = {}
        self._pooled: dict[tuple[fx.Node, int], fx.Node] = {}
        axes = mask_axes(plan)
        first = next(node for node in graph.nodes if node.op != "placeholder")
        with graph.inserting_before(first):
            masks = graph.call_module(PREFIX)
            keys = (*axes, *mask_branches(plan))
            self._masks: dict[Axis | str, fx.Node] = {
                key: graph.call_function(operator.getitem, (masks, index))
                for index, key in enumerate(keys)
            }

    def mask_operand(self, mask: MaskOperand) -> None:
        """Multiply one operand, a parameter of a module or an argument, by a mask."""
        arguments = (self._masks[mask.axis], mask.dim)
        self._rewrite(mask.node, mask.operand, masked_forms.apply_mask, arguments)

    def gate_branch(self, gate: GateBranch) -> None:
        """Multiply operands by the gate of a branch."""
        for operand in gate.operands:
            self._rewrite(gate.node, operand, masked_forms.scale, (self._masks[gate.branch],))

    def condition(self, condition: Condition) -> None:
        """Let a gate look at its input, and act on arrays."""
        maker = self._nodes[condition.node]
        source = self._array(maker, condition.operand)
        with self._graph.inserting_before(maker):
            key = (source, condition.dim)
            if key not in self._pooled:
                self._pooled[key] = self._graph.call_function(masked_forms.pooled, key)
            gate = self._graph.call_module(PREFIX, (self._pooled[key], condition.name))
        for name, operand, dim in condition.places:
            node = self._nodes[name]
            with self._graph.inserting_before(node):
                act, rest = (
                    (masked_forms.scale, ()) if dim < 0 else (masked_forms.apply_mask, (dim,))
                )
                old = self._array(node, operand)
                new = self._graph.call_function(act, (old, gate, *rest))
            self._replace_array(node, operand, new)

    def _array(self, node: fx.Node, operand: int) -> fx.Node:
        """Array operand of a call, of a module called with replaced parameters too."""
        if node.target is call_with and operand == 0:
            array: Any = node.args[2]
            return array  # type: ignore[no-any-return]
        return argument(node, operand)

    def _replace_array(self, node: fx.Node, operand: int, new: fx.Node) -> None:
        if node.target is call_with and operand == 0:
            node.args = (*node.args[:2], new, *node.args[3:])
        else:
            _replace_argument(node, operand, new)

    def _rewrite(
        self, name: str, operand: int, function: Callable[..., Tensor], arguments: tuple[Any, ...]
    ) -> None:
        """Let a node see `function(operand, *arguments)` where it saw an operand."""
        node = self._nodes[name]
        with self._graph.inserting_before(node):
            if operand == 0 or (name not in self._overrides and node.op != "call_module"):
                array = self._array(node, operand)
                new = self._graph.call_function(function, (array, *arguments))
                self._replace_array(node, operand, new)
                return
            overrides = self._overrides.setdefault(name, {})
            if not overrides:
                self._names[name] = parameter_names(self._model, node)
                module = self._graph.create_node("get_attr", str(node.target))
                node.op, node.target = "call_function", call_with
                node.args = (module, {}, *node.args)
            owner, key = node.args[0], self._names[name][operand - 1]
            old: Any = overrides.get(key) or self._graph.call_function(getattr, (owner, key))
            overrides[key] = self._graph.call_function(function, (old, *arguments))
            node.args = (owner, dict(overrides), *node.args[2:])

    def use_masked_form(self, name: str, forms: list[MaskedForm]) -> None:
        """Replace a normalisation or reduction by its masked form."""
        node = self._nodes[name]
        dims = tuple(form.dim for form in forms)
        masks = tuple(self._masks[form.axis] for form in forms)
        with self._graph.inserting_before(node):
            if node.op == "call_module":
                module = self._graph.create_node("get_attr", str(node.target))
                node.args = (module, node.args[0], masks, dims)
                node.op, node.target = (
                    "call_function",
                    _MODULE_FORMS[_kind(self._model, node, name)],
                )
                return
            bound = NAMES[bare_name(node)].bind(node.args, node.kwargs)
            node.args = (bare_name(node), bound, masks, dims)
            node.op, node.target, node.kwargs = "call_function", masked_function, {}


def call_with(module: nn.Module, parameters: dict[str, Tensor], *args: Any) -> Any:
    """Call a module with some of its parameters replaced."""
    if torch.compiler.is_compiling():
        return torch.func.functional_call(module, dict(parameters), args)
    own: dict[str, Any] = module._parameters  # what functional_call does, at a tenth of the cost
    originals = {name: own[name] for name in parameters}
    own.update(parameters)
    try:
        return module(*args)
    finally:
        own.update(originals)


def _masked_layer_norm(
    module: nn.LayerNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    shape = tuple(module.normalized_shape)
    mask = _trailing_mask(x, masks, dims, len(shape))
    return masked_forms.layer_norm(x, mask, shape, module.weight, module.bias, module.eps)


def _masked_group_norm(
    module: nn.GroupNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    return masked_forms.group_norm(
        x, masks[0], module.num_groups, module.weight, module.bias, module.eps
    )


def joint_mask(masks: tuple[Tensor, ...], dims: tuple[int, ...], rank: int) -> Tensor:
    """The product of masks of single axes, as an array of `rank` that broadcasts."""
    joint = masks[0].new_ones((1,) * rank)
    for mask, dim in zip(masks, dims, strict=True):
        joint = joint * mask.view([-1 if axis == dim % rank else 1 for axis in range(rank)])
    return joint


def _trailing_mask(
    x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...], rank: int
) -> Tensor:
    """The joint mask over the last `rank` axes of `x`."""
    return joint_mask(masks, tuple(dim - x.dim() for dim in dims), rank)


def masked_function(
    name: str, arguments: dict[str, Any], masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Any:
    """The masked form of a functional normalisation or reduction."""
    x = arguments["input"]
    if name == "layer_norm":
        shape = tuple(arguments["normalized_shape"])
        mask = _trailing_mask(x, masks, dims, len(shape))
        return masked_forms.layer_norm(
            x, mask, shape, arguments["weight"], arguments["bias"], arguments.get("eps", 1e-5)
        )
    if name == "batch_norm":
        return masked_forms.standardise(
            x,
            joint_mask(masks, dims, x.dim()),
            arguments["weight"],
            arguments["bias"],
            arguments["eps"],
        )
    if name == "rms_norm":
        shape = tuple(arguments["normalized_shape"])
        mask = _trailing_mask(x, masks, dims, len(shape))
        return masked_forms.rms_norm(x, mask, shape, arguments["weight"], arguments.get("eps"))
    if name == "group_norm":
        return masked_forms.group_norm(
            x,
            masks[0],
            arguments["num_groups"],
            arguments["weight"],
            arguments["bias"],
            arguments.get("eps", 1e-5),
        )
    reduced = arguments.get("dim")
    if isinstance(reduced, bool):  # x.var(False)
        arguments, reduced = {**arguments, "unbiased": reduced}, None
    reduced = tuple(range(x.dim())) if reduced is None else reduced
    reduced = (reduced,) if isinstance(reduced, int) else tuple(reduced)
    keepdim, mask = bool(arguments["keepdim"]), joint_mask(masks, dims, x.dim())
    if name in ("var", "std"):
        correction = arguments["correction"]
        correction = int(arguments["unbiased"]) if correction is None else correction
        variance = masked_forms.variance(x, reduced, keepdim, mask, correction)
        return variance if name == "var" else variance.sqrt()
    if name in ("max", "min"):  # only the values are read
        extreme = masked_forms.amax if name == "max" else masked_forms.amin
        return (extreme(x, reduced, keepdim, mask), None)
    form: Callable[..., Tensor] = {
        "mean": masked_forms.mean,
        "amax": masked_forms.amax,
        "amin": masked_forms.amin,
    }[name]
    return form(x, reduced, keepdim, mask)


def _masked_rms_norm(
    module: nn.RMSNorm, x: Tensor, masks: tuple[Tensor, ...], dims: tuple[int, ...]
) -> Tensor:
    shape = tuple(module.normalized_shape)
    mask = _trailing_mask(x, masks, dims, len(shape))
    return masked_forms.rms_norm(x, mask, shape, module.weight, module.eps)


_MODULE_FORMS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _masked_layer_norm,
    "group_norm": _masked_group_norm,
    "rms_norm": _masked_rms_norm,
}


def _kind(model: nn.Module, node: fx.Node, name: str) -> str:
    module = model.get_submodule(node.args[0].target)  # type: ignore[union-attr, arg-type]
    spelling = module_spelling(torch_base(type(module)))
    if spelling is None or spelling.op not in _MODULE_FORMS:
        raise InternalError(f"no masked form for {type(module).__name__} at {name}; please report")
    return spelling.op


def parameter_names(model: nn.Module, node: fx.Node) -> list[str]:
    """The parameters that follow the input among the operands of a module call."""
    spelling = module_spelling(torch_base(type(model.get_submodule(str(node.target)))))
    if spelling is None:
        own = dict(model.get_submodule(str(node.target)).named_parameters())
        return list(own)
    return spelling.parameters.split()


def argument(node: fx.Node, operand: int) -> fx.Node:
    """The fx node that is array operand number `operand` of a call."""
    value: Any = _operands(node)[operand][1]
    assert isinstance(value, fx.Node)
    return value


def _operands(node: fx.Node) -> list[tuple[str, Any]]:
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


def _replace_argument(node: fx.Node, operand: int, new: fx.Node) -> None:
    """Put `new` where operand number `operand` stands, and nowhere else."""
    old = argument(node, operand)
    new.meta.setdefault("value", old.meta.get("value"))
    same = sum(value is old for _, value in _operands(node)[:operand])
    position = -1

    def swap(item: fx.Node) -> fx.Node:
        nonlocal position
        position += item is old
        return new if item is old and position == same else item

    args, kwargs = fx.map_arg((node.args, node.kwargs), swap)
    node.args, node.kwargs = args, kwargs


# Folding --------------------------------------------------------------------------------------


def fold_model(
    model: nn.Module, program: Program, plan: FoldPlan, class_name: str = ""
) -> TracedModule:
    """Carry out a fold plan on `model`, our own module tree that still shares its tensors.

    Ensures: the result shares no tensor; no module remains that only removed nodes called.
    """
    graph, copies = copy_graph(program.graph)
    nodes = {node.name: copies[node] for node in copies}
    for name, changes in _changes_by_node(plan.literals).items():
        _write_literals(model, nodes[name], changes)
    written = _overwritten_memory(model, graph)
    for drop in plan.drops:
        _drop_operand(nodes[drop.node], drop.operand, nodes[drop.node] in written)
    for scatter in plan.scatters:
        _scatter_operand(model, nodes[scatter.node], scatter)
    before = _used(graph)
    remove_dead(graph)
    for path in before - _used(graph):
        _delete(model, path)
    own_parameters(model, program, plan.slices)
    return TracedModule(model, graph, class_name)


def _changes_by_node(literals: Iterable[SetLiteral]) -> dict[str, dict[tuple[str, int], Resized]]:
    grouped: dict[str, dict[tuple[str, int], Resized]] = {}
    for literal in literals:
        grouped.setdefault(literal.node, {})[literal.slot] = Resized(literal.value, literal.old)
    return grouped


def _write_literals(model: nn.Module, node: fx.Node, changes: Changes) -> None:
    if node.op == "call_module":
        _write_attributes(model.get_submodule(str(node.target)), changes)
    elif bare_name(node) in ("size", "shape"):
        _freeze_sizes(node, {dim: value for (_, dim), value in changes.items()})
    elif bare_name(node) == "getitem" or node.target is set_item:
        _write_ranges(node, changes)
    else:
        NAMES[bare_name(node)].write(node, changes)


def _write_attributes(module: nn.Module, changes: Changes) -> None:
    for (name, index), value in changes.items():
        old = getattr(module, name, None)
        if isinstance(old, tuple):
            setattr(module, name, (*old[:index], value, *old[index + 1 :]))
        elif old is not None:
            setattr(module, name, value)


def _freeze_sizes(node: fx.Node, sizes: Mapping[int, int]) -> None:
    """Answer a question for a size with the original number."""
    value = node.meta["value"]
    if isinstance(value, int):
        asked = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
        rank = node.args[0].meta["value"].dim()  # type: ignore[union-attr]
        if isinstance(asked, int) and asked % rank in sizes:
            _replace_by_constant(node, sizes[asked % rank])
        return
    users = list(node.users)
    with node.graph.inserting_after(node):
        items: list[Any] = [
            sizes[dim] if dim in sizes else node.graph.call_function(operator.getitem, (node, dim))
            for dim in range(len(value))
        ]
    for item, number in zip(items, value, strict=True):
        if isinstance(item, fx.Node):
            item.meta["value"] = number
    last = next((item for item in items if isinstance(item, fx.Node)), node)
    with node.graph.inserting_after(last):
        frozen = node.graph.call_function(tuple, (items,))
    frozen.meta["value"] = value
    for user in users:
        index = user.args[1] if bare_name(user) == "getitem" else None
        if isinstance(index, int) and index % len(value) in sizes:
            _replace_by_constant(user, sizes[index % len(value)])
        elif not isinstance(index, int):
            user.replace_input_with(node, frozen)


def _replace_by_constant(node: fx.Node, value: int) -> None:
    def swap(item: fx.Node) -> Any:
        return value if item is node else item

    for user in list(node.users):
        user.args = fx.map_arg(user.args, swap)
        user.kwargs = fx.map_arg(user.kwargs, swap)


def _write_ranges(node: fx.Node, changes: Changes) -> None:
    """Write the bounds of every axis that changes, counted from the front."""
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    items = index_items(node.args[1], len(shape))
    dims = [place for place, item in enumerate(items) if item is not None]
    for dim in sorted({dim for slot, dim in changes if slot == "size"}):
        item = fx.map_arg(items[dims[dim]], lambda bound: bound.meta["value"])
        start, stop, _ = item.indices(shape[dim])
        if item == slice(None):
            continue
        items[dims[dim]] = slice(
            changes.get(("start", dim), start), changes.get(("stop", dim), stop), item.step
        )
    node.args = (node.args[0], tuple(items), *node.args[2:])


def _overwritten_memory(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose result some later operator may write into."""
    modules = dict(model.named_modules(remove_duplicate=False))
    origins = memory_origins(modules, graph)
    written = {origins[operand] for n in graph.nodes if (operand := overwritten(modules, n))}
    return {node for node in graph.nodes if origins[node] in written}


def _drop_operand(node: fx.Node, operand: int, written: bool) -> None:
    """An addition goes on as its other operand, or as a copy if the sum is written into."""
    others = [index for index in range(len(_operands(node))) if index != operand]
    other = argument(node, others[0])
    if written:
        with node.graph.inserting_before(node):
            copied = node.graph.call_function(torch.clone, (other,))
        copied.meta["value"] = other.meta["value"]
        other = copied
    node.replace_all_uses_with(other)


def _scatter_operand(model: nn.Module, node: fx.Node, scatter: ScatterOperand) -> None:
    """An addition becomes an `index_add`; the index is a buffer of the model."""
    part, whole = argument(node, scatter.operand), argument(node, 1 - scatter.operand)
    name = f"{node.name}_index"
    while hasattr(model, name):
        name += "_"
    model.register_buffer(name, torch.tensor(scatter.kept, device=device_of(model)))
    with node.graph.inserting_before(node):
        index = node.graph.get_attr(name)
        arguments = (whole, scatter.dim, index, part)
        added = node.graph.call_function(add_scattered, arguments)
    added.meta["value"] = node.meta["value"]
    node.replace_all_uses_with(added)


def add_scattered(whole: Tensor, dim: int, index: Tensor, part: Tensor) -> Tensor:
    """`part` added to some positions of `dim`; of two data types the wider one, as in a sum."""
    if whole.dtype != part.dtype:
        wider = torch.promote_types(whole.dtype, part.dtype)
        whole, part = whole.to(wider), part.to(wider)
    return torch.index_add(whole, dim, index, part)


def _used(graph: fx.Graph) -> set[str]:
    """The modules that a graph calls and the tensors that it reads."""
    return {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}


def _delete(model: nn.Module, path: str) -> None:
    """Delete a module, parameter or buffer and the containers that it leaves empty."""
    while path:
        parent, _, name = path.rpartition(".")
        try:
            owner = model.get_submodule(parent)
        except AttributeError:
            return  # went with a module that holds it
        for container in (owner._modules, owner._parameters, owner._buffers):
            container.pop(name, None)
        if owner._modules or owner._parameters or owner._buffers:
            return
        path = parent


def own_parameters(model: nn.Module, program: Program, slices: Iterable[Slice]) -> None:
    """Give a model tensors of its own: kept positions where a slice says so, else clones.

    A tensor that goes by several names is replaced under all of them, and in lists of its module,
    as recurrent layers have.
    """
    by_name = by_parameter(slices)
    replaced: dict[int, Tensor] = {}
    for name, aliases in program.aliases.items():
        new: Tensor | None = None
        for alias in aliases:
            container, leaf = _place(model, alias)
            if container is None:
                continue  # removed with its branch
            if new is None:
                items = by_name.get(name)
                new = sliced(container[leaf], items) if items else clone_tensor(container[leaf])
                replaced[id(container[leaf])] = new
            container[leaf] = new
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, list):
                value[:] = [replaced.get(id(item), item) for item in value]


def _place(model: nn.Module, name: str) -> tuple[dict[str, Any] | None, str]:
    """The container that holds a parameter or buffer (None if it is gone) and its key there."""
    parent, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError:
        return None, leaf
    for container in (owner._parameters, owner._buffers):
        if leaf in container:
            return container, leaf
    return None, leaf


def by_parameter(slices: Iterable[Slice]) -> dict[str, list[Slice]]:
    """The slices of each parameter that has some."""
    by_name: dict[str, list[Slice]] = {}
    for item in slices:
        by_name.setdefault(item.parameter, []).append(item)
    return by_name


def sliced(tensor: Tensor, slices: Iterable[Slice]) -> Tensor:
    """The kept positions of a parameter or buffer, as one of its kind."""
    with torch.no_grad():
        result = tensor.detach()
        for item in slices:
            index = torch.tensor(item.kept, device=tensor.device)
            result = result.index_select(item.dim, index)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result
