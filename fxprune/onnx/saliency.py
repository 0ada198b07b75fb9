"""How much the outputs of an ONNX model depend on each position, found by running it.

ONNX Runtime takes no gradients, so the gate g of a position is lowered from 1 by a step h, and the
outputs y are compared: |y(1) - y(1 - h)|^2 / h^2. For small steps that is the squared derivative of
the outputs, which needs no labels (first order in h: Molchanov et al. 2019, equation 8, with the
outputs for the loss; Theis et al. 2018). For h = 1 it is exactly what closing the position does.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import onnx_ir

from fxprune.errors import InputError
from fxprune.onnx.backend.gate import mask_program
from fxprune.onnx.frontend.data import some_samples
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds, session_of
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Space
from fxprune.passes.gate import GatePlan, plan_gates
from fxprune.ranking import Scores, change
from fxprune.stages import track

_log = logging.getLogger("fxprune")


def saliency(
    program: OnnxProgram,
    analysis: Analysis,
    data: Sequence[Feeds],
    *,
    step: float = 1.0,
    samples: int = 8,
) -> Scores:
    """For every position of free groups, and every branch, the squared change of the outputs.

    Every output counts relative to its mean square; whole numbers among them do not count. This
    takes one run per position.

    Args:
        program: the model.
        analysis: the facts about it.
        data: batches of inputs.
        step: by how much gates are lowered.
        samples: how many samples are looked at, from all over the data.

    Raises:
        InputError: no output is of floating point.
    """
    plan = plan_gates(program.ir, analysis.types, analysis.groups, analysis.branches)
    outputs = [str(v.name) for v in program.model.graph.outputs if _is_floating(v)]
    if not outputs:
        raise InputError('method="saliency" compares outputs of floating point: there are none')
    feeds = some_samples(data, program.model.graph.inputs, samples)
    sizes: dict[Space | str, int] = {group.space: group.size for group in analysis.free_groups}
    sizes.update({branch.name: 1 for branch in analysis.branches})
    found = {gate: np.zeros(size) for gate, size in sizes.items()}
    pairs = [(gate, position) for gate, size in sizes.items() for position in range(size)]
    _log.info("saliency takes %d runs of the model", (len(pairs) + len(found)) * len(feeds))
    for gate, own in groupby(track(pairs, "saliency by position"), key=itemgetter(0)):
        with _gated(program, plan, gate, sizes[gate], outputs) as run:
            before = [run(feed, np.ones(sizes[gate])) for feed in feeds]
            for _, position in own:
                gates = np.ones(sizes[gate])
                gates[position] -= step
                after = [run(feed, gates) for feed in feeds]
                changes = [change(*pair) for pair in zip(before, after, strict=True)]
                found[gate][position] = np.mean(changes) / step**2
    groups = {gate: numbers for gate, numbers in found.items() if isinstance(gate, Space)}
    return Scores(groups, {b.name: float(found[b.name][0]) for b in analysis.branches})


Gated = Callable[[Feeds, np.ndarray], list[np.ndarray]]
"""From inputs and gates to outputs."""


def _is_floating(value: onnx_ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


@contextlib.contextmanager
def _gated(
    program: OnnxProgram, plan: GatePlan, gate: Space | str, size: int, outputs: Sequence[str]
) -> Iterator[Gated]:
    """The model with gates of a space, or of a branch, that can change from run to run.

    What a mask makes of weights is an initialiser that inputs may replace.
    """

    def masked(gates: np.ndarray) -> onnx_ir.Model:
        if isinstance(gate, Space):
            return mask_program(program, plan, {gate: gates}, {})
        return mask_program(program, plan, {}, {gate: float(gates[0])})

    model = masked(np.ones(size))
    known = program.model.graph.initializers
    replaced = [
        value
        for name, value in model.graph.initializers.items()
        if name not in known and value.uses()
    ]
    for value in replaced:
        value.type = onnx_ir.TensorType(_array(value).dtype)
        value.shape = onnx_ir.Shape(_array(value).shape.numpy())
    model.graph.inputs.extend(replaced)
    names = [str(value.name) for value in replaced]
    with session_of(model, optimised=True) as session:

        def run(feeds: Feeds, gates: np.ndarray) -> list[np.ndarray]:
            now = masked(gates).graph.initializers
            more = {name: _array(now[name]).numpy() for name in names}
            return session.run({**feeds, **more}, outputs)

        yield run


def _array(initializer: onnx_ir.Value) -> onnx_ir.TensorProtocol:
    assert initializer.const_value is not None
    return initializer.const_value
