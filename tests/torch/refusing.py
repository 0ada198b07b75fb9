"""What `prepare` refuses: two convolutions to build it from, and how it is asked."""

from typing import Any

import pytest
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import plain


class Convs(nn.Module):
    """Two convolutions; subclasses write their own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)


class TakesFlag(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = plain()

    def forward(self, x, double=False):
        return self.body(x) * 2 if double else self.body(x)


class TwoInputs(Convs):
    def forward(self, x, y):
        return self.second(self.first(x) + self.first(y))


def refuses(model: nn.Module, error: type[Exception], match: str, *args: Any, **kwargs: Any) -> str:
    """Calls prepare; the model must come out of it untouched. Returns the message."""
    with assert_unchanged(model), pytest.raises(error, match=match) as caught:
        fxprune.prepare(model, *args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)
