"""Gates put into a model whose groups are known."""

from torch import nn

from fxprune.passes.analyse import Analysis
from fxprune.passes.condition import plan_conditions
from fxprune.passes.gate import plan_gates
from fxprune.torch.backend.gate import insert_gates, mask_axes, mask_branches
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.budget.budget import Budget
from fxprune.torch.frontend.meta import device_of
from fxprune.torch.frontend.program import Program
from fxprune.torch.gates.method import Method, Settings
from fxprune.torch.gates.module import Gates


def with_gates(
    model: nn.Module, program: Program, analysis: Analysis, method: Method
) -> TracedModule:
    """Insert gates that learn by `method` into `model`, our own copy."""
    plan = plan_gates(
        program.ir, analysis.types, analysis.groups, analysis.branches, method.conditions
    )
    names = {group.space: group.name for group in analysis.free_groups}
    gates = Gates(method, mask_axes(plan), mask_branches(plan), names)
    gates.train(model.training).to(device_of(model))
    gated = insert_gates(model, program, plan, gates)
    if method.freezes_model:
        gated.freeze()
    return gated


def method_for(settings: Settings, analysis: Analysis, budget: Budget, steps: int) -> Method:
    """The method that a user asked for, with the gates of a model."""
    conditions = plan_conditions(analysis.graph, analysis.types, analysis.groups, analysis.branches)
    return settings.build(budget, steps, conditions)
