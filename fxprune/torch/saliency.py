"""How much the outputs of a gated model change when a position closes, found by running it.

As on ONNX files, this takes one run per position on some samples, and needs neither labels nor
gradients: for what has many positions, "taylor" is the cheap first order of it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.agreement import leaves
from fxprune.errors import InputError
from fxprune.passes.axes import Space
from fxprune.ranking import Scores, change
from fxprune.stages import track
from fxprune.torch.batches import arguments_of, running_on
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.gates.module import Gates
from fxprune.torch.precision import arrays_of
from fxprune.torch.record import gated_record, inputs_taken

_log = logging.getLogger("fxprune")
Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def saliency(gated: nn.Module, data: Iterable[Any], *, samples: int = 8) -> Scores:
    """For every position of free groups, and every branch, the squared change of the outputs.

    Every output counts relative to its mean square; whole numbers among them do not count.

    Args:
        gated: what `prepare` returned.
        data: batches, as for `refit`.
        samples: about how many samples are looked at, from all over the data.

    Raises:
        InputError: no output is of floating point, or there is no data.
    """
    gates, record = gated_record(gated)
    calls = _some([arguments_of(batch, inputs_taken(gated)) for batch in data], samples)
    everything = torch.ones_like(gates.method.is_open)
    found = np.zeros(gates.layout.total)
    _log.info("saliency takes %d runs of the model", (len(found) + 1) * len(calls))
    with in_evaluation(gated), torch.no_grad(), running_on("data"):
        before = [_outputs(gated, gates, call, everything) for call in calls]
        if not any(before):
            raise InputError('method="saliency" compares outputs of floating point: there are none')
        for position in track(range(len(found)), "saliency by position"):
            closed = everything.clone()
            closed[position] = 0
            after = [_outputs(gated, gates, call, closed) for call in calls]
            found[position] = np.mean([change(*pair) for pair in zip(before, after, strict=True)])
    parts = np.split(found, np.cumsum(gates.layout.sizes)[:-1])
    spaces: list[Space] = [group.space for group in record.analysis.free_groups]
    names = gates.layout.names[len(spaces) :]
    depth = {name: float(part[0]) for name, part in zip(names, parts[len(spaces) :], strict=True)}
    return Scores(dict(zip(spaces, parts, strict=False)), depth)


def _outputs(gated: nn.Module, gates: Gates, call: Call, values: Tensor) -> list[np.ndarray]:
    """What a model returns of floating point with gates of some values."""
    with gates.showing(values):
        returned = arrays_of(gated(*call[0], **call[1]))
    arrays = [leaf for _, leaf in leaves(returned) if isinstance(leaf, np.ndarray)]
    return [array for array in arrays if array.dtype.kind == "f"]


def _some(calls: Sequence[Call], samples: int) -> list[Call]:
    """About as many samples as wanted, from all over the data."""
    if not calls:
        raise InputError('method="saliency" got no batch: the data is empty (or used up)')
    number = min(len(calls), samples)
    picked = [calls[i * len(calls) // number] for i in range(number)]
    return [_begin(call, -(-samples // number)) for call in picked]


def _begin(call: Call, samples: int) -> Call:
    """The first samples of a batch: of all arrays that are as long as the first."""
    given = [*call[0], *call[1].values()]
    lengths = [len(value) for value in given if isinstance(value, Tensor) and value.dim()]

    def cut(value: Any) -> Any:
        whole = isinstance(value, Tensor) and value.dim() and len(value) == lengths[0]
        return value[:samples] if whole else value

    return tuple(map(cut, call[0])), {name: cut(value) for name, value in call[1].items()}
