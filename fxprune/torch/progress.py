"""How far is a gated model on its way to the target? In one line, and in shares for a tracker."""

from torch import nn

from fxprune.passes.cost import COSTS
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import gated_record, traced_part


def progress(gated: nn.Module) -> str:
    """One line to print while a gated model trains: the step, what it costs now, and the target.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> gated = fxprune.prepare(model, torch.randn(1, 3, 8, 8), target=0.5, steps=200)
    >>> fxprune.progress(gated)
    'step 0 of 200: 100.0% of macs (target 50.0%)'

    Steps are those of the schedule: a step that teaches the gates nothing does not count, and after
    the last one the target is reached. Costs are those of the keep-set at this moment, as
    evaluation has it, and shares of those that the model had when it was prepared.

    Args:
        gated: what `prepare` returned, or what is around it.

    Raises:
        InputError: it is no gated model.
    """
    gates, _ = gated_record(gated)
    budget, schedule = gates.method.budget, gates.method.progress()
    full = budget.relative(0.0)
    costs = ", ".join(
        f"{cost / full[name]:.1%} of {name} (target {budget.limit[name] / full[name]:.1%})"
        for name, cost in gates.reached().items()
    )
    return f"step {schedule['done']:,} of {schedule['all']:,}: {costs}"


def shares(model: nn.Module) -> dict[str, float]:
    """The share of every exact cost that is kept at present."""
    _, record = gated_record(model)
    before, after = record.analysis.costs, costs_of(traced_part(model)[1])
    full = before.at(before.full)
    return {name: after[name] / max(full[name], 1) for name in COSTS}
