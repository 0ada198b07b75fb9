"""What every computing operator does to axes: one line each, in the notation of einops.

    lower-case names   axes; the same name is the same axis
    (a b)              a row-major product of axes
    *x                 any number of axes; pinned where only one side of the arrow has them
    b!                 pinned: the operator mixes or tells apart its positions; so is each of *x!
    [c]                normalised over: the output depends on the set of positions of c
    operand?           an optional operand

A name that is missing on the right is contracted. Names and products on parameters say what is
sliced. `macs` lists the axes whose sizes multiply to the multiply-accumulates of the operator,
`linear` the operands that the output is linear in when they are scaled together (weight and bias).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fxprune.arguments import text as check_text
from fxprune.errors import InputError


@dataclass(frozen=True, slots=True)
class Term:
    """One axis of a pattern: a product of names, or a run of axes (`star`)."""

    names: tuple[str, ...]
    star: bool = False

    def __str__(self) -> str:
        if self.star:
            return "*" + self.names[0]
        return self.names[0] if len(self.names) == 1 else f"({' '.join(self.names)})"


@dataclass(frozen=True, slots=True)
class Operand:
    """The axes of one array of a pattern."""

    terms: tuple[Term, ...]
    optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the operand, in order."""
        return tuple(name for term in self.terms for name in term.names)


@dataclass(frozen=True, slots=True)
class Operator:
    """A parsed line of the table."""

    name: str
    text: str
    operands: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    normalised: frozenset[str]
    pinned: frozenset[str]
    macs: tuple[str, ...]
    linear: tuple[int, ...] = ()

    @property
    def factor(self) -> int | None:
        """The operand that scales the result, of an operator that multiplies nothing else."""
        return self.linear[0] if self.linear and not self.macs else None

    @property
    def contracted(self) -> tuple[str, ...]:
        """Names that operands have and outputs lack, runs of axes aside."""
        kept = {name for output in self.outputs for name in output.names}
        terms = (term for operand in self.operands for term in operand.terms if not term.star)
        return tuple(dict.fromkeys(n for term in terms for n in term.names if n not in kept))


_TOKEN = re.compile(r"\*?[a-z]\w*!?|[()\[\]]|\S")


def parse(name: str, text: str, macs: str = "", linear: str = "") -> Operator:
    """Parse one line of the table.

    >>> linear = parse("linear", "*n i, o i, o? -> *n o", macs="n i o")
    >>> linear.contracted
    ('i',)

    Raises:
        InputError: the line is not in the notation of this module.
    """
    if text.count("->") != 1:
        raise InputError(f"operator {name}: expected one '->' in {text!r}")
    left, right = text.split("->")
    normalised: set[str] = set()
    pinned: set[str] = set()
    operands = tuple(_parse_operand(name, part, normalised, pinned) for part in left.split(","))
    outputs = tuple(_parse_operand(name, part, normalised, pinned) for part in right.split(","))
    known = {axis for operand in (*operands, *outputs) for axis in operand.names}
    if unknown := [axis for axis in macs.split() if axis not in known]:
        raise InputError(f"operator {name}: macs names {unknown}, which {text!r} does not have")
    return Operator(
        name,
        text,
        operands,
        outputs,
        frozenset(normalised),
        frozenset(pinned),
        tuple(macs.split()),
        tuple(map(int, linear.split())),
    )


def _parse_operand(name: str, text: str, normalised: set[str], pinned: set[str]) -> Operand:
    text = text.strip()
    optional = text.endswith("?")
    terms: list[Term] = []
    product: list[str] | None = None
    bracket = False
    for token in _TOKEN.findall(text.removesuffix("?")):
        if token == "(" and product is None:
            product = []
        elif token == ")" and product:
            terms.append(Term(tuple(product)))
            product = None
        elif token in "[]" and bracket == (token == "]"):
            bracket = not bracket
        elif re.fullmatch(r"\*[a-z]\w*!?", token) and product is None:
            name_of_run = token[1:].removesuffix("!")
            pinned.update({name_of_run} if token.endswith("!") else ())
            terms.append(Term((name_of_run,), star=True))
        elif re.fullmatch(r"[a-z]\w*!?", token):
            if token.endswith("!"):
                pinned.add(token := token.removesuffix("!"))
            if product is None:
                terms.append(Term((token,)))
            else:
                product.append(token)
        else:
            raise InputError(f"operator {name}: unexpected {token!r} in {text!r}")
        if bracket and token != "[":
            normalised.add(token.removeprefix("*"))
    if product is not None or bracket:
        raise InputError(f"operator {name}: unclosed parenthesis or bracket in {text!r}")
    return Operand(tuple(terms), optional)


_TABLE: tuple[tuple[str, str, str, str], ...] = (
    # name, pattern, macs, linear
    ("conv", "b (g i) *x, (g o) i *k, (g o)? -> b (g o) *y", "b g i o k y", "1 2"),
    ("conv_add", "b (g i) *x, (g o) i *k, (g o)?, b (g o) *y!? -> b (g o) *y", "b g i o k y", ""),
    ("conv_transpose", "b (g i) *x, (g i) o *k, (g o)? -> b (g o) *y", "b g i o k x", "1 2"),
    ("linear", "*n i, o i, o? -> *n o", "n i o", "1 2"),
    ("addmm", "o, n i, i o -> n o", "n i o", "0 2"),
    ("bilinear", "*n i, *n j, o i j, o? -> *n o", "n i j o", "2 3"),
    ("embedding", "*n, *v c -> *n c", "", ""),
    ("batch_norm", "b! c *x, c?, c?, c?, c? -> b c *y", "", "3 4"),
    ("standardise", "b! c [*x], c?, c?, c?, c? -> b c *x", "", "3 4"),
    ("instance_norm", "b c *x, c?, c?, c?, c? -> b c *y", "", "3 4"),
    ("instance_standardise", "b c [*x], c?, c? -> b c *x", "", "1 2"),
    ("layer_norm", "*n [*c], *c?, *c? -> *n *c", "", "1 2"),
    ("rms_norm", "*n [*c], *c? -> *n *c", "", "1"),
    ("add_layer_norm", "*n [c], *n c, c, c?, c? -> *n c, *n c", "", ""),
    ("add_rms_norm", "*n [c], *n c, c, c? -> *n c, *n c", "", ""),
    ("group_norm", "b (g [c]) *x, (g c)?, (g c)? -> b (g c) *y", "", "1 2"),
    ("channelwise", "b c *x -> b c *y", "", ""),
    ("average_pool", "b c *x -> b c *y", "", ""),
    ("adaptive_average_pool", "b c *x -> b c *y", "", ""),
    ("unfold", "b c *x -> b (c k) *y", "", ""),
    ("fold", "b (c k) *x -> b c *y", "", ""),
    ("grid_sample", "b c *x, b *y e! -> b c *y", "", ""),
    ("channel_shuffle", "b (g c) *x -> b (c g) *x", "", ""),
    ("pixel_shuffle", "b (c r s) h w -> b c (h r) (w s)", "", ""),
    ("pixel_unshuffle", "b c (h r) (w s) -> b (c r s) h w", "", ""),
    ("depth_to_space", "b (r s c) h w -> b c (h r) (w s)", "", ""),
    ("space_to_depth", "b c (h r) (w s) -> b (r s c) h w", "", ""),
)

_operators: dict[str, Operator] = {
    name: parse(name, text, macs=macs, linear=linear) for name, text, macs, linear in _TABLE
}
OPERATORS: Mapping[str, Operator] = MappingProxyType(_operators)
"""The operator table, by name. `register_operator` adds to it."""


def register_operator(name: str, pattern: str, macs: str = "") -> None:
    """Teach fxprune a new operator, for every front end at once.

    In the torch front end, `name` is what the model calls: the qualified name of a module class
    or of a function (`"my_lib.my_op"`). Array operands are the arguments of a function in order,
    or the input of a module followed by its own parameters in order.

    Args:
        name: the operator's name; it must be new.
        pattern: its line, for example `"b (g c) *x, (g c) -> b (g c) *x"`.
        macs: the axes whose sizes multiply to its multiply-accumulates, for example `"b g c x"`.

    Raises:
        InputError: the name is taken or the pattern is malformed.
    """
    for argument, value in (("name", name), ("pattern", pattern), ("macs", macs)):
        check_text(argument, value, "text, such as register_operator('my_lib.my_op', 'b c -> b c')")
    if not name:
        raise InputError("name is empty: give what the model calls, such as 'my_lib.my_op'")
    if name in _operators:
        raise InputError(f"operator {name} is already registered as {_operators[name].text!r}")
    _operators[name] = parse(name, pattern, macs=macs)


def factor_of(name: str) -> int | None:
    """Which operand of a normalisation is its factor; None for any other operator."""
    operator = OPERATORS.get(name)
    return operator.factor if operator else None


def names_of(operands: Iterable[Operand]) -> set[str]:
    """Every axis name that some operand has."""
    return {name for operand in operands for name in operand.names}
