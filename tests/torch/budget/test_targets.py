"""Targets are met to within one position, and no group is ever empty."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.torch.gated import costs, gate, loss_of, train
from tests.torch.models import Residual, images


def closed_units(gated: nn.Module, round_to: int = 1) -> list[dict[str, Tensor]]:
    """Every keep-set that has one more unit open than the present one."""
    keep = fxprune.keep_set(gated)
    sizes = {group.name: group.kind for group in fxprune.groups(gated)}
    larger = []
    for name, flags in keep.items():
        closed = (~flags).nonzero().flatten()
        width = round_to if sizes[name] != "branch" else 1
        if len(closed):
            more = flags.clone()
            more[closed[:width]] = True
            larger.append({**keep, name: more})
    return larger


@pytest.mark.parametrize(
    ("target", "limits"),
    [
        (0.5, {"macs": 0.5}),
        (0.21, {"macs": 0.21}),
        ({"params": 0.6}, {"params": 0.6}),
        ({"macs": 0.7, "params": 0.4}, {"macs": 0.7, "params": 0.4}),
        ({"macs": 60_000}, {"macs": 60_000}),
        (1, {"macs": 1.0}),
    ],
)
def test_target_is_met_to_within_one_position(target, limits):
    gated = gate(target=target)
    full = costs(gated)
    limit = {name: v * full[name] if v <= 1 else v for name, v in limits.items()}
    loss_of(gated).backward()
    torch.optim.SGD(gated.parameters(), lr=0.0).step()
    fxprune.reach_target(gated)
    reached = costs(gated)
    assert all(reached[name] <= limit[name] for name in limit), (reached, limit)
    for keep in closed_units(gated):
        more = costs(gated, keep)
        assert any(more[name] > limit[name] for name in limit), (reached, more, limit)


@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_groups_keep_multiples(round_to):
    gated = gate(Residual(width=28).double(), target=0.45, round_to=round_to)
    loss_of(gated).backward()
    torch.optim.SGD(gated.parameters(), lr=0.0).step()
    fxprune.reach_target(gated)
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    full = {"stem.0": 28, "body.0": 32}
    for name, size in full.items():
        assert sizes[name] == size or sizes[name] % round_to == 0, sizes
    assert sizes["stem.0"] < 28 or sizes["body.0"] < 32
    limit = 0.45 * costs(gate(Residual(width=28).double()))["macs"]
    assert costs(gated)["macs"] <= limit
    for keep in closed_units(gated, round_to):
        assert costs(gated, keep)["macs"] > limit


@pytest.mark.parametrize("target", [0.05, 0.3])
def test_no_group_is_ever_empty(target):
    gated = gate(target=target, steps=6)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05)
    for step in range(8):
        train(gated, optimizer, 1, first=step)
        keep = fxprune.keep_set(gated)
        assert keep["stem.0"].any()
        assert keep["body.0"].any()
    assert fxprune.fold(gated)(images(2).double()).shape == (2, 5)
