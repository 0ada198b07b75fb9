"""Is an argument what its verb takes? One check for each kind of argument, for all verbs.

A check returns the argument in plain form, or raises an InputError that names it, shows it, and
says what to give instead.
"""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from fxprune.errors import InputError

_LARGEST_SEED = 2**63 - 1

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: Any) -> str:
    """A value on one line, cut where it is long.

    >>> shown([0] * 99)
    '[0, 0, 0, 0, 0, 0, ...]'
    """
    return " ".join(_SHORT.repr(value).split())


def near(name: Any, known: Iterable[str]) -> str:
    """A hint at the name that was perhaps meant.

    >>> near("magnitud", ["group_norm", "magnitude"])
    "; did you mean 'magnitude'?"
    """
    found = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
    return f"; did you mean {found[0]!r}?" if found else ""


def refusal(name: str, value: Any, wanted: str) -> InputError:
    """The error that says what an argument is, and what to give."""
    return InputError(f"{name} is {shown(value)}: give {wanted}")


def whole(name: str, value: Any, wanted: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number within bounds.

    >>> whole("round_to", 8, "a positive integer such as 8")
    8
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        raise refusal(name, value, wanted)
    return int(value)


def number(name: str, value: Any, fits: Callable[[float], bool], wanted: str) -> float:
    """A number that fits; NaN fits nothing."""
    if not is_number(value) or value != value or not fits(value):
        raise refusal(name, value, wanted)
    plain: float = value
    return plain


def is_number(value: Any) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as one."""
    if not isinstance(value, bool):
        raise refusal(name, value, "True or False")
    return value


def text(name: str, value: Any, wanted: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise refusal(name, value, wanted)
    return value


def choice(name: str, value: Any, known: Sequence[str], among: str = "known are") -> str:
    """One of the known names."""
    if not isinstance(value, str) or value not in known:
        raise InputError(
            f"unknown {name} {shown(value)}; {among} {', '.join(known)}{near(value, known)}"
        )
    return value


def seed(value: Any) -> int:
    """What every random generator takes."""
    wanted = "a whole number from 0 on, below 2**63"
    return whole("seed", value, wanted, least=0, most=_LARGEST_SEED)


def names(name: str, value: Any, wanted: str, kind: type = str) -> tuple[Any, ...]:
    """Several names, or things of another kind; a single name may stand without a list."""
    items = (value,) if isinstance(value, str) else listed(name, value, wanted)
    if not all(isinstance(item, kind) and (not isinstance(item, str) or item) for item in items):
        raise refusal(name, value, wanted)
    return items


def sizes(name: str, value: Any, *, least: int = 1) -> tuple[int, ...]:
    """Several whole numbers."""
    wanted = f"whole numbers from {least} on, such as (1, 2)"
    items = listed(name, value, wanted)
    for item in items:
        if not isinstance(item, Integral) or isinstance(item, bool) or item < least:
            raise refusal(name, value, wanted)
    return tuple(map(int, items))


def shapes(value: Any) -> dict[str, tuple[int, ...]] | None:
    """Shapes by the name of the input."""
    if value is None:
        return None
    wanted = 'shapes by the name of the input, such as {"x": (1, 3, 224, 224)}'
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise refusal("shapes", value, wanted)
    return {name: sizes(f"shapes[{name!r}]", shape) for name, shape in value.items()}


def batches(name: str, value: Any) -> Iterable[Any]:
    """Something that gives batches; one batch alone is none."""
    if isinstance(value, Mapping) or hasattr(value, "shape"):
        raise InputError(f"{name} is one batch: pass a list of batches")
    if isinstance(value, str | bytes):
        raise refusal(name, value, "batches: a list of them, or a loader")
    try:
        iter(value)
    except TypeError as error:
        raise refusal(name, value, "batches: a list of them, or a loader") from error
    found: Iterable[Any] = value
    return found


def listed(name: str, value: Any, wanted: str) -> tuple[Any, ...]:
    """Several things of any kind; neither text nor a mapping is a list."""
    if isinstance(value, str | bytes | bytearray | Mapping):
        raise refusal(name, value, wanted)
    try:
        return tuple(value)
    except TypeError as error:
        raise refusal(name, value, wanted) from error
