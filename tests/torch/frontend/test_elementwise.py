"""Which of torch's functions are element-wise? Experiments say so, and the table knows them all.

A function is element-wise if it returns an array of the shape of its operands, if moving positions
moves its result alike, and if what one position holds changes the result nowhere else.
"""

import itertools
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.torch.frontend.spellings import NAMES, bare_name_of

SHAPE = (2, 3, 5)
OTHER = """
    module_load set share_memory resize_as requires_grad to_dense dequantize sym_sum
    slice_copy slice_inverse slice_scatter squeeze_copy
    isin binomial hinge_embedding_loss margin_ranking_loss kl_div binary_cross_entropy_with_logits
"""
"""They pass these experiments, and are something else: writes, views, random, sums of losses."""

FOLLOWED = ("elementwise", "identity", "add", "reshape", "expand", "reduce", "broadcast_all")
"""Operators that keep all axes where they get operands of one shape."""


def operands(kind: str, count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        values = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
        yield {"float": values * 0.8 + 0.1, "int": (values * 4 + 1).long(), "bool": values > 0.5}[
            kind
        ]


def result_of(function, arrays, numbers):
    """What a function returns as an array that can be compared, or None.

    Raises:
        TypeError: it does not take such arguments, whatever the arrays hold.
    """
    try:
        torch.default_generator.manual_seed(0)
        result = function(*(array.clone() for array in arrays), *numbers)
    except TypeError:
        raise
    except Exception:
        return None
    if not isinstance(result, Tensor) or result.shape != SHAPE or result.is_quantized:
        return None
    if result.layout is not torch.strided or result.is_meta:
        return None
    return result.to(torch.complex128).nan_to_num()


def passes_experiments(function, kind, count, numbers):
    arrays = list(operands(kind, count))
    expected = result_of(function, arrays, numbers)
    again = result_of(function, arrays, numbers)
    if expected is None or again is None or not torch.equal(expected, again):
        return False
    for dim in range(len(SHAPE)):
        for move in (lambda x, dim=dim: x.flip(dim), lambda x, dim=dim: x.roll(1, dim)):
            moved = result_of(function, map(move, arrays), numbers)
            if moved is None or not torch.allclose(moved, move(expected)):
                return False
    for place in ((0, 0, 0), (1, 2, 4)):
        changed = [array.clone() for array in arrays]
        for array in changed:
            array[place] = {"float": 0.95, "int": 7, "bool": not array[place]}[kind]
        elsewhere = torch.ones(SHAPE, dtype=torch.bool)
        elsewhere[place] = False
        found = result_of(function, changed, numbers)
        if found is None or not torch.equal(found[elsewhere], expected[elsewhere]):
            return False
    return True


KINDS = ("float", "int", "bool")
TRIALS = [
    *itertools.product((1,), ((), (0.3,), (0.2, 0.7), (2,))),
    *itertools.product((2,), ((), (0.3,))),
    (3, ()),
]
"""How many arrays, and the numbers that follow them."""


def is_elementwise(function):
    for count, numbers in TRIALS:
        try:
            if any(passes_experiments(function, kind, count, numbers) for kind in KINDS):
                return True
        except TypeError:
            continue  # arrays of other kinds are no better
    return False


def overridable():
    """Every function and method of torch that a tracer sees, by bare name."""
    for functions in torch.overrides.get_overridable_functions().values():
        for function in functions:
            name = getattr(function, "__name__", "")
            if name and not name.startswith("__"):
                in_place = name.endswith("_") and hasattr(Tensor, name.rstrip("_"))
                if not in_place:  # its twin is tried
                    yield bare_name_of(function).rstrip("_"), function


def test_table_knows_every_elementwise_function_of_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unknown = {
            name
            for name, function in overridable()
            if (name not in NAMES or NAMES[name].op not in FOLLOWED)
            and f"{name}_" not in NAMES
            and name not in OTHER.split()
            and is_elementwise(function)
        }
    assert unknown == set()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.log10, True),
        (torch.hypot, True),
        (torch.where, True),
        (lambda x: x.softmax(1), False),
        (lambda x: x.cumsum(2), False),
        (lambda x: x - x.mean(), False),
        (lambda x: x.flip(0), False),
        (F.dropout, False),
    ],
)
def test_experiments_tell_elementwise_functions_from_others(function, expected):
    assert is_elementwise(function) is expected
