"""Removing closed positions for good while training goes on, so that the rest of it is cheaper.

The gated module, the optimizer and its parameter groups stay the same objects, so schedulers and
loops go on; the parameters in them are new, smaller ones. Whatever is kept computes and learns as
it would have without the shrinking.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.arguments import refusal
from fxprune.errors import InputError
from fxprune.layout import layout_of
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.carry import Origin, carried, carried_ties
from fxprune.passes.fold import Slice
from fxprune.passes.whole_layers import layers_again
from fxprune.torch.backend.configuration import carried_rules
from fxprune.torch.backend.fold import by_parameter, sliced
from fxprune.torch.backend.generated import is_generated
from fxprune.torch.backend.module import become
from fxprune.torch.backend.optimizer import folded_state
from fxprune.torch.backend.parts import Whole
from fxprune.torch.budget.budget import renewed
from fxprune.torch.fold import fold_in_kind, plan_of
from fxprune.torch.gates.method import Method, is_distributed
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.gating import method_for, with_gates
from fxprune.torch.pairs import forms_of
from fxprune.torch.record import attach, gated_record, gates_of, record_of, traced_part
from fxprune.torch.recorded import recorded_program

_log = logging.getLogger("fxprune")


def shrink(gated: nn.Module, optimizer: Optimizer) -> int:
    """Remove what is closed now, physically, from a gated module in training and its optimizer.

    Both are changed in place, so schedulers and the loop go on; only a list of parameters that was
    made before is out of date. What is removed cannot open again, gates go on learning among what
    is left.

    Args:
        gated: what `prepare` returned.
        optimizer: over its parameters; any kind whose state is scalars and tensors of the shape
            of the parameter (SGD, Adam, AdamW, RMSprop, ...).

    Returns:
        How many positions were removed: all that are closed. None, and a warning says so, where
        nothing that can be closed would be left, as no model is gated without gates.

    Raises:
        InputError: `gated` is not gated, its parameters are sharded, or the optimizer is of another
            kind. Nothing is changed then.
    """
    gates, record = gated_record(gated)
    if not isinstance(optimizer, Optimizer):
        raise refusal("optimizer", optimizer, "the torch.optim.Optimizer that trains gated")
    _, part = traced_part(gated)
    own = {id(p) for p in part.parameters()}
    if own.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
        raise InputError("optimizer has no parameter of gated: build it from gated.parameters()")
    keep = gates.keep_set()
    closed = sum(int((~flags).sum()) for flags in keep.values())
    if not closed:
        return 0
    gates.method.check_carry()
    _check_tensors(optimizer, part)
    folded = fold_in_kind(part, record, {k: flags.tolist() for k, flags in keep.items()})
    smaller = record_of(folded)
    assert smaller is not None
    program, leaves = recorded_program(folded, record)
    ignored = tuple(name for name in record.ignored if name in dict(folded.named_parameters()))
    analysis = analyse(program.ir, ignored, record.scatter)
    analysis = layers_again(analysis, record.analysis)
    origins = carried(record.analysis, analysis, {k: v.tolist() for k, v in keep.items()})
    if not origins:
        _log.warning(
            "shrink: %d closed positions stay, because %s: fold instead", closed, _no_heir(analysis)
        )
        return 0
    analysis = analysis.only(origins, "was pinned before the model was shrunk")
    analysis = analysis.tying(carried_ties(record.analysis, origins))
    method = _carried(gates.method, analysis, origins)
    former = dict(part.named_parameters())
    mode = gates.training
    whole = Whole(folded, smaller.examples, frozenset(leaves), program, analysis)
    at_once = program.told and is_generated(part)
    become(part, with_gates(whole, method, at_once=at_once))
    now = replace(smaller, program=program, analysis=analysis, ignored=ignored, leaves=leaves)
    now = replace(now, pairs=forms_of(folded))
    now = replace(now, configuration=carried_rules(record.configuration, origins))
    milliseconds = {name: time for name, time in record.times.items() if name == "latency_ms"}
    now = replace(now, times=milliseconds)  # shares are of a model that is no more
    attach(part, now)
    part.train(mode)
    _exchange(optimizer, former, dict(part.named_parameters()), plan_of(record, keep).slices)
    heirs = gates_of(part)
    heirs.shrink_every, heirs.followers = gates.shrink_every, gates.followers
    heirs.waiting = gates.waiting
    return closed


def _no_heir(analysis: Analysis) -> str:
    """Why no gate of a smaller model goes on where one of the model was."""
    if analysis.free_groups or analysis.branches:
        return "what is free in what is left was pinned before, or is not found again"
    return "every group that is left has one position or is pinned"


def _check_tensors(optimizer: Optimizer, part: nn.Module) -> None:
    if any(type(p) is not nn.Parameter for p in part.parameters()):
        raise InputError("cannot shrink sharded or special parameters: fold after the training")
    for parameter in part.parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            fits = not isinstance(value, Tensor) or value.shape in (parameter.shape, (), (1,))
            if not fits or isinstance(value, list | dict):
                raise InputError(
                    f"cannot shrink the state {key!r} of {type(optimizer).__name__}: it has not "
                    "the shape of its parameter; fold after the training"
                )


def _carried(old: Method, analysis: Analysis, origins: Mapping[str, Origin]) -> Method:
    """The method for what is left, in the state that it had."""
    layout = layout_of(analysis)
    former = old.budget.layout
    starts = dict(zip(former.names, accumulate(former.sizes, initial=0), strict=False))
    where = [origins[name] for name in layout.names]
    kept = [starts[name] + index for name, indices in where for index in indices]
    former_names = [name for name, _ in where]
    costs = renewed(old.budget.costs, analysis)
    budget = old.budget.narrowed(costs, layout, former_names)
    method = method_for(old.settings, analysis, budget, old.steps)
    method.adjustable = old.adjustable
    method.to(old.is_open.device)
    method.carry(old, torch.tensor(kept, device=old.is_open.device))
    return method


def _exchange(
    optimizer: Optimizer,
    former: Mapping[str, nn.Parameter],
    present: Mapping[str, nn.Parameter],
    slices: tuple[Slice, ...],
) -> None:
    """Put the present parameters where the former ones are in an optimizer, with their state.

    An empty one takes the place of a removed one, so that the groups keep their order.
    """
    by_name = by_parameter(slices)
    heirs: dict[int, nn.Parameter] = {}
    for name, old in former.items():
        new = heirs[id(old)] = present.get(name, nn.Parameter(old.new_empty(0)))
        items, state = by_name.get(name, []), optimizer.state.pop(old, {})
        if name not in present or name.startswith(f"{PREFIX}."):
            continue
        new.grad = None if old.grad is None else sliced(old.grad, items)
        if state:
            optimizer.state[new] = folded_state(state, old, items)
    for group in optimizer.param_groups:
        group["params"] = [heirs.get(id(p), p) for p in group["params"]]


# On its own -----------------------------------------------------------------------------------


def shrink_on_steps(gated: nn.Module, every: int) -> None:
    """Shrink a gated module after every so many steps of its optimizer, and when it is done."""
    gates = gates_of(gated)
    gates.shrink_every, gates.followers = every, (shrink_if_due,)


def shrink_if_due(gates: Gates, optimizer: Optimizer) -> None:
    """What `shrink_every` does after a step of the optimizer."""
    if not gates.method.done and int(gates.method.steps_done) % gates.shrink_every:
        return
    if gates.method.done:
        gates.followers = ()
    if reason := _unsafe(gates):
        _log.warning("shrink_every: the model stays as large as it is, because %s", reason)
        gates.followers = ()
        return
    assert gates.owner is not None
    try:
        shrink(gates.owner, optimizer)
    except InputError as error:
        _log.warning("shrink_every: the model stays as large as it is: %s", error)


def _unsafe(gates: Gates) -> str:
    if is_distributed():
        return "the training is distributed"
    if gates.copied:
        return "it was copied, perhaps to average its weights"
    return ""
