"""Operators that overwrite their operand: followed where the graph can say so, else refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent
from tests.torch.frontend.bodies import model_of
from tests.torch.test_samples import some_keep_sets


def _relu_of_sum(m, x):
    y = m.mid(x)
    y += x
    y.relu_()
    return m.last(y + x)


def _view_of_sum(m, x):
    y = (x + m.mid(x)).flatten(2)
    y.mul_(2.0)
    return m.last(y.view(x.shape) + x)


def _by_name(m, x):
    y = m.mid(x)
    F.relu(input=y, inplace=True)
    return m.last(y)


def _chained(m, x):
    y = m.mid(x)
    y.relu_().add_(1.0)
    y.mul_(0.5)
    return m.last(y)


def _part(m, x):
    y = x[:, :3]
    y.relu_()
    return m.last(x + m.mid(x))


def _skip_sees_it(m, x):
    return m.last(x + m.mid(x.relu_()))


FOLLOWED = {
    "a closed branch leaves a sum that is overwritten": (_relu_of_sum, "first:8 add_+:1 add+:1"),
    "a view of such a sum is overwritten": (_view_of_sum, "first:8 add+:1 add_1+:1"),
    "an operand given by name": (_by_name, "first:8 mid:8"),
    "several in a row": (_chained, "first:8 mid:8"),
    "the array behind a slice": (_part, "first[0:3]:3 first[3:8]:5 add+:1"),
    "the skip sees what the branch did": (_skip_sees_it, "first:8 add+:1"),
}


@pytest.mark.parametrize(("body", "expected"), FOLLOWED.values(), ids=FOLLOWED)
def test_followed(body, expected):
    model, x = model_of(body, mid=lambda: nn.Conv2d(8, 8, 1))
    gated = fxprune.prepare(model, x, target=1.0)
    groups = [f"{group.name}:{group.size}" for group in fxprune.groups(gated) if not group.pin]
    assert " ".join(groups) == expected
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        with torch.no_grad():
            assert_rewrite_equivalent(gated, fxprune.fold(gated), inputs=[x])


def _view(m, x):
    y = x.view(x.size(0), 8, -1)
    y.mul_(2)
    return m.last(x)


def _same(m, x):
    y = x.contiguous()
    y.relu_()
    return m.last(x)


def _earlier_view(m, x):
    y = x.flatten(2)
    x.relu_()
    return m.last(y.view(-1, 8, 8, 8))


def _out(m, x):
    y = torch.zeros_like(x)
    z = y.flatten(2)
    torch.mul(x, 2, out=y)
    return m.last(z.view(-1, 8, 8, 8))


REFUSED = {
    "the array behind a view": (_view, "overwrites view in mul_, and first, which shares"),
    "what may be the same array": (_same, "overwrites contiguous in relu_, and first, which"),
    "a view from before": (_earlier_view, "overwrites first in relu_, and flatten, which shares"),
    "a view of out=": (_out, "overwrites zeros_like in mul, and flatten, which shares"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_read_later_under_another_name_is_refused(body, message):
    model, x = model_of(body)
    with pytest.raises(fxprune.TraceError, match=message):
        fxprune.prepare(model, x)


def test_input_of_the_network_is_not_overwritten_when_a_branch_is_gone():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.last = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.last(F.relu_(x + self.conv(x)))

    x = torch.randn(2, 3, 4, 4)
    gated = fxprune.prepare(Network().eval(), x, target=1.0)
    fxprune.set_keep_set(gated, {"add+": [False]})
    before = x.clone()
    fxprune.fold(gated)(x)
    assert torch.equal(x, before)
