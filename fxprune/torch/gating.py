"""Gates put into a model whose groups are known, taken out of it, and told by a graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import fx, nn

from fxprune.passes.analyse import Analysis
from fxprune.passes.condition import plan_conditions
from fxprune.passes.gate import GatePlan, plan_gates
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.frozen import freeze, release
from fxprune.torch.backend.gate import insert_gates, mask_axes, mask_branches
from fxprune.torch.backend.gate_in_kind import gate, ungate
from fxprune.torch.backend.module import CALLS, TracedModule, become, own_state
from fxprune.torch.backend.outline import Recording
from fxprune.torch.backend.parts import Whole
from fxprune.torch.budget.budget import Budget
from fxprune.torch.frontend.meta import real_device_of
from fxprune.torch.frontend.program import Program
from fxprune.torch.gates.method import Method, Settings
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.gates.weights import norms
from fxprune.torch.record import Record, attach, gated_record, is_gated, record_of, traced_part


def with_gates(whole: Whole, method: Method, *, at_once: bool = False) -> nn.Module:
    """Insert gates that learn by `method` into the model of `whole`, which is our own copy.

    With `at_once` code that they act in becomes one graph, that of the model itself.
    """
    model, analysis = whole.model, whole.analysis
    plan = _plan(analysis, method)
    names = {group.space: group.name for group in analysis.free_groups}
    weigh = partial(norms, analysis, method.budget.layout)
    gates = Gates(method, mask_axes(plan), mask_branches(plan), names, weigh)
    gates.train(model.training).to(real_device_of(model))
    if isinstance(model, fx.GraphModule):
        model = insert_gates(model, whole.recording.to_run().program, plan, gates)
    else:
        gate(whole, plan, gates, at_once=at_once)
    if method.freezes_model:
        freeze(model)
    return model


def _plan(analysis: Analysis, method: Method) -> GatePlan:
    return plan_gates(
        analysis.graph, analysis.types, analysis.groups, analysis.branches, method.conditions
    )


def without_gates(gated: nn.Module) -> nn.Module:
    """The module tree of a gated module without the gates; tensors are shared."""
    if isinstance(gated, fx.GraphModule):
        root = nn.Module()
        root.__dict__ = own_state(gated)
        root.__dict__["_modules"] = {k: v for k, v in gated._modules.items() if k != PREFIX}
        return copy_module(root, share_tensors=True)
    model = copy_module(gated, share_tensors=True, shared=[gated.get_submodule(PREFIX)])
    del model._modules[PREFIX]
    for name in CALLS:
        model.__dict__.pop(name, None)
    release(model)
    ungate(model)
    return model


@contextmanager
def ungated_on_failure(model: nn.Module) -> Iterator[None]:
    """Take gates that a model gets in place out of it again, if what is done fails."""
    before = {path: record_of(module) for path, module in model.named_modules()}
    try:
        yield
    except BaseException:
        path, part = traced_part(model)
        if is_gated(part):
            become(part, without_gates(part))
            attach(part, before[path])
        raise


def program_to_run(model: nn.Module, record: Record) -> Program:
    """What was recorded of a model that was prepared, so that it also runs."""
    leaves = frozenset(record.leaves)
    return Recording(model, record.program, record.examples, leaves).to_run().program


def gated_graph_of(gated: nn.Module) -> TracedModule:
    """A gated module that runs the graph recorded of it; tensors and gates are shared."""
    gates, record = gated_record(gated)
    plan = _plan(record.analysis, gates.method)
    model = without_gates(gated)
    traced = insert_gates(model, program_to_run(model, record), plan, gates)
    gates.belong_to(gated)
    attach(traced, record)
    return traced


def method_for(settings: Settings, analysis: Analysis, budget: Budget, steps: int) -> Method:
    """The method that a user asked for, with the gates of a model."""
    conditions = plan_conditions(analysis.graph, analysis.types, analysis.groups, analysis.branches)
    return settings.build(budget, steps, conditions)
