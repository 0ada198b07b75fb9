"""Which layers are exactly two layers with an axis between them, how wide is it, and does it pay?

A layer of weights w[o, i, *k] is a matrix, or one for each input channel, and a matrix is a product
(Eckart & Young 1936). `r` is the new axis: it is a space like any other, so gates, costs and
folding know it. Of the axes of the kernel the first layer has some (`a`), the second the others.

    form        columns   rows     first layer             second layer        r up to
    low_rank    (i *k)    (o)      r i *k                  o r                 min(i k, o)
    separable   (*k)      (o)      (i r) 1 *k, i groups    o (i r)             min(k, o)
    spatial     (i a)     (o *b)   r i a *1                o r 1 *b            min(i a, o b)

    low_rank    w[o, (i k)] = sum over r of second[o, r] first[r, (i k)]
    separable   w[o, i, k] = sum over r of second[o, (i r)] first[(i r), k], for every i
    spatial     w[o, i, a, b] = sum over r of second[o, r, b] first[r, i, a]

Low rank is Jaderberg et al. 2014 (scheme 1) and Zhang et al. 2015; separable are depthwise layers
with a multiplier and pointwise ones (Guo et al. 2018); spatial is Jaderberg et al. 2014 (scheme 2).
Strides, padding and dilation go with the axes of the kernel. A linear layer has no kernel, and an
embedding of v vectors is the linear layer of v inputs that are one-hot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fxprune.arguments import choice


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that might be two: channels out and in, and axes of the kernel with their strides."""

    outputs: int
    inputs: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    groups: int = 1

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.outputs * self.inputs // self.groups * math.prod(self.kernel)


@dataclass(frozen=True, slots=True)
class Factorised:
    """A layer by name: its form and rank if it is two, else why it is whole."""

    name: str
    form: str = ""
    rank: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """A row of the table: where the inputs and the axes of the kernel go.

    `by_input` says that every input channel has a matrix of its own, `in_first` how many axes of
    the kernel the first layer has; None is all of them.
    """

    name: str
    by_input: bool = False
    in_first: int | None = None

    def matrices(self, layer: Layer) -> int:
        """How many matrices there are."""
        return layer.inputs if self.by_input else 1

    def first_kernel(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The kernel of the first layer: 1 along the axes that the second one has."""
        return self.shared_out(kernel, 1)[0]

    def second_kernel(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The kernel of the second layer."""
        return self.shared_out(kernel, 1)[1]

    def shared_out(
        self, setting: Sequence[Any], nothing: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """A setting along every axis of the kernel for each layer, `nothing` along the other's."""
        own = len(setting[: self.in_first])
        others = len(setting) - own
        return (*setting[:own], *[nothing] * others), (*[nothing] * own, *setting[own:])

    def joined(self, first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
        """The setting of the one layer, from those of the two."""
        own = len(first[: self.in_first])
        return (*first[:own], *second[own:])

    def columns(self, layer: Layer) -> int:
        """What a row of the first layer's weights multiplies."""
        return layer.inputs // self.matrices(layer) * math.prod(self.first_kernel(layer.kernel))

    def rows(self, layer: Layer) -> int:
        """What a column of the second layer's weights makes."""
        return layer.outputs * math.prod(self.second_kernel(layer.kernel))

    def full_rank(self, layer: Layer) -> int:
        """The size of the new axis with which the two layers are exactly the one."""
        return min(self.columns(layer), self.rows(layer))

    def work(self, layer: Layer, rank: int) -> int:
        """Multiply-accumulates of both layers per position of the output, borders aside.

        The first layer runs at the positions that the strides of the second one skip, too.
        """
        skipped: int = math.prod(self.shared_out(layer.strides, 1)[1])
        return self.matrices(layer) * rank * (self.columns(layer) * skipped + self.rows(layer))

    def pays(self, layer: Layer, rank: int) -> bool:
        """Whether two layers do less than the one; of an embedding, whether they are smaller."""
        return self.work(layer, rank) < layer.weights

    def refusal(self, layer: Layer) -> str:
        """Why a layer has no such form, "" where it has."""
        if layer.groups > 1:
            return f"it has {layer.groups} groups, each of which is a layer of its own"
        if self.by_input and math.prod(layer.kernel) == 1:
            return "its kernel has one element: there is nothing to separate from the channels"
        if self.in_first is not None and sum(size > 1 for size in layer.kernel) < 2:
            return "its kernel has fewer than two axes that could be separated"
        if self.in_first is not None and math.prod(layer.kernel[: self.in_first]) == 1:
            return "its kernel has one element along the axis that would be separated"
        if self.full_rank(layer) == 1:
            return "its rank is one already"
        return ""


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        form.name: form
        for form in (
            Form("low_rank"),
            Form("separable", by_input=True),
            Form("spatial", in_first=1),
        )
    }
)
"""The forms by name."""


def form_of(name: str) -> Form:
    """The form of a name.

    >>> form_of("spatial").full_rank(Layer(64, 16, (3, 3)))
    48

    Raises:
        InputError: there is none.
    """
    return FORMS[choice("form", name, tuple(FORMS))]
