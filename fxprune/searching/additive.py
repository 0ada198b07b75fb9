"""Scores that add up over positions, and their best keep-set under a limit, by linear programming.

    loss    what closes loses: every position its own effect, a closed branch the effect of its own
            gate, whatever is inside of it

Costs are products of widths, so they are made linear exactly: a width is one of its values, chosen
by binary variables y_k, and a product of it with x is the sum of k * p_k, where p_k is x where y_k
is 1 and else 0 (Glover 1975).
"""

from collections.abc import Mapping

import numpy as np

from fxprune.layout import Layout


def loss_of(
    layout: Layout,
    effects: Mapping[str, np.ndarray],
    keep_set: Mapping[str, tuple[bool, ...]],
) -> float:
    """What the closed positions of a keep-set lose together."""
    gone = {
        place
        for branch in range(layout.groups, len(layout.names))
        if not keep_set[layout.names[branch]][0]
        for place in layout.inside[branch]
    }
    total = 0.0
    for place, name in enumerate(layout.names):
        if place not in gone:
            total += float(effects[name][~np.array(keep_set[name])].sum())
    return total
