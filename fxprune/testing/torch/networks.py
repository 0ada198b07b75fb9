"""Random networks and their inputs for property tests, as Hypothesis strategies.

Networks are valid by construction: every step is drawn for the shape that reaches it, nothing is
filtered. They shrink towards three plain layers. Weights, biases and running statistics are
random, since a freshly initialised network hides errors (its biases are zero, its norms identity).
"""

import linecache
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from fxprune.testing.torch.images import images
from fxprune.testing.torch.programs import Block, Family, Program, chain
from fxprune.testing.torch.sequences import SEQUENCES

_DEPTH = 2
"""How deep composite steps nest."""

Dims = Literal[1, 2, 3, "sequence"]

_FAMILIES: Mapping[Dims, Family] = MappingProxyType(
    {1: images(1), 2: images(2), 3: images(3), "sequence": SEQUENCES}
)

OPS: Mapping[Dims, tuple[str, ...]] = MappingProxyType(
    {dims: tuple(family.kinds) for dims, family in _FAMILIES.items()}
)
"""The names that `networks(ops=...)` knows, by `dims`."""


class Network(nn.Module):
    """A random network: the module that its source defines, with the `inputs` drawn for it."""

    inputs: tuple[Tensor, ...]
    _source: str
    _listing: str

    @classmethod
    def of(cls, program: Program) -> "Network":
        """Run the source of a program."""
        text = program.source()
        namespace: dict[str, Any] = {"__name__": "network"}
        name = f"<network {id(namespace):x}>"  # no other has it while this one lives
        exec(compile(text, name, "exec"), namespace)
        network = namespace["network"]
        network.__class__ = type("Network", (namespace["Network"], cls), {})
        network.inputs, network._source = namespace["inputs"], text
        network._listing = f"# seed {program.seed}; source() is the whole file\n{program}"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)  # for tracebacks
        weakref.finalize(network, linecache.cache.pop, name, None)
        return network  # type: ignore[no-any-return]

    def source(self) -> str:
        """Python that defines the same `network` and `inputs`, bit for bit, with torch alone."""
        return self._source

    def __repr__(self) -> str:
        return self._listing


@st.composite
def networks(
    draw: DrawFn,
    ops: Collection[str] | None = None,
    *,
    max_nodes: int = 5,
    inputs: int = 1,
    dims: Dims = 2,
) -> Network:
    """Random networks with random weights, in evaluation mode and float64.

    Image networks are made of plain, grouped, depthwise, transposed and shared convolutions,
    normalisations, residual blocks, concatenations, shuffles and gates. Sequence networks embed
    tokens or features and are made of attention in its many spellings (also of nn and of torch's
    functions), recurrent layers, MLPs and gated units, norms before and after, einsums, mixing
    of tokens, and writes through slices. All start with two plain layers, so that something can
    always be pruned.

    Args:
        ops: what they are made of, names of `OPS[dims]`; all if none are given.
        max_nodes: how many steps follow one another, nested ones not counted.
        inputs: how many arrays they are given.
        dims: 1 to 3 for networks on `(batch, channels, *size)` with as many axes of size,
            `"sequence"` for networks on tokens (batch, length) or features (batch, length,
            channels).
    """
    family = _FAMILIES[dims]
    arguments = ("x", "y", *(f"y{number}" for number in range(2, inputs)))[:inputs]
    stem, expressions = family.stem(draw, arguments)
    chosen = tuple(family.kinds[name] for name in (OPS[dims] if ops is None else ops))
    place = replace(stem.after, kinds=chosen, depth=_DEPTH)
    body = chain(draw, place, max_nodes)
    head = family.head(draw, stem, body[-1].after if body else place)
    seed = draw(st.integers(0, 2**16 - 1))
    return Network.of(Program(Block((stem, *body, head), arguments), expressions, seed))


@st.composite
def inputs(
    draw: DrawFn, model: nn.Module, examples: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Random inputs for a model: of one to five samples, normal, large, small or all alike.

    They shrink towards two samples of normal values. Integers stay below those of the example.

    Args:
        model: what they are for.
        examples: arrays that the model takes; a `Network` has its own.
    """
    batch = draw(st.sampled_from((2, 1, 3, 5)))
    scale = draw(st.sampled_from((1.0, 100.0, 1e-3, 0.0)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16 - 1)))
    drawn: list[Tensor] = []
    for example in model.inputs if examples is None else examples:  # type: ignore[union-attr]
        shape = (batch, *example.shape[1:])
        if example.is_floating_point():
            normal = torch.randn(shape, dtype=example.dtype, generator=generator)
            drawn.append(normal * scale if scale else torch.full_like(normal, 0.5))
        else:
            largest = int(example.max())
            drawn.append(torch.randint(largest + 1, shape, generator=generator).to(example.dtype))
    return tuple(drawn)
