"""Models of more than a thousand layers: no pass nests as deep as the model is."""

import pytest

from fxprune.passes.analyse import analyse
from fxprune.passes.fold import plan_fold
from tests.passes.written import graph_of

LAYERS = 1_100

START = "h0[2, 4] = linear(x[2, 3], first.weight[4, 3])"
END = f"y[2, 3] = linear(h{LAYERS}, last.weight[3, 4])"

STEPS = {
    "layers": "h{next}[2, 4] = linear(h{now}, a{now}.weight[4, 4])",
    "terms": "r{now}[2, 4] = elementwise(h0)\nh{next}[2, 4] = add(h{now}, r{now})",
    "blocks": "r{now}[2, 4] = linear(h{now}, a{now}.weight[4, 4])\n"
    "h{next}[2, 4] = add(h{now}, r{now})",
    "turned": "u{now}[2, 2], v{now}[2, 2] = split(h{now}) {{'dim': 1}}\n"
    "h{next}[2, 4] = cat(v{now}, u{now}) {{'dim': 1}}",
}


@pytest.mark.parametrize("step", STEPS)
def test_passes_do_not_nest_as_deep_as_the_model(step):
    steps = (STEPS[step].format(now=now, next=now + 1) for now in range(LAYERS))
    graph = graph_of("\n".join((START, *steps, END)))
    analysis = analyse(graph)
    groups = analysis.free_groups
    assert groups
    keep = {group.name: [True, *[False] * (group.size - 1)] for group in groups}
    plan = plan_fold(graph, analysis.types, analysis.groups, analysis.branches, keep)
    assert len(plan.slices) >= 2
