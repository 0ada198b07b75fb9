"""Layers written as two with the rank between them, exactly; and pairs that do not pay made one.

The rank is a group like any other: gates learn it, criteria rank it, folding makes it physical.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx, nn

from fxprune.errors import InputError
from fxprune.passes.analyse import analyse
from fxprune.passes.factorisation import FORMS, Factorised, Form, form_of
from fxprune.selectors import chosen_layers
from fxprune.stages import track
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.generated import graph_run_by
from fxprune.torch.checks import Model, check_finite, check_model
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.pairs import LAYERS, forms_of, layer_of, pairs_of, rank_of
from fxprune.torch.record import FoldStep, attach, is_gated, record_of
from fxprune.torch.recorded import recorded_program
from fxprune.torch.splitting import one_layer, put, two_layers
from fxprune.torch.turning import turn
from fxprune.torch.wrapping import check_module


def factorise(
    model: Model,
    layers: Iterable[str] = ("*",),
    form: str = "low_rank",
    *,
    data: Iterable[Any] | None = None,
) -> Model:
    """A model of which layers are two with their rank between them; it computes the same.

    Nothing is smaller yet: at its full rank a pair costs more than its layer. What closes positions
    of the rank makes it pay, as channels: `prepare` and training, or `prune`; then `merge`.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    >>> pairs = fxprune.factorise(model, ["0"])
    >>> pairs[0].first
    Linear(in_features=8, out_features=8, bias=False)
    >>> pairs[0].second
    Linear(in_features=8, out_features=32, bias=True)

    Args:
        model: any module; it is copied and stays as it is.
        layers: names of layers or of modules that hold some, or patterns, `"*.mlp"`. By default
            all that can be two.
        form: "low_rank" (a layer of the same kernel with fewer channels, then a pointwise one; of
            linear layers and embeddings, too), "separable" (a depthwise layer with a multiplier,
            then a pointwise one) or "spatial" (a layer along the first axis of the kernel, then one
            along the others).
        data: batches: an input, perhaps with labels behind, or a mapping of arguments. With them
            the positions of a rank are the principal components of what the layer returns on
            them, so that closing the last ones loses least there (Wang et al. 2024); without, those
            of its weights. Either way the model computes the same.

    Returns:
        A module of the class of `model`. `factors` says which layers are two, and why others are
        not: grouped convolutions, shared weights, layers with hooks, subclasses with code of their
        own.

    Raises:
        InputError: an argument does not fit, or what is named in `layers` cannot be two.
        NothingToPruneError: no layer of the model can be.
    """
    check_model(model, empty=data is None)
    check_finite(model)
    chosen = _chosen(model, layers, form_of(form))
    found: Any = as_pairs(model, dict.fromkeys(chosen, form), data)[0]
    return found  # type: ignore[no-any-return]


def merge(model: Model) -> Model:
    """A model in which every pair that does not do less than its one layer is that layer again.

    Pairs whose layers generated code calls one by one stay (see `report` for such code).

    Args:
        model: what `factorise` returned, perhaps pruned and folded since; it stays as it is.

    Raises:
        InputError: the model is gated: fold it first.
    """
    check_module("model", model)
    if is_gated(model):
        raise InputError("merge takes what is not gated: fold the gated module first")
    merged: Any = copy_module(model)
    called = _called_apart(merged)
    for path, pair in pairs_of(merged).items():
        pays = FORMS[pair.form].pays(layer_of(pair), rank_of(pair))
        if not pays and not any(target.startswith(f"{path}.") for target in called):
            put(merged, pair, one_layer(pair))
    renew(merged)
    return merged  # type: ignore[no-any-return]


def _called_apart(model: nn.Module) -> set[str]:
    """What generated code of modules calls or reads by itself, by path."""
    return {
        f"{path}.{node.target}" if path else str(node.target)
        for path, module in model.named_modules()
        for node in getattr(_graph_of(module), "nodes", ())
        if node.op in ("call_module", "get_attr")
    }


def _graph_of(module: nn.Module) -> fx.Graph | None:
    return module._graph if isinstance(module, fx.GraphModule) else graph_run_by(module)


def factors(model: nn.Module) -> list[Factorised]:
    """Every layer that could be two: its form and rank if it is, else why it is whole."""
    check_module("model", model)
    pairs = pairs_of(model)
    found = [Factorised(path, pair.form, rank_of(pair)) for path, pair in pairs.items()]
    for path, layer in _candidates(model):
        reasons = _refusals(model, path, layer, FORMS.values())
        found.append(Factorised(path, reason=reasons or "nobody asked for it"))
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    return sorted(found, key=lambda item: order[item.name])


# Which layers


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers of the classes that can be two, and those of subclasses; not what is in pairs.

    Layers in removed branches have no weights left.
    """
    inside = tuple(f"{path}." for path in pairs_of(model))
    for path, module in model.named_modules():
        has_weights = isinstance(module, LAYERS) and getattr(module, "weight", None) is not None
        if path and has_weights and not path.startswith(inside):
            yield path, module


def _chosen(model: nn.Module, layers: Any, form: Form) -> list[str]:
    """The layers that are meant and can have a form."""
    known = dict(_candidates(model))
    whole = {path: refusal_of(model, path, layer, form) for path, layer in known.items()}
    return chosen_layers(layers, {path: [path] for path in known}, whole, f"be {form.name}")


def can_be(model: nn.Module, form: Form) -> dict[str, str]:
    """The layers of a model that can have a form, by path, with its name."""
    paths = [path for path, layer in _candidates(model) if not refusal_of(model, path, layer, form)]
    return dict.fromkeys(paths, form.name)


def _refusals(model: nn.Module, path: str, layer: nn.Module, forms: Iterable[Form]) -> str:
    """Why a layer has none of some forms, "" where it has one."""
    reasons = dict.fromkeys(refusal_of(model, path, layer, form) for form in forms)
    return "" if "" in reasons else next(iter(reasons), "")


def refusal_of(model: nn.Module, path: str, layer: nn.Module, form: Form) -> str:
    """Why a layer of a model cannot have a form, "" where it can."""
    if type(layer) not in LAYERS:
        return f"it is a {type(layer).__name__}, a subclass that may have code of its own"
    if "forward" in vars(layer) or any(getattr(layer, name, None) for name in _HOOKS):
        return "it has hooks, or a forward of its own, which expect the layer itself"
    weight: Any = layer.weight
    if not weight.is_floating_point():
        return f"its weights are {weight.dtype}"
    if others := [name for name in _names_of(model, weight) if name != f"{path}.weight"]:
        return f"its weights are those of {others[0]}, too"
    if holder := _holder_of(model, layer):
        return f"{holder} holds it in an attribute, beside its modules"
    if isinstance(layer, nn.Embedding):
        if form.name != "low_rank":
            return f"an embedding has no kernel to be {form.name}"
        if layer.max_norm is not None:
            return "it limits the norms of its vectors, max_norm"
    return form.refusal(layer_of(layer))


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def _names_of(model: nn.Module, weight: Any) -> list[str]:
    """The names that a parameter has by way of different modules."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is weight
    ]


def _holder_of(model: nn.Module, layer: nn.Module) -> str:
    """The module that has a layer in a plain attribute, which would go on calling it."""
    for path, module in model.named_modules():
        own = {k: v for k, v in vars(module).items() if k not in _OWN_OF_TORCH}
        if any(leaf is layer for leaf in leaves_of(own)):
            return path or type(model).__name__
    return ""


_OWN_OF_TORCH = ("_parameters", "_buffers", "_modules")


# From one to two and back


def as_pairs(
    model: nn.Module, forms: Mapping[str, str], data: Iterable[Any] | None = None
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """A copy of a model of which some layers, by path, are two of some forms.

    And by path the energies of the positions between them, on data if there is some.
    """
    pairs = copy_module(model)
    energies: dict[str, np.ndarray] = {}
    for path, form in track(list(forms.items()), "layers factorised"):
        layer = pairs.get_submodule(path)
        pair, energies[path] = two_layers(layer, FORMS[form])
        put(pairs, layer, pair)
    if data is not None:
        energies |= turn(pairs, data)
    renew(pairs)
    return pairs, energies


def renew(model: nn.Module) -> None:
    """Let a folded model whose pairs have changed know what it is now: as a fold of nothing."""
    record = record_of(model)
    if record is None or record.pairs == forms_of(model):
        return
    program, leaves = recorded_program(model, record)
    analysis = analyse(program.ir, record.ignored, record.scatter)
    everything = {name: tuple(range(size)) for name, size in analysis.costs.full.items()}
    pairs = forms_of(model)
    step = FoldStep(everything, record.ignored, leaves, record.scatter, pairs=pairs)
    now = replace(record, program=program, analysis=analysis, leaves=leaves, pairs=pairs)
    attach(model, replace(now, history=(*record.history, step)))
