"""Random networks are valid from the start, cover what they claim, print and shrink."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.testing import KINDS, SEQUENCE_KINDS, keep_sets, networks
from fxprune.testing.checkers import run

FAMILIES = {2: KINDS, "sequence": SEQUENCE_KINDS}
EITHER = st.sampled_from(list(FAMILIES)).flatmap(lambda dims: networks(dims=dims))
SEARCH = settings(max_examples=50, derandomize=True, database=None)


def smallest(strategy, condition):
    return find(strategy, condition, settings=SEARCH)


def test_smallest_network_is_plain():
    assert repr(smallest(networks(), lambda network: True)).splitlines() == [
        "network of (2, 3, 6, 6):",
        "  x = conv3(relu(conv3(x)))  # 3 -> 4 -> 4",
        "  return conv1(x)",
    ]


def test_smallest_sequence_network_is_plain():
    assert repr(smallest(networks(dims="sequence"), lambda network: True)).splitlines() == [
        "network of (2, 4, 3):",
        "  x = linear(relu(linear(x)))  # 3 -> 4 -> 4",
        "  return linear(x)",
    ]


def test_smallest_network_on_tokens_embeds_them():
    network = smallest(
        networks(dims="sequence"), lambda network: not network.example.is_floating_point()
    )
    assert repr(network).splitlines() == [
        "network of (2, 4):",
        "  x = embedding(x) + position  # 7 -> 4",
        "  x = x + linear(gelu(linear(x)))  # by 4",
        "  return linear(x)",
    ]


@pytest.mark.parametrize(
    ("dims", "kind"),
    [
        (2, "residual"),
        (2, "concatenation"),
        (2, "channel_shuffle"),
        ("sequence", "residual"),
        ("sequence", "attention"),
        ("sequence", "recurrent"),
        ("sequence", "slice_write"),
    ],
)
def test_network_shrinks_to_one_step_of_a_kind(dims, kind):
    network = smallest(networks((kind,), dims=dims), lambda network: len(network.steps) > 0)
    assert len(network.steps) == 1
    assert all(line.strip() for line in repr(network).splitlines())


def test_nested_steps_are_printed_inside():
    def nested(network):
        return any("inner" in repr(step) and len(step.inner) > 1 for step in network.steps)

    network = smallest(networks(("residual", "conv"), max_steps=1), nested)
    assert repr(network).splitlines()[2:] == [
        "  x = x + inner(x)  # inner:",
        "    x = conv1(x)  # 4 -> 4",
        "    x = conv1(x)  # 4 -> 4",
        "  return conv1(x)",
    ]


def test_nested_steps_of_a_sequence_are_printed_inside():
    def nested(network):
        return any("inner" in repr(step) and len(step.inner) > 1 for step in network.steps)

    kinds = ("residual", "attention")
    network = smallest(networks(kinds, dims="sequence", max_steps=1), nested)
    assert repr(network).splitlines()[2:] == [
        "  x = x + inner(x)  # inner:",
        "    x = norm(x)",
        "    x = attention(x)  # 4 -> 4, 2 heads of 2, no bias",
        "  return linear(x)",
    ]


@settings(max_examples=100)
@given(EITHER)
def test_network_runs_without_being_filtered(network):
    (output,) = run(network, [network.example])
    assert output.isfinite().all()
    assert output.dtype is torch.float64
    assert not network.training


@settings(max_examples=60)
@given(EITHER)
def test_weights_and_statistics_hide_nothing(network):
    for name, parameter in network.named_parameters():
        assert parameter.abs().min() > 0, name
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            assert buffer.abs().min() > 0, name


def test_nested_steps_are_of_the_kinds_asked_for_too():
    @settings(max_examples=50)
    @given(networks(("residual", "activation")))
    def nothing_else(network):
        assert "BatchNorm" not in repr(network)
        assert "cat(" not in repr(network)

    nothing_else()


def gated():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1))
    return fxprune.prepare(model, torch.randn(1, 3, 4, 4), target=1.0)


def test_smallest_keep_set_is_open():
    assert smallest(keep_sets(gated()), lambda keep: True) == {"0": [True] * 4, "2": [True] * 6}


def test_smallest_keep_set_that_closes_anything_closes_one_position():
    keep = smallest(keep_sets(gated()), lambda keep: not all(map(all, keep.values())))
    assert sum(flags.count(False) for flags in keep.values()) == 1


def test_keep_sets_are_never_empty():
    module = gated()

    @given(keep_sets(module))
    def every_group_keeps_something(keep):
        assert all(map(any, keep.values()))
        fxprune.set_keep_set(module, keep)

    every_group_keeps_something()
