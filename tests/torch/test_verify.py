"""Verification finds what differs, and says where."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.gated import folded_at_half
from tests.torch.models import Residual, images, plain, randomise


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("stem.0.weight", r"stem_0 \(conv, stem\.0\)"),
        ("body.1.running_mean", r"body_1 \(batch_norm, body\.1\)"),
        ("body.3.bias", r"body_3 \(conv, body\.3\)"),
        ("head.bias", r"head \(linear, head\)"),
    ],
)
def test_verify_names_the_first_layer_that_differs(name, place):
    gated, folded = folded_at_half()
    fxprune.verify(gated, folded)
    with torch.no_grad():
        folded.state_dict()[name].view(-1)[0] += 1e-4
    with pytest.raises(fxprune.VerificationError, match=f"first difference at {place}"):
        fxprune.verify(gated, folded)


def test_verify_finds_a_model_of_another_shape():
    gated, folded = folded_at_half()
    folded.head = nn.Linear(folded.head.in_features + 1, 5).double()
    with pytest.raises(fxprune.VerificationError, match="relative error inf"):
        fxprune.verify(gated, folded)


def test_verify_finds_what_only_an_input_of_the_user_shows():
    model = nn.Sequential(plain(), nn.Threshold(1e7, 0.0))
    gated = fxprune.prepare(model, images(1))
    folded = fxprune.fold(gated)
    with torch.no_grad():
        folded.get_parameter("0.2.weight").mul_(1.1)
    with pytest.raises(fxprune.VerificationError, match="nothing was shown"):
        fxprune.verify(gated, folded)
    with pytest.raises(fxprune.VerificationError, match="first difference at _0_2"):
        fxprune.verify(gated, folded, inputs=[1e9 * images(1)])


def test_verify_finds_the_file_of_another_model(exported, tmp_path):
    gated, folded, _ = exported
    _, other = folded_at_half(randomise(Residual(), seed=1), seed=1)
    path = fxprune.export_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(fxprune.VerificationError, match="folded == onnxruntime, batch 1"):
        fxprune.verify(gated, folded, path)


@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_verify_finds_a_missing_or_damaged_file(exported, tmp_path, share):
    gated, folded, path = exported
    broken = tmp_path / "broken.onnx"
    if share is not None:
        broken.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(fxprune.VerificationError, match="ONNX Runtime does not load"):
        fxprune.verify(gated, folded, broken)


def test_verify_leaves_everything_as_found():
    gated, folded = folded_at_half()
    with assert_unchanged(gated), assert_unchanged(folded):
        fxprune.verify(gated.train(), folded.train())


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (["image"], "tensors or tuples of them, got str"),
        ([torch.randn(1, 5, 8, 8)], r"first model fails on inputs of shape \(1, 5, 8, 8\)"),
    ],
)
def test_verify_refuses_inputs_that_the_model_does_not_take(gated, inputs, match):
    folded = fxprune.fold(gated)
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.verify(gated, folded, inputs=inputs)
