"""einops layers and functions are reshapes and permutations of the graph."""

import einops
import torch
from einops.layers.torch import Rearrange, Reduce
from torch import nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent
from tests.torch.models import half, images, randomise


class Mixer(nn.Module):
    """Patches to tokens and back, a channel shuffle, a mean over the image."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.tokens, self.mix = Rearrange("b c h w -> b (h w) c"), nn.Linear(8, 12)
        self.image = Rearrange("b (h w) c -> b c h w", h=4)
        self.head, self.mean = nn.Conv2d(12, 5, 1), Reduce("b c h w -> b c", "mean")

    def forward(self, x):
        x = self.image(self.mix(self.tokens(self.patches(x))))
        return self.mean(self.head(einops.rearrange(x, "b (g c) h w -> b (c g) h w", g=3)))


def test_einops_is_traced_through():
    with torch.no_grad():
        model = randomise(Mixer()).double().eval()
    x = images(2, size=(3, 8, 8)).double()
    gated = fxprune.prepare(model, x, target=1.0)
    pins = {group.name: group.pin for group in fxprune.groups(gated)}
    assert "computes its size" in pins["mix/0"]  # the code says g=3
    gated = fxprune.prepare(model, x, target=1.0, in_kind=False)
    assert torch.equal(gated(x), model(x))
    free = {group.name: group.size for group in fxprune.groups(gated) if not group.pin}
    assert free == {"patches": 8, "mix/0": 3, "mix/1": 4}
    fxprune.set_keep_set(gated, half(gated))
    assert_rewrite_equivalent(
        gated, fxprune.fold(gated), inputs=[images(3, size=(3, 8, 8)).double()]
    )
