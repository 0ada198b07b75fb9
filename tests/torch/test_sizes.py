"""Gated and folded models agree at other batch and picture sizes than those of the example."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune


class Around(nn.Module):
    """Something that counts positions of eight channels `h`, between two convolutions."""

    def __init__(self, count):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.count = count

    def forward(self, x):
        h = self.first(x)
        return self.last(h + self.count(self, h))


def by_sample(numbers):
    return numbers.reshape(len(numbers), -1).sum(1).view(-1, 1, 1, 1)


COUNTS = {
    "group_norm": lambda model, h: model.norm(h),
    "group_norm_of_joined_pixels": lambda model, h: F.group_norm(h.flatten(2), 2).view_as(h),
    "mean_of_channels_and_samples": lambda model, h: h.mean((0, 1), keepdim=True),
    "mean_of_all": lambda model, h: h.mean(),
    "variance": lambda model, h: h.var((1, 2, 3), keepdim=True),
    "mean_of_joined_axes": lambda model, h: by_sample(h.reshape(len(h), 2, -1).mean(-1)),
    "largest_of_joined_axes": lambda model, h: by_sample(h.reshape(len(h), 2, -1).amax(-1)),
    "variance_of_joined_axes": lambda model, h: by_sample(h.flatten(1).var(1)),
    "sum_of_joined_axes": lambda model, h: by_sample(h.flatten(1).sum(1)),
    "pixels_first": lambda model, h: by_sample(h.flatten(2).mT.flatten(1).mean(1)),
    "product_of_joined_axes": lambda model, h: by_sample(
        h.flatten(1)[:, None] @ h.flatten(1)[:, :, None]
    ),
}


@pytest.mark.parametrize("count", COUNTS)
def test_positions_are_counted_in_the_array_itself(count):
    torch.manual_seed(0)
    model = Around(COUNTS[count]).double()
    gated = fxprune.prepare(model, torch.randn(2, 3, 6, 6, dtype=torch.double)).eval()
    keep = fxprune.keep_set(gated)
    assert any(len(flags) > 1 for flags in keep.values())
    chosen = {name: [i % 2 == 0 for i in range(len(flags))] for name, flags in keep.items()}
    fxprune.set_keep_set(gated, chosen)
    folded = fxprune.fold(gated)
    for shape in ((2, 3, 6, 6), (3, 3, 9, 7), (1, 3, 4, 5)):
        x = torch.randn(shape, dtype=torch.double)
        torch.testing.assert_close(gated(x), folded(x), rtol=1e-10, atol=1e-12)
