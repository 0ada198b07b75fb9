"""Models that cannot be traced whole: `leaf` keeps a module whole, `scope` prepares one part."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent
from tests.torch.models import half, images, plain, randomise


class Backbone(nn.Module):
    """A residual network without its head."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x, scale=1.0):
        x = self.stem(x)
        return self.out(torch.relu(x + self.body(x))) * scale


class Router(nn.Module):
    """Decides on values, so it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        return self.left(x) if x.mean() > 0 else self.right(x)


class Routed(nn.Module):
    """A backbone, a router in the middle, a head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.router, self.head = Backbone(), Router(), plain_head()

    def forward(self, x):
        return self.head(self.router(self.backbone(x, scale=2.0)))


def plain_head():
    return nn.Sequential(nn.Conv2d(6, 7, 1), nn.ReLU(), nn.Conv2d(7, 3, 1))


@pytest.fixture
def model():
    with torch.no_grad():
        return randomise(Routed()).eval()


def test_model_is_refused_with_both_ways_out(model):
    with pytest.raises(fxprune.TraceError, match=r"leaf=.*scope="):
        fxprune.prepare(model, images(2))


@pytest.mark.parametrize("leaf", [["router"], "router", "the module itself"])
def test_leaf_is_kept_whole(model, leaf):
    leaf = [model.router] if leaf == "the module itself" else leaf
    gated = fxprune.prepare(model, images(2), leaf=leaf)
    assert torch.equal(gated(images(3)), model(images(3)))
    free = {g.name: g.size for g in fxprune.groups(gated) if not g.pin and g.kind != "branch"}
    assert free == {"backbone.stem": 8, "head.0": 7}
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated)
    assert_rewrite_equivalent(gated, folded, inputs=[images(3)])
    assert folded.router.left.weight.shape == model.router.left.weight.shape


def test_leaf_may_decide_on_values_without_weights_of_its_own():
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x if x.sum() > 0 else x

    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), Doubled(), nn.Conv2d(4, 2, 1))
    gated = fxprune.prepare(model.eval(), images(2), leaf=["2"])
    assert [group.size for group in fxprune.groups(gated) if not group.pin] == [6]
    assert torch.equal(gated(images(3)), model(images(3)))


def test_leaf_survives_saving(model, tmp_path):
    gated = fxprune.prepare(model, images(2), leaf=["router"])
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated)
    loaded = fxprune.load(fxprune.save(folded, tmp_path), Routed().eval())
    assert torch.equal(loaded(images(2)), folded(images(2)))


def test_scope_prepares_one_part(model):
    gated = fxprune.prepare(model, images(2), scope="backbone")
    assert type(gated) is Routed
    assert torch.equal(gated(images(3)), model(images(3)))
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated)
    assert type(folded) is Routed
    assert folded.backbone.stem.out_channels == int(fxprune.keep_set(gated)["stem"].sum())
    torch.testing.assert_close(folded(images(3)), gated(images(3)))
    assert fxprune.verify(gated, folded).comparisons
    assert "stem" in str(fxprune.report(gated, latency=False))


def test_scope_trains_and_folds_with_its_optimizer(model):
    gated = fxprune.prepare(model.train(), images(2), scope="backbone", steps=3)
    optimizer = torch.optim.Adam(gated.parameters(), lr=1e-3)
    for seed in range(4):
        optimizer.zero_grad()
        gated(images(4, seed)).square().mean().backward()
        optimizer.step()
    folded, sliced = fxprune.fold(gated, optimizer=optimizer)
    assert not all(flags.all() for flags in fxprune.keep_set(gated).values())
    for parameter in folded.backbone.parameters():
        assert sliced.state[parameter]["exp_avg"].shape == parameter.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": "nowhere"}, "scope: the model has no module 'nowhere'"),
        ({"leaf": ["nowhere"]}, "leaf: the model has no module 'nowhere'"),
        ({"leaf": [plain()]}, "leaf: this Sequential is not a part of the model"),
        ({"scope": "unused"}, "never calls"),
    ],
)
def test_wrong_parts_are_refused(model, arguments, message):
    model.unused = plain()
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.prepare(model, images(2), **arguments)


def test_part_can_be_saved_by_itself(model, tmp_path):
    folded = fxprune.fold(fxprune.prepare(model, images(2), scope="backbone"))
    with pytest.raises(fxprune.InputError, match=r"get_submodule\('backbone'\)"):
        fxprune.save(folded, tmp_path)
    part = fxprune.load(fxprune.save(folded.backbone, tmp_path), Backbone().eval())
    assert torch.equal(part(images(2), scale=2.0), folded.backbone(images(2), scale=2.0))
