"""What cannot be prepared is refused in one clear error, and the model stays as it was."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import Residual, images, plain, randomise
from tests.torch.refusing import Convs, TakesFlag, refuses


class ValueDependent(Convs):
    def forward(self, x):
        y = self.first(x)
        if y.sum() > 0:  # the line that the message must show
            y = 2 * y
        return self.second(y)


class LoopsOverValues(Convs):
    def forward(self, x):
        for _ in range(int(x.sum())):
            x = self.first(x)
        return x


class Fourier(Convs):
    """An operator that fxprune does not know stands between the only two layers."""

    def forward(self, x):
        return self.second(torch.fft.fft(self.first(x), dim=1).real)


class FourierAside(Convs):
    """The unknown operator sees one of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 3, 3)
        self.between = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.first(self.before(x))
        return self.second(self.between(torch.fft.fft(x, dim=1).real))


class ChannelFlip(Convs):
    def forward(self, x):
        return self.second(self.first(x).flip(1))


# What is not a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [torch.relu, nn.Conv2d, None, "resnet18", {}])
def test_what_is_not_a_module_is_refused(thing):
    with pytest.raises(fxprune.InputError, match=r"model must be a torch\.nn\.Module, got \w+"):
        fxprune.prepare(thing, images(1))


@pytest.mark.parametrize("model", [ValueDependent, LoopsOverValues])
def test_untraceable_model_is_refused_with_file_and_line(model):
    message = refuses(model(), fxprune.TraceError, "cannot be traced", images(1))
    line = "if y.sum() > 0:" if model is ValueDependent else "for _ in range(int(x.sum())):"
    number = 1 + next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines()) if line in text
    )
    assert f"{__file__}:{number}: {line}" in message
    assert "move that control flow out of forward" in message


def test_own_code_takes_other_arguments_than_the_example():
    model, x = TakesFlag(), images(2)
    for example in (x, (x, True)):
        gated = fxprune.prepare(model, example, target=1.0)
        for module in (gated, fxprune.fold(gated)):
            for double in (False, True):
                assert torch.equal(module(x, double=double), model(x, double=double))


def test_generated_code_keeps_an_argument_that_the_trace_took_for_granted():
    class InItsCode(TakesFlag):
        def forward(self, x, double=False):
            return super().forward(x, double) * self.body[0](x).mean((1, 2, 3), keepdim=True)

    gated = fxprune.prepare(InItsCode(), images(2))
    with pytest.raises(fxprune.InputError, match=r"traced with double=False.*example_inputs"):
        gated(images(2), double=True)


def test_lazy_module_is_refused_until_it_has_shapes():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    refuses(model, fxprune.InputError, r"^0\.weight has no shape yet: run the model", images(1))
    model(images(1))
    assert fxprune.groups(fxprune.prepare(model, images(1)))[0].size == 8


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["body.3.weight", "stem.1.bias", "head.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name, value):
    model = randomise(Residual())
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    refuses(model, fxprune.InputError, rf"^{name} holds NaN or infinite", images(1))


def test_statistics_that_are_not_numbers_are_refused_by_name():
    model = randomise(Residual())
    model.stem[1].running_var[2] = math.nan
    refuses(model, fxprune.InputError, r"^stem\.1\.running_var holds NaN", images(1))


def test_weights_that_diverged_in_training_are_refused_when_folding(gated):
    with torch.no_grad():
        gated.get_parameter("head.weight")[0, 0] = math.nan
    with (
        assert_unchanged(gated),
        pytest.raises(fxprune.InputError, match=r"^head\.weight holds NaN"),
    ):
        fxprune.fold(gated)


# Nothing to prune, or less than there seems ----------------------------------------------------


def test_unknown_operator_pins_what_it_sees_and_nothing_else():
    groups = fxprune.groups(fxprune.prepare(FourierAside(), images(1)))
    pins = {group.name: group.pin for group in groups}
    assert pins["first"].startswith("unknown operator fft_fft at fft_fft")
    assert pins["between.weight:1"].startswith("unknown operator fft_fft")
    free = [group.members[-1] for group in groups if not group.pin]
    assert free == ["before.bias:0", "between.bias:0"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Fourier(), r"first \(8\): unknown operator fft_fft at fft_fft"),
        (ChannelFlip(), r"first \(8\): compared or mixed along in flip"),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), r"0 \(8\): network output\n  0\.weight:1 \(3\): netw"),
        (nn.Sequential(nn.ReLU()), "no layer with channels"),
    ],
)
def test_model_without_anything_to_prune_is_refused_with_the_reasons(model, reason):
    message = refuses(model, fxprune.NothingToPruneError, reason, images(1))
    assert message.startswith(f"nothing in {type(model).__name__} can be pruned")


def test_ignoring_everything_leaves_nothing_to_prune():
    message = refuses(
        plain(), fxprune.NothingToPruneError, "can be pruned", images(1), ignore=["0", "2"]
    )
    assert "0 (8): ignored by the caller" in message


# The wrong kind of module ----------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_gated_model_is_not_prepared_again(gated, inside):
    model = nn.Sequential(gated, nn.Linear(5, 5)) if inside else gated
    refuses(model, fxprune.InputError, "the model is gated already", images(1))


@pytest.mark.parametrize("verb", [fxprune.fold, fxprune.keep_set, fxprune.reach_target])
def test_verbs_of_gated_models_refuse_others(gated, verb):
    with pytest.raises(fxprune.InputError, match=r"fxprune\.prepare returns, got a plain Sequen"):
        verb(plain())
    with pytest.raises(fxprune.InputError, match=r"fxprune\.prepare returns, got a folded module"):
        verb(fxprune.fold(gated))


@pytest.mark.parametrize("verb", [fxprune.groups, fxprune.report])
def test_descriptions_refuse_plain_models(verb):
    with pytest.raises(fxprune.InputError, match="a gated or folded module, got Sequential"):
        verb(plain())
