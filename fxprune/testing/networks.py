"""Random networks and keep-sets for property tests, as Hypothesis strategies.

Networks are valid by construction: every step is drawn for the shape that reaches it, nothing is
filtered. They shrink towards three plain layers. Weights, biases and running statistics are
random, since a freshly initialised network hides errors (its biases are zero, its norms identity).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

import fxprune
from fxprune.testing.chains import Family, Step, chain, indented
from fxprune.testing.images import IMAGES
from fxprune.testing.sequences import SEQUENCES

_DEPTH = 2
"""How deep composite steps nest."""

_FAMILIES: Mapping[int | str, Family] = MappingProxyType({2: IMAGES, "sequence": SEQUENCES})


class Network(nn.Module):
    """A random network: `stem`, `steps` and `head` run in order. `example` is an input for it."""

    def __init__(self, stem: Step, body: list[Step], head: Step, example: Tensor) -> None:
        super().__init__()
        self.stem, self.steps, self.head = stem, nn.ModuleList(body), head
        self.example = example

    def forward(self, x: Tensor) -> Any:
        """Run every step."""
        x = self.stem(x)
        for step in self.steps:
            x = step(x)
        return self.head(x)

    def __repr__(self) -> str:
        lines = [f"network of {tuple(self.example.shape)}:"]
        return "\n  ".join([*lines, *map(indented, (self.stem, *self.steps, self.head))])


@st.composite
def networks(
    draw: DrawFn,
    kinds: Collection[str] | None = None,
    *,
    dims: Literal[2, "sequence"] = 2,
    max_steps: int = 5,
) -> Network:
    """Random networks with random weights, in evaluation mode and float64.

    Image networks are made of plain, grouped, depthwise, transposed and shared convolutions,
    normalisations, residual blocks, concatenations, shuffles and gates. Sequence networks embed
    tokens or features and are made of attention in its many spellings (also of nn and of torch's
    functions), recurrent layers, MLPs and gated units, norms before and after, einsums, mixing
    of tokens, and writes through slices. All start with two plain layers, so that something can
    always be pruned.

    Args:
        kinds: the names in `KINDS` (for sequences in `SEQUENCE_KINDS`) of the steps they are
            made of; all if none are given.
        dims: 2 for networks on images (batch, channels, height, width), `"sequence"` for networks
            on tokens (batch, length) or features (batch, length, channels).
        max_steps: how many steps follow one another, nested ones not counted.
    """
    family = _FAMILIES[dims]
    stem, example = family.stem(draw)
    chosen = tuple(family.kinds[name] for name in (family.kinds if kinds is None else kinds))
    place = replace(stem.after, kinds=chosen, depth=_DEPTH)
    body = chain(draw, place, max_steps)
    head = family.head(draw, stem, body[-1].after if body else place)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16 - 1)))
    network = Network(stem, body, head, example(generator)).double().eval()
    randomise(network, generator)
    return network


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights, biases and running statistics anew, of a size that keeps signals near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.mul_(parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.mul_(0.3).add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)


@st.composite
def keep_sets(draw: DrawFn, gated: nn.Module) -> dict[str, list[bool]]:
    """Random keep-sets for a gated module: no group is empty, everything may be open.

    They shrink towards everything open.
    """
    keep: dict[str, list[bool]] = {}
    for group in fxprune.groups(gated):
        if group.pin:
            continue
        closable = 2 if group.kind == "branch" else 2**group.size - 1
        closed = draw(st.integers(0, closable - 1))
        keep[group.name] = [not closed >> position & 1 for position in range(group.size)]
    return keep
