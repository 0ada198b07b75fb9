"""How large is every axis in a run with one sample?

Costs per sample are those of such a run: what has the batch axis counts once for each sample, and
what has none (parts of weights, masks, positions) counts whole. So they are the same whatever
batch the example has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fxprune.ir import Graph
from fxprune.passes.axes import Space, Sum, spaces
from fxprune.passes.facts import Types


@dataclass(frozen=True, slots=True)
class OneSample:
    """The sizes that spaces of samples have with one sample.

    Where the model cuts its batch, as films into pictures, `sizes` is empty and what the whole
    batch costs is divided by its number of samples, `divisor`.
    """

    sizes: Mapping[Space, int]
    divisor: int = 1


def one_sample(graph: Graph, types: Types) -> OneSample:
    """What a run with one sample changes.

    Samples lie along the first axis of inputs. An operator without a rule hides that axis; what it
    computes has samples along its first axis if that is new and a multiple of the batch, be it the
    first factor of several that the axis turns out to be.
    """
    batch = graph.batch
    first = [types.axes[value.name][0] for value in graph.inputs if value.shape]
    leading = [axis for axis in first if isinstance(axis, Space)]
    if batch == 1 or len(leading) < len(first):
        return OneSample({}, batch)
    found = dict.fromkeys(leading, 1)
    computed = {value.name for value in graph.inputs}
    seen = {space for name in computed for axis in types.axes[name] for space in spaces(axis)}
    for node in graph.nodes:
        depends = any(value is not None and value.name in computed for value in node.inputs)
        for value in node.outputs if depends else ():
            computed.add(value.name)
            own = [space for axis in types.axes[value.name] for space in spaces(axis)]
            leads = own and not isinstance(types.axes[value.name][0], Sum)
            new = leads and own[0] not in seen
            multiple = new and own[0] in types.pins and own[0].size % batch == 0
            if multiple and found.keys().isdisjoint(own):
                found[own[0]] = own[0].size // batch
            seen.update(own)
    return OneSample(found)
