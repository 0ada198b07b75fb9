"""Example inputs: inferred where none are given, refused where they do not fit."""

import logging
import re

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import Residual, images, plain, randomise
from tests.torch.refusing import TakesFlag, TwoInputs, refuses


def test_example_inputs_are_inferred_and_said(caplog):
    model = randomise(Residual())
    with assert_unchanged(model), caplog.at_level(logging.WARNING, "fxprune"):
        gated = fxprune.prepare(model)
    assert re.search(
        r"no example_inputs given: assumed one tensor of shape \(2, 3, \d+, \d+\), because its "
        r"first layer is stem\.0 \(Conv2d\)",
        caplog.text,
    )
    assert gated(images()).shape == (2, 5)


def test_example_inputs_of_a_configuration_are_used(caplog):
    model = randomise(Residual())
    model.pretrained_cfg = {"input_size": (3, 20, 24)}
    with caplog.at_level(logging.WARNING, "fxprune"):
        fxprune.prepare(model)
    assert "shape (2, 3, 20, 24), as its pretrained_cfg says" in caplog.text


def test_inference_of_example_inputs_that_fails_says_what_was_tried():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x + y)

    model = Two()
    match = r"cannot infer what Two takes .*\(2, 3, 224, 224\).*pass example_inputs"
    with assert_unchanged(model), pytest.raises(fxprune.InputError, match=match):
        fxprune.prepare(model)
    match = r"cannot infer what Sequential takes .*nothing: no first layer is known"
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.prepare(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((1, 4, 8, 8), r"fails at stem_0 \(stem\.0\).*shape \(1, 4, 8, 8\)"),
        ((3, 8), r"fails at stem_0.*shape \(3, 8\)"),
        ((1, 3), r"fails at stem_0"),
        ((), r"fails at stem_0"),
    ],
)
def test_example_inputs_of_a_wrong_shape_are_refused_with_the_place(shape, place):
    message = refuses(randomise(Residual()), fxprune.InputError, place, torch.randn(shape))
    assert message.endswith("Pass example_inputs that the model accepts.")


def test_example_inputs_too_small_for_the_kernels_are_refused():
    refuses(plain(), fxprune.InputError, r"fails at .* \(1, 3, 2, 2\)", torch.randn(1, 3, 2, 2))


def test_example_inputs_of_a_wrong_type_are_refused():
    refuses(plain(), fxprune.InputError, "fails at _0", images(1).long())


@pytest.mark.parametrize("examples", [(), "image", 3, [1, 2], {"x": 1}, {}, images(1).numpy()])
def test_example_inputs_without_a_tensor_are_refused(examples):
    refuses(TakesFlag(), fxprune.InputError, r"holds no tensor: pass .* torch\.randn", examples)


@pytest.mark.parametrize(
    ("model", "names", "match"),
    [
        (TwoInputs(), "xz", "^TwoInputs takes x, y, not z: give example_inputs under these names"),
        (TwoInputs(), "y", "^example_inputs lack x$"),
        (TwoInputs(), "x", "^example_inputs lack y$"),
        (plain(), "x", "^Sequential takes input, not x"),
    ],
)
def test_example_inputs_under_wrong_names_are_refused(model, names, match):
    refuses(model, fxprune.InputError, match, dict.fromkeys(names, images(1)))


@pytest.mark.parametrize(
    ("model", "count", "match"),
    [
        (TwoInputs(), 1, "TwoInputs takes x, y, but there are 1 example_inputs"),
        (TwoInputs(), 3, "TwoInputs takes x, y, but there are 3 example_inputs"),
        (Residual(), 2, "Residual takes x, but there are 2 example_inputs"),
    ],
)
def test_wrong_number_of_example_inputs_is_refused(model, count, match):
    refuses(model, fxprune.InputError, match, (images(1),) * count)
