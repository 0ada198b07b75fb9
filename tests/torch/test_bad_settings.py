"""Targets and settings out of range are refused in one clear error."""

import math

import pytest
from torch import nn

import fxprune
from tests.torch.models import images, plain
from tests.torch.refusing import refuses


@pytest.mark.parametrize("target", [0, -0.5, math.nan, math.inf, True, "half", None, [0.5]])
def test_target_that_is_no_share_is_refused(target):
    refuses(
        plain(), fxprune.TargetError, r"target of macs is .*in \(0, 1\]", images(1), target=target
    )


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({}, r"^target is empty: give a share of the MACs such as 0\.5"),
        ({"energy": 0.5}, r"'energy'; known costs are macs, params, bytes, memory, flops, peak"),
        ({"0": {"energy": 0.5}}, r"target of 0 names 'energy'; known costs are macs, params"),
        ({"0": 0.5, "3": 0.5}, r"names '3'; known costs .* has no module of that name"),
        ({"1": 0.5}, r"target of macs of 1: there is nothing to limit, it is 0 already"),
        ({"0": {"macs": 0.0}}, r"target of macs of 0 is 0.0: give a share in \(0, 1\]"),
        ({"latency": 2.5}, r"target of latency is 2.5: .*milliseconds are called latency_ms"),
        ({"latency_ms": -1}, r"target of latency_ms is -1: give milliseconds above 0"),
        ({"latency_ms": 10**6}, r"target of latency is 1000000, the model has \d"),
        ({"latency_ms": 1e-3, "latency": 0.5}, r"target gives latency twice"),
        ({"macs": 0.5, "params": 0}, r"target of params is 0: give a share in \(0, 1\]"),
        ({"macs": 10**9}, r"is 1000000000, the model has 12384: give a share in \(0, 1\]"),
    ],
)
@pytest.mark.usefixtures("counted_time")
def test_target_that_names_no_cost_or_a_wrong_number_is_refused(target, match):
    refuses(plain(), fxprune.TargetError, match, images(1), target=target)


# 12384 = 3 * 8 * 9 * 36 + 8 * 4 * 9 * 16 is the cost in full, an eighth of it that of one channel.
@pytest.mark.parametrize(
    ("target", "round_to", "match"),
    [
        (0.1, 1, r"is 1238\.4, but .* 1548 remain of 12384: ask for at least 0\.125"),
        (1.5, 1, r"is 1\.5, but .* 1548 remain of 12384"),
        (0.4, 4, r"is 4953\.6, but .* 6192 remain of 12384: ask for at least 0\.5, lower round_to"),
        ({"params": 10}, 1, r"target of params is 10, but .* 68 remain of 516"),
        ({"0": {"params": 27}}, 1, r"target of params of 0 is 27, but .* 28 remain of 224"),
        ({"peak": 4.0}, 1, r"target of peak is 4, but .* 228 remain of 576"),
    ],
)
def test_unreachable_target_is_refused_with_what_is_reachable(target, round_to, match):
    settings = {"target": target, "round_to": round_to}
    refuses(plain(), fxprune.TargetError, match, images(1), **settings)


def test_smallest_reachable_target_is_reached():
    gated = fxprune.prepare(plain(), images(1), target=0.125)
    fxprune.reach_target(gated)
    assert int(fxprune.keep_set(gated)["0"].sum()) == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": 0}, "steps is 0: give the number of optimizer steps"),
        ({"steps": 2.5}, r"steps is 2\.5"),
        ({"steps": 1.0}, r"steps is 1\.0: give the number of optimizer steps, at least 1, or a"),
        ({"steps": True}, "steps is True: give the number of optimizer steps"),
        ({"steps": 0.5}, r"steps is 0\.5, a fraction: give total_steps"),
        ({"steps": 20, "total_steps": 10}, "steps is 20, more than total_steps=10"),
        ({"steps": 0.5, "total_steps": 0}, "total_steps is 0: give the optimizer steps"),
        ({"least": 1.5}, r"least is 1\.5: give a share in \[0, 1\], or shares by module"),
        ({"least": {"0": -1}}, "least is -1: give a share"),
        ({"least": {"stem": 0.5}}, "least: the model has no module 'stem'"),
        ({"round_to": 0}, "round_to is 0: give a positive integer such as 8"),
        ({"round_to": "8"}, "round_to is '8'"),
        ({"method": "magic"}, "unknown method 'magic'; known methods are static, consensus"),
        ({"ignore": "stem"}, "has no module 'stem'; it has 0, 1, 2"),
        ({"ignore": [nn.Conv2d(1, 1, 1)]}, "this Conv2d is not a part of the model"),
        ({"ignore": [3]}, "this int is not a part of the model"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    refuses(plain(), fxprune.InputError, match, images(1), **settings)
