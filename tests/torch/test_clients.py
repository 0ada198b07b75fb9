"""A folded model serves whatever the original served: exporters, scripts, wrappers, extractors."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import fxprune
from fxprune.torch.backend.generated import generated_code
from tests.torch.models import half, images, randomise


class Block(nn.Module):
    """A residual branch of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 12, 3, padding=1), nn.Conv2d(12, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.b(torch.relu(self.a(x))))


class Net(nn.Module):
    """A small residual network that can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=[2, 3]))


class Checkpointed(Net):
    """Recomputes its blocks in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x.mean(dim=[2, 3]))


def pair(model: nn.Module) -> tuple[Any, Any]:
    """Gated at half of every group, and folded."""
    gated = fxprune.prepare(randomise(model).eval(), images(2), target=1.0)
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated).eval()
    assert generated_code(gated) == generated_code(folded) == {}
    assert folded.stem.out_channels < 8
    return gated.eval(), folded


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_it_can_be_scripted():
    _, folded = pair(Net())
    scripted = torch.jit.script(folded)
    for size in (8, 11):
        x = torch.randn(3, 3, size, size)
        torch.testing.assert_close(scripted(x), folded(x))


def test_it_can_be_exported_and_compiled():
    gated, folded = pair(Net())
    x = images(3)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(folded, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(images(5)), folded(images(5)))
    for model in (gated, folded):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


def test_features_can_be_extracted_by_name():
    _, folded = pair(Net())
    names = [str(node.target) for node in symbolic_trace(folded).graph.nodes]
    assert "blocks.0.norm" in names
    found = []
    folded.blocks[1].register_forward_hook(lambda module, inputs, output: found.append(output))
    folded(images(2))
    assert found[0].shape[1] == folded.stem.out_channels


class Adapted(nn.Module):
    """A linear layer with a low-rank addition (Hu et al. 2021), as adapters replace layers."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


def test_adapters_fit_before_and_after():
    _, folded = pair(Net())
    folded.head = Adapted(folded.head)
    assert folded(images(2)).shape == (2, 5)
    before = Net()
    before.head = Adapted(before.head)
    gated, folded = pair(before)
    assert folded.head.down.in_features == folded.head.layer.in_features < 8
    fxprune.verify(gated, folded)


def test_checkpointed_blocks_learn_the_same_gradients():
    plain, saving = (randomise(kind()) for kind in (Net, Checkpointed))
    gradients = []
    for model in (plain, saving):
        gated = fxprune.prepare(model, images(2), target=0.5).train()
        gated(images(4)).square().sum().backward()
        gradients.append({name: p.grad for name, p in gated.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected)


def test_averages_of_weights_are_of_the_class_too():
    gated = fxprune.prepare(randomise(Net()), images(2), target=0.5, steps=4)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        gated(images(8)).square().mean().backward()
        optimizer.step()
        average.update_parameters(gated)
    folded = fxprune.fold(average)
    assert type(folded) is Net
    torch.testing.assert_close(folded.eval()(images(2)), average.eval()(images(2)))


@pytest.mark.parametrize("change", ["another head", "a frozen stem"])
def test_it_can_be_changed_and_prepared_again(change):
    _, folded = pair(Net())
    if change == "another head":
        folded.head = nn.Linear(folded.head.in_features, 2)
    else:
        folded.stem.requires_grad_(False)
    again = fxprune.prepare(copy.deepcopy(folded), images(2))
    fxprune.reach_target(again, fxprune.importance(again))
    smaller = fxprune.fold(again)
    assert type(smaller) is Net
    assert sum(p.numel() for p in smaller.parameters()) < sum(
        p.numel() for p in folded.parameters()
    )
    fxprune.verify(again, smaller)


def test_state_is_saved_and_loaded_by_torch_alone(tmp_path):
    _, folded = pair(Net())
    torch.save(folded.state_dict(), tmp_path / "weights.pt")
    other = copy.deepcopy(folded)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert list(folded.state_dict()) == list(Net().state_dict())
    assert torch.equal(other(images(2)), folded(images(2)))
