"""Blocks of published networks, by category of the CNN survey, and small whole systems, pruned.

The categories are those of Khan et al., "A survey of the recent architectures of deep convolutional
neural networks" (2020). Every table says which groups are free and which channels are not, so that
nothing is pinned in silence.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent, assert_same_state
from tests.benchmarks.exactness import assert_of_order_one, params
from tests.torch import blocks
from tests.torch.blocks import Classifier
from tests.torch.models import assert_equal, half, images, randomise


def pictures() -> tuple[Tensor, ...]:
    return (images(3),)


def clips() -> tuple[Tensor, ...]:
    return (images(3, size=(4, 3, 6, 6)),)


def integers(*highs: int, shape: tuple[int, ...] = (3,)) -> tuple[Tensor, ...]:
    return tuple(torch.randint(high, shape) for high in highs)


@dataclass(frozen=True, slots=True)
class Case:
    """A model, its free groups and branches, and what is pinned beside images and predictions."""

    make: Callable[[], nn.Module]
    free: str
    pinned: str = ""
    inputs: Callable[[], tuple[Tensor, ...]] = pictures


CATEGORIES: Mapping[str, Mapping[str, Case]] = MappingProxyType(
    {
        "spatial exploitation": {
            "VGG": Case(
                lambda: Classifier(blocks.VGG()),
                "stem.0:8 block.0:10 block.2:12 block.6:8",
            ),
            "AlexNet": Case(
                lambda: Classifier(blocks.AlexNet()),
                "stem.0:8 block.second/1:4",
                pinned="block.first/0:2 block.first/1:6",  # neighbours normalise each other
            ),
            "Inception": Case(
                lambda: Classifier(blocks.Inception(), 18),
                "stem.0:8 block.one.0:4 block.three.0.0:3 block.three.1.0:6 "
                "block.five.0.0:2 block.five.1.0:5 block.pool.1.0:3",
            ),
            "Inception-v3": Case(
                lambda: Classifier(blocks.Factorised()),
                "stem.0:8 block.row:6 block.column:10 block.wide:4 block.high:4",
            ),
        },
        "depth": {
            "ResNet": Case(
                lambda: Classifier(blocks.Residual(), 12),
                "stem.0:8 block.conv1:6 block.conv2:5 block.conv3:12 block+:1",
            ),
            "ResNet for CIFAR-10": Case(
                lambda: Classifier(blocks.ShortcutA(), 12),
                "stem.0:8 block.conv1:6 block.conv2[0:2]:2 block.conv2[10:12]:2 block+:1",
            ),
            "highway": Case(lambda: Classifier(blocks.Highway()), "stem.0:8 block+:1"),
            "Inception-ResNet": Case(
                lambda: Classifier(blocks.InceptionResidual()),
                "stem.0:8 block.one.0:4 block.three.0.0:3 block.three.1.0:5 block+:1",
            ),
        },
        "multi-path": {
            "DenseNet": Case(
                lambda: Classifier(blocks.Dense()),
                "stem.0:8 block.layers.0.2:4 block.layers.1.2:4 block.layers.2.2:4 "
                "block.transition.2:8",
            ),
            "HRNet": Case(
                lambda: Classifier(blocks.MultiScale(), 16),
                "stem.0:8 block.high.0:6 block.low.0:10 block.up+:1 block.down+:1",
            ),
            "FractalNet": Case(
                lambda: Classifier(blocks.Fractal(), 10),
                "stem.0:8 block.short.0:10 block.long.0.0:6",
            ),
            "U-Net": Case(
                lambda: Classifier(blocks.Hourglass(), 10),
                "stem.0:8 block.down.1.0:12 block.up.weight:1:6 block.merge.0:10",
            ),
        },
        "width": {
            "Wide ResNet": Case(
                lambda: Classifier(blocks.WideResidual(), 16),
                "stem.0:8 block.conv1:16 block.conv2:16 block+:1",
            ),
            "ResNeXt": Case(
                lambda: Classifier(blocks.ResNeXt()),
                "stem.0:8 block.reduce.0/0:4 block.reduce.0/1:4 block.group.0/1:4 block+:1",
            ),
            "PyramidNet": Case(
                lambda: Classifier(blocks.Pyramidal(), 11),
                "stem.0:8 block.body.1:10 block.body.4[8:11]:3",
            ),
            "Xception": Case(
                lambda: Classifier(blocks.Separable(), 12),
                "stem.0:8 block.body.2.0:10 block.body.5.0:12 block.body+:1",
            ),
            "Res2Net": Case(
                lambda: Classifier(blocks.MultiScaleResidual()),
                "stem.0:8 block.reduce.0[0:3]:3 block.reduce.0[3:6]:3 block.reduce.0[6:9]:3 "
                "block.reduce.0[9:12]:3 block.convs.2.0:3 block+:1",
            ),
        },
        "feature-map exploitation": {
            "SE": Case(
                lambda: Classifier(blocks.SqueezeExcite()),
                "stem.0:8 block.body.0.0:12 block.fc.0:4 block+:1",
            ),
            "competitive SE": Case(
                lambda: Classifier(blocks.CompetitiveSqueezeExcite()),
                "stem.0:8 block.body.0.0:12 block.residual:4 block.identity:4 block+:1",
            ),
            "competitive SE with inner imaging": Case(
                lambda: Classifier(blocks.InnerImaging()),
                "block.imaging:3 block.fc.0:4 block+:1",
                pinned="stem.0:8 block.fc.0.weight:1:8",  # sides of the inner image
            ),
            "SKNet": Case(
                lambda: Classifier(blocks.SelectiveKernel(), 10),
                "stem.0:8 block.convs.0.0:10 block.squeeze:4",
            ),
            "ECA-Net": Case(
                lambda: Classifier(blocks.EfficientChannel(), 10),
                "stem.0:8",
                pinned="block.body.0:10",  # a convolution runs over the channels
            ),
        },
        "channel boosting": {
            "channel-boosted CNN": Case(
                lambda: Classifier(blocks.ChannelBoosted(), 10),
                "stem.0:8 block.encoder.0:12 block.decoder.0.weight:1:6 block.read.0:10",
            ),
            "boosted by a frozen learner": Case(
                lambda: Classifier(blocks.FrozenAuxiliary(), 10),
                "stem.0:8 block.auxiliary.0:6 block.read.0:10",
            ),
        },
        "attention": {
            "CBAM": Case(
                lambda: Classifier(blocks.CBAM()),
                "stem.0:8 block.attention.0.mlp.1:4 block.attention.0.mlp+:1 block+:1",
            ),
            "CBAM as published": Case(
                lambda: Classifier(blocks.CBAM(blocks.PublishedSpatialAttention)),
                "stem.0:8 block.attention.0.mlp.1:4 block.attention.0.mlp+:1 block+:1",
            ),
            "scSE": Case(
                lambda: Classifier(blocks.ConcurrentAttention(), 12),
                "stem.0:8 block.body.0:12 block.channels.1:6 block.channels+:1",
            ),
            "residual attention": Case(
                lambda: Classifier(blocks.ResidualAttention()),
                "stem.0:8 block.trunk.0.0:12 block.trunk.1.0:8 block.down.1.0:10 block.mask.0.0:6",
            ),
            "non-local": Case(
                lambda: Classifier(blocks.NonLocal()),
                "stem.0:8 block.g.0:6 block.theta:6 block+:1",
            ),
            "GCNet": Case(
                lambda: Classifier(blocks.GlobalContext()), "stem.0:8 block.transform.0:6"
            ),
            "coordinate attention": Case(
                lambda: Classifier(blocks.CoordinateAttention(), 12),
                "stem.0:8 block.body.0:12 block.reduce.0.0:6",
            ),
        },
    }
)

SYSTEMS: Mapping[str, Case] = MappingProxyType(
    {
        "TinyNet": Case(
            blocks.TinyNet,
            "conv_stem:8 blocks.0.conv_pw:16 blocks.0.se.conv_reduce:3 blocks.0.conv_pwl:6 "
            "blocks.1.conv_pw:12 blocks.1.se.conv_reduce:3 conv_head:12 blocks.1+:1",
        ),
        "MVFNet": Case(
            blocks.MVFNet,
            "stem.0[0:4]:4 stem.0[4:8]:4 conv1.net:6 conv2.0:5 conv1+:1 conv1++:1 add_2+:1",
            inputs=clips,
        ),
        **{
            f"InteractE, {perm} permutations": Case(
                lambda perm=perm: blocks.InteractE(perm=perm),
                free,
                # Rows are found by number, features become places of an image, and entities are
                # scored by their features.
                pinned=f"ent_embed:9 fc:12 rel_embed:4 rel_embed.weight:1:12{bn0}",
                inputs=lambda: integers(9, 4),
            )
            for perm, free, bn0 in ((1, "bn1:6", ""), (4, "bn1/1:6", " bn0:4"))
        },
        "CV4Code": Case(
            blocks.CV4Code,
            "conv:8 residual.conv1:6 residual.conv2:5 residual.conv3:12 bottleneck:10 residual+:1",
            pinned="conv.weight:1:6",  # symbols, one by one
            inputs=lambda: integers(6, shape=(3, 16, 16)),
        ),
        "deductive solver": Case(
            blocks.Deductive,
            "encode:10 ask:10 scorer.phi.0:12 scorer.phi.2:12 scorer.rho.0:10 "
            "stopper_transformation:10",
            pinned="pairs:6 pairs:1:2",
            inputs=lambda: (images(3, size=(3, 6)), images(3, seed=1, size=(6,))),
        ),
    }
)

CASES: Mapping[str, Case] = MappingProxyType(
    {
        f"{category}: {name}": case
        for category, cases in (*CATEGORIES.items(), ("systems", SYSTEMS))
        for name, case in cases.items()
    }
)
FIRST = {f"{category}: {next(iter(cases))}" for category, cases in CATEGORIES.items()}
"""One block of each category."""

EXPECTED_PINS = ("network input", "network output", "gates of")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model with random weights and what `prepare` made of it, everything open; do not train."""

    case: Case
    model: nn.Module
    gated: nn.Module
    inputs: tuple[Tensor, ...]

    def halved(self) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
        """Gated at a random half and folded, in float64, with inputs; without dropout."""
        gated = without_dropout(copy.deepcopy(self.gated).double())
        fxprune.set_keep_set(gated, half(gated))
        inputs = tuple(x.double() if x.is_floating_point() else x for x in self.inputs)
        return gated, fxprune.fold(gated), inputs


def without_dropout(model: nn.Module) -> nn.Module:
    """Masks of a narrower layer are other masks, so training modes are compared without."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


@pytest.fixture(scope="module", params=CASES)
def prepared(request: pytest.FixtureRequest) -> Iterator[Prepared]:
    torch.manual_seed(0)
    case = CASES[request.param]
    model, inputs = randomise(case.make()).eval(), case.inputs()
    yield Prepared(case, model, fxprune.prepare(model, inputs, target=1.0, in_kind=False), inputs)


def listed(groups: list[fxprune.GroupInfo]) -> str:
    return " ".join(f"{group.name}:{group.size}" for group in groups)


def test_these_groups_are_free(prepared):
    groups = fxprune.groups(prepared.gated)
    assert listed([group for group in groups if not group.pin]) == prepared.case.free


def test_what_else_is_pinned_is_said(prepared):
    groups = fxprune.groups(prepared.gated)
    pinned = [group for group in groups if group.pin and not group.pin.startswith(EXPECTED_PINS)]
    assert listed(pinned) == prepared.case.pinned
    mentioned = {member for group in groups for member in group.members}
    assert set(channels_of(prepared.model)) <= mentioned


def channels_of(model: nn.Module) -> Iterator[str]:
    """Inputs and outputs of layers, as members of groups are called; not one or two single maps."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            yield from (f"{name}.weight:{dim}" for dim in (0, 1) if module.weight.shape[dim] > 2)


@pytest.mark.parametrize("training", [False, True])
def test_all_open_is_the_original_bit_for_bit(prepared, training):
    outputs, states = [], []
    for each in (copy.deepcopy(prepared.model), copy.deepcopy(prepared.gated)):
        torch.manual_seed(1)  # of dropout
        with torch.no_grad():
            outputs.append(each.train(training)(*prepared.inputs))
            assert not torch.is_grad_enabled(), "the model switched gradients on"
        states.append(each.state_dict())
    assert_equal(*outputs)
    assert_same_state(states[0], {name: states[1][name] for name in states[0]})


@pytest.mark.parametrize("training", [False, True])
def test_folded_is_gated(prepared, training):
    gated, folded, inputs = prepared.halved()
    with torch.no_grad():
        assert_of_order_one(gated.eval()(*inputs))
    assert_rewrite_equivalent(gated.train(training), folded.train(training), inputs=inputs)
    assert params(folded) < params(prepared.model)


@pytest.mark.parametrize(
    "prepared",
    [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
    indirect=True,
)
def test_onnx_runtime_agrees(prepared, tmp_path):
    _, folded, _ = prepared.halved()
    assert fxprune.export_onnx(folded.float(), tmp_path / "model.onnx").exists()


def test_every_block_is_in_a_table():
    used = {type(module) for case in CASES.values() for module in case.make().modules()}
    mine = {
        item for item in vars(blocks).values() if getattr(item, "__module__", "") == blocks.__name__
    }
    assert {item for item in mine if isinstance(item, type)} <= used
