"""What must stay, so that code which is handed a cache stays itself?

A module that computes with a cache, as attention does, cannot be recorded alone. If gates or
removed branches acted in its code, all around it would have to be one graph, without a cache. And
the first of the modules that a cache numbers stays where the others cannot be numbered anew.
"""

from collections.abc import Iterable

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import spaces
from fxprune.passes.cost import lies_in
from fxprune.passes.gate import plan_gates
from fxprune.torch.backend.outline import Alone, Recording, alone
from fxprune.torch.backend.places import first_ones, places
from fxprune.torch.frontend.module_calls import hands_more
from fxprune.torch.frontend.owners import OWNER


def with_caches_kept(whole: Recording, analysis: Analysis) -> Analysis:
    """An analysis with everything pinned that a model could not lose and keep its cache."""
    owners = {node.name: str(node.meta[OWNER]) for node in whole.program.graph.nodes}
    calls = whole.program.calls.items()
    handed_more = {path for path, each in calls if any(map(hands_more, each))}
    if not handed_more:
        return analysis
    layers = {node.name for node in whole.program.graph.nodes if node.op == "call_module"}
    plan = plan_gates(analysis.graph, analysis.types, analysis.groups, analysis.branches)
    masks = [mask for mask in plan.masks if mask.node not in layers]
    ends = [node for branch in analysis.branches for node, _ in branch.places]
    acted_in = {owners[node] for node in (*(mask.node for mask in masks), *ends)}
    recorded: Alone = {}
    whole_ones = {
        path
        for alike in places(whole.module, sorted(acted_in & handed_more)).values()
        if alone(whole, alike[0], (), recorded) is None
        for path in alike
    }
    reason = "gates would act in code that is handed a cache; in_kind=False frees it"
    reasons = {
        space: reason
        for mask in masks
        if owners[mask.node] in whole_ones
        for space in spaces(mask.axis)
    }
    first = first_ones(whole.module)

    def may_go(nodes: Iterable[str]) -> bool:
        return not any(lies_in(owners.get(node, ""), path) for node in nodes for path in first)

    kept = [
        branch.name
        for branch in analysis.branches
        if may_go(branch.nodes) and not any(owners[node] in whole_ones for node, _ in branch.places)
    ]
    names = [*(group.name for group in analysis.groups), *kept]
    return analysis.pinning(reasons).only(names, "")
