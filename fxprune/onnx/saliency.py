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
from fxprune.progress import track

_log = logging.getLogger("fxprune")


def saliency(
    program: OnnxProgram,
    analysis: Analysis,
    data: Sequence[Feeds],
    *,
    step: float = 1.0,
    samples: int = 8,
) -> dict[Space, np.ndarray]:
    """For every position of free groups the squared change of the outputs.

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
    plan = plan_gates(program.ir, analysis.types, analysis.groups, ())
    outputs = [str(v.name) for v in program.model.graph.outputs if _is_floating(v)]
    if not outputs:
        raise InputError('method="saliency" compares outputs of floating point: there are none')
    feeds = some_samples(data, program.model.graph.inputs, samples)
    found = {group.space: np.zeros(group.size) for group in analysis.free_groups}
    pairs = [(space, position) for space in found for position in range(space.size)]
    _log.info("saliency takes %d runs of the model", (len(pairs) + len(found)) * len(feeds))
    for space, own in groupby(track(pairs, "saliency by position"), key=itemgetter(0)):
        with _gated(program, plan, space, outputs) as run:
            before = [run(feed, np.ones(space.size)) for feed in feeds]
            for _, position in own:
                gates = np.ones(space.size)
                gates[position] -= step
                after = [run(feed, gates) for feed in feeds]
                changes = [_change(*pair) for pair in zip(before, after, strict=True)]
                found[space][position] = np.mean(changes) / step**2
    return found


Gated = Callable[[Feeds, np.ndarray], list[np.ndarray]]
"""From inputs and gates to outputs."""


def _is_floating(value: onnx_ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


@contextlib.contextmanager
def _gated(
    program: OnnxProgram, plan: GatePlan, space: Space, outputs: Sequence[str]
) -> Iterator[Gated]:
    """The model with gates that can change from run to run.

    What a mask makes of weights is an initialiser that inputs may replace.
    """
    model = mask_program(program, plan, {space: np.ones(space.size)}, {})
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
            masked = mask_program(program, plan, {space: gates}, {}).graph.initializers
            more = {name: _array(masked[name]).numpy() for name in names}
            return session.run({**feeds, **more}, outputs)

        yield run


def _array(initializer: onnx_ir.Value) -> onnx_ir.TensorProtocol:
    assert initializer.const_value is not None
    return initializer.const_value


def _change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The mean square difference of outputs, relative to their mean squares."""
    total = 0.0
    for old, new in zip(before, after, strict=True):
        if old.shape == new.shape:  # else the data decides on it
            seen = np.isfinite(old) & np.isfinite(new)
            known = old[seen].astype(float)
            square = max(float(np.square(known).sum()), 1e-300)
            total += float(np.square(new[seen] - known).sum()) / square
    return total
