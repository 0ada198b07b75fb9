"""Arithmetic of sizes with numbers, plain or a module's own, is computed anew at other sizes."""

import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.torch.fold import fold_as
from fxprune.torch.frontend.numbers import _BINARY
from fxprune.torch.frontend.origins import Attribute, OwnFloat, OwnInt, Quotient, own_int
from fxprune.torch.precision import relative_error

OPERATORS = {
    **_BINARY,
    "divmod, quotient": lambda left, right: divmod(left, right)[0],
    "divmod, rest": lambda left, right: divmod(left, right)[1],
}
AT, OTHERS = 7, (5, 6, 9, 12)


class Counting(nn.Module):
    """Computes with a size and a number how far it reads, and how often it repeats."""

    def __init__(self, name: str, number_first: bool, own: bool) -> None:
        super().__init__()
        self.function, self.number_first, self.own = OPERATORS[name], number_first, own
        self.number = 43 if number_first else 2
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def count(self, size: int) -> int:
        """One of five numbers."""
        number = self.number if self.own else 43 if self.number_first else 2
        operands = (number, size) if self.number_first else (size, number)
        return math.floor(self.function(*operands)) % 5

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        count = self.count(x.shape[1])
        return self.last(torch.cat([x[:, :count], x[:, :1].expand(-1, count + 1, -1)], 1))


@pytest.mark.parametrize("own", [False, True], ids=["plain", "own"])
@pytest.mark.parametrize("number_first", [False, True], ids=["size first", "number first"])
@pytest.mark.parametrize("name", OPERATORS)
def test_results_follow_the_size_that_code_is_called_with(name, number_first, own):
    model = Counting(name, number_first, own).eval()
    assert {model.count(size) for size in OTHERS} != {model.count(AT)}
    gated = fxprune.prepare(model, torch.randn(2, AT, 8), target=1.0)
    whole = fold_as(gated, None)
    fxprune.set_keep_set(gated, {"first": [True, False] * 8})
    folded, graph = fxprune.fold(gated), fold_as(gated, None)
    assert folded.first.out_features == 8
    for size in (AT, *OTHERS):
        x = torch.randn(3, size, 8)
        assert relative_error(model(x), whole(x)) < 1e-5
        for small in (folded, graph):
            assert relative_error(gated.eval()(x), small(x)) < 1e-5


class Comparing(nn.Module):
    """Does something else for so many samples and fewer."""

    def __init__(self, number_first: bool, own: bool) -> None:
        super().__init__()
        self.number_first, self.own, self.number = number_first, own, 2
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        few, samples = self.number if self.own else 2, x.shape[0]
        if few >= samples if self.number_first else samples <= few:
            x = x * 2
        return self.last(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("own", [False, True], ids=["plain", "own"])
@pytest.mark.parametrize("number_first", [False, True], ids=["size first", "number first"])
def test_comparisons_with_the_number_of_samples_are_noticed(number_first, own):
    model = Comparing(number_first, own).eval()
    with pytest.raises(fxprune.TraceError, match="depends on the size of the batch"):
        fxprune.prepare(model, torch.randn(2, 8))


class Deciding(nn.Module):
    """Decides by what may depend on the number of samples, and counts how often it runs."""

    def __init__(self, decide) -> None:
        super().__init__()
        self.first, self.last, self.decide, self.runs = (
            nn.Linear(8, 16),
            nn.Linear(16, 3),
            decide,
            [],
        )

    def forward(self, x: Tensor) -> Tensor:
        RUNS.append(1)
        x = self.first(x)
        return self.last(x * 2 if self.decide(x) else x)


RUNS: list[int] = []


def places(x: Tensor) -> Tensor:
    """Numbers of columns, for every sample."""
    return torch.arange(x.shape[1])[None].expand(x.shape[0], -1)


DECISIONS = {
    "by other sizes": (lambda x: x.shape[1] > 4 and int(x.shape[1]) == 16, False),
    "by whether there are samples": (lambda x: x.shape[0] > 0, False),
    "by whether there is one": (lambda x: x.shape[0] != 1, False),
    "by equal numbers of samples": (lambda x: x.shape[0] == (x + 1).shape[0], False),
    "by values alike for all": (lambda x: bool((places(x)[:, -1] == 15).all()), False),
    "by how many samples": (lambda x: x.shape[0] > 3, True),
    "by how many numbers": (lambda x: places(x).numel() > 64, True),
    "by values that count samples": (lambda x: bool(places(x).sum() > 500), True),
}


@pytest.mark.parametrize(("decide", "depends"), DECISIONS.values(), ids=DECISIONS)
def test_decisions_are_tried_for_other_numbers_of_samples_without_running_again(decide, depends):
    RUNS.clear()
    if depends:
        with pytest.raises(fxprune.TraceError, match="depends on the size of the batch"):
            fxprune.prepare(Deciding(decide), torch.randn(2, 8))
    else:
        fxprune.prepare(Deciding(decide), torch.randn(2, 8))
        assert len(RUNS) == 1


# Numbers that remember an attribute -------------------------------------------------------------

ATTRIBUTE = Attribute("layer", ("heads",))
OWN = {name: function for name, function in OPERATORS.items() if ", " not in name}
OWN["divmod"] = divmod
PLAIN = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-5, 5))


def remembered(number: int | float) -> int | float:
    if isinstance(number, bool):
        return number  # flags are no sizes
    if isinstance(number, int):
        return own_int(number, ATTRIBUTE)
    own = OwnFloat(number)
    own.origin = Quotient((ATTRIBUTE,))
    return own


def outcome(function, *operands):
    """The type that Python counts a result as, and what it looks like; an error by its name."""
    try:
        result = function(*operands)
    except (ArithmeticError, TypeError, ValueError) as error:
        return type(error), ""
    kind = {OwnInt: int, OwnFloat: float}.get(type(result), type(result))
    return kind, repr(result)


@pytest.mark.parametrize("name", OWN)
@given(left=PLAIN, right=PLAIN)
def test_arithmetic_that_is_remembered_has_the_values_of_any_other(name, left, right):
    function = OWN[name]
    plain = outcome(function, left, right)
    assert outcome(function, remembered(left), right) == plain
    assert outcome(function, left, remembered(right)) == plain
    assert outcome(function, remembered(left), remembered(right)) == plain


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@given(left=PLAIN, right=PLAIN)
def test_comparisons_of_what_is_remembered_are_those_of_any_other(name, left, right):
    compare = getattr(operator, name)
    plain = compare(left, right)
    assert compare(remembered(left), right) is plain
    assert compare(left, remembered(right)) is plain
    assert compare(remembered(left), remembered(right)) is plain


def test_what_is_remembered_is_the_same_key():
    assert {7: "seven"}[remembered(7)] == "seven"
