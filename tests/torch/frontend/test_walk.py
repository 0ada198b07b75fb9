"""Our walk through a tree of modules gives what torch's own does, in its order."""

import pytest
from torch import nn

from fxprune.torch.frontend import walk
from tests.vision import torchvision


class Shared(nn.Module):
    """Modules and tensors that go by several names, and places with nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3)])
        self.again = self.layers[0]
        self.inner = nn.Sequential(nn.Sequential(self.layers, nn.Linear(3, 3, bias=False)))
        self.inner[0][1].weight = self.again.weight
        self.missing = None
        self.register_module("nothing", None)
        self.register_buffer("seen", self.layers[1].running_mean)
        self.itself = [self]


@pytest.mark.parametrize("make", [Shared, torchvision.models.resnet18, nn.Identity])
def test_all_is_found_in_the_order_of_torch(make):
    model = make()
    assert walk.named_modules(model) == list(model.named_modules())
    again = list(model.named_modules(remove_duplicate=False))
    assert walk.named_modules(model, again=True) == again
    assert walk.modules_in(model) == list(model.modules())
    for ours, theirs in (
        (walk.named_parameters(model), model.named_parameters()),
        (walk.named_buffers(model), model.named_buffers()),
        (walk.named_tensors(model), (*model.named_parameters(), *model.named_buffers())),
    ):
        assert [(n, id(x)) for n, x in ours] == [(n, id(x)) for n, x in theirs]


def test_a_tree_that_holds_itself_ends():
    model = nn.Module()
    model.itself = model
    assert walk.named_modules(model) == [("", model)]
