"""Modules run by ONNX Runtime, to be timed."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fxprune.clocks import Clock
from fxprune.onnx.latency import clocked, timed_run
from fxprune.timing import Run
from fxprune.torch.export import as_onnx
from fxprune.torch.frontend.trace import Arguments

__all__ = ["clocked", "exported_run"]


@contextmanager
def exported_run(
    model: nn.Module, example: Arguments, inputs: Arguments, clock: Clock
) -> Iterator[Run]:
    """A run of a module, which is of no use afterwards, as ONNX Runtime computes it.

    Args:
        model: the module; it takes no gradients from here on, and moves to the CPU.
        example: what it takes, for the exporter.
        inputs: what it is run on.
        clock: says with how many threads.
    """
    exported = as_onnx(model.cpu(), example)
    names = [str(value.name) for value in exported.graph.inputs]
    arrays = [value.numpy() for value in inputs if isinstance(value, Tensor)]
    feeds = dict(zip(names, arrays, strict=False))
    with timed_run(exported, feeds, clock.threads) as run:
        yield run
