"""Verdicts about modules: outputs that show nothing, noise, and outputs of every form."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.torch.precision import arrays_of, drawing_anew, draws, relative_error
from fxprune.torch.verify import compare_modules

LARGE = 1e9


class Net(nn.Module):
    """Two layers, and a last step of the test's choice."""

    def __init__(self, last):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 4), last

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()))


def made(last):
    """Gated, folded to about a half, and folded with another weight."""
    torch.manual_seed(0)
    gated = fxprune.prepare(Net(last), torch.randn(2, 5), target=1.0)
    (group,) = (g for g in fxprune.groups(gated) if not g.pin and g.kind != "branch")
    fxprune.set_keep_set(gated, {group.name: [True, False] * 4})
    folded, wrong = fxprune.fold(gated), fxprune.fold(gated)
    with torch.no_grad():
        wrong.second.weight.neg_()
    return gated, folded, wrong


MASK = torch.tensor([0, -np.inf, 0, 0])
SILENT = {
    "a saturated sigmoid": lambda z: torch.sigmoid(z + LARGE),
    "a clip": lambda z: (z + LARGE).clamp(0, 1),
    "a comparison": lambda z: z > LARGE,
    "a label": lambda z: (z + LARGE * torch.tensor([1, 0, 0, 0])).argmax(1),
    "logarithms of negative numbers": lambda z: (-z.abs()).log(),
    "an infinite mask": lambda z: z + torch.full((4,), -np.inf),
    "nothing": lambda z: z[:, :0],
}


@pytest.mark.parametrize("name", SILENT)
def test_models_whose_outputs_never_move_are_not_called_the_same(name):
    gated, folded, wrong = made(SILENT[name])
    for other in (folded, wrong):
        with pytest.raises(fxprune.VerificationError, match=r"nothing was shown|error inf"):
            fxprune.verify(gated, other)


def test_inputs_that_move_the_outputs_are_a_way_out():
    gated, folded, wrong = made(SILENT["a comparison"])
    inputs = [LARGE * 100 * torch.randn(3, 5), {"x": LARGE * 100 * torch.randn(3, 5)}]
    assert fxprune.verify(gated, folded, inputs=inputs).shows_nothing == ()
    with pytest.raises(fxprune.VerificationError, match="first difference at second"):
        fxprune.verify(gated, wrong, inputs=inputs)


def test_labels_are_moved_by_larger_inputs():
    gated, folded, wrong = made(lambda z: (z + 50 * torch.tensor([1, 0, 0, 0])).argmax(1))
    assert fxprune.verify(gated, folded).shows_nothing == ()
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify(gated, wrong)


def test_outputs_that_stay_are_named_beside_those_that_move():
    gated, folded, _ = made(lambda z: {"scores": z, "anchors": torch.ones(3)})
    verdict = fxprune.verify(gated, folded)
    assert verdict.shows_nothing == ("output.anchors",)
    assert "nothing is shown of output.anchors" in str(verdict)


def test_masked_logits_agree_and_their_finite_values_are_compared():
    gated, folded, wrong = made(lambda z: z + MASK)
    assert fxprune.verify(gated, folded).comparisons
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify(gated, wrong)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (torch.tensor([1, np.inf]), torch.tensor([1, -np.inf])),
        (torch.tensor([1, np.nan]), torch.tensor([1, np.inf])),
        ([torch.ones(2), torch.ones(3)], [torch.ones(2)]),
        ([torch.ones(2), torch.ones(3)], [torch.ones(2), torch.ones(4)]),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}),
        (torch.ones(1), torch.ones(1).double()),
        (torch.tensor([2**62]), torch.tensor([2**62 + 1])),
        (torch.ones(1), None),
        ((torch.ones(1), 3), (torch.ones(1), 4)),
    ],
)
def test_what_has_another_form_or_kind_differs(expected, got):
    assert relative_error(expected, expected) == 0
    assert relative_error(expected, got) == np.inf


def test_half_precision_has_arrays_too():
    values = [torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.bool)]
    assert [each.dtype.name for each in arrays_of(values)] == ["float32", "float16", "bool"]


# Noise ----------------------------------------------------------------------------------------


def test_noise_is_drawn_alike_in_both_models():
    gated, folded, wrong = made(lambda z: z + 0.3 * torch.randn_like(z))
    verdict = fxprune.verify(gated, folded)
    assert all(item.error < 1e-6 for item in verdict.comparisons)
    with pytest.raises(fxprune.VerificationError, match="the models draw random numbers"):
        fxprune.verify(gated, wrong)


def test_what_only_noise_moves_shows_nothing():
    gated, folded, _ = made(lambda z: 0 * z + torch.randn_like(z))
    with pytest.raises(fxprune.VerificationError, match="nothing was shown"):
        fxprune.verify(gated, folded)


class Drifting(nn.Module):
    """Something else in every run."""

    runs = 0

    def forward(self, x):
        Drifting.runs += 1
        return x + Drifting.runs


def test_a_model_that_differs_from_run_to_run_is_refused():
    with pytest.raises(fxprune.VerificationError, match="first model differs from run to run"):
        compare_modules(Drifting(), nn.Identity(), [(torch.randn(2, 3),), (torch.randn(2, 3),)])


class Noise(nn.Module):
    """From all three generators."""

    def forward(self, x):
        drawn = random.random() + np.random.rand()
        return F.dropout(x, training=True) * drawn


def test_generators_stay_as_found():
    module, x = Noise(), torch.ones(4)
    before = random.getstate(), np.random.get_state()[1].tolist()
    with assert_unchanged(module):
        assert draws(module, (x,))
        assert not draws(nn.Identity(), (x,))
        found = []
        for _ in range(2):
            with drawing_anew(module):
                found.append(module(x))
    assert torch.equal(*found)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_inputs_that_a_model_writes_into_stay():
    x = torch.randn(2, 3)
    before = x.clone()
    compare_modules(nn.ReLU(inplace=True), nn.ReLU(), [(x,), (-x,)])
    assert torch.equal(x, before)


# The size of the batch ------------------------------------------------------------------------


class Halves(nn.Module):
    """Rows of twice eight features, added up in pairs: with two samples it looks like a view."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).relu().view(2, -1, 8).sum(1))


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_a_number_of_the_model_is_not_taken_for_the_size_of_the_batch(batch):
    model = Halves().eval()
    gated = fxprune.prepare(model, torch.randn(batch, 6), target=1.0)
    keep = {
        group.name: [number > 0 for number in range(group.size)]
        for group in fxprune.groups(gated)
        if not group.pin
    }
    fxprune.set_keep_set(gated, keep)
    fxprune.verify(gated, fxprune.fold(gated), batch_sizes=(1, 2, 4, 7))
    fxprune.set_keep_set(gated, {name: [True] * len(flags) for name, flags in keep.items()})
    for size in (1, 2, 4):
        x = torch.randn(size, 6)
        assert torch.equal(model(x), gated.eval()(x))


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a comparison", "a saturated sigmoid"])
def test_files_whose_outputs_never_move_are_not_written(name, tmp_path):
    _, folded, _ = made(SILENT[name])
    with pytest.raises(fxprune.VerificationError, match="nothing was shown"):
        fxprune.export_onnx(folded, tmp_path / "model.onnx", torch.randn(2, 5))
    assert not list(tmp_path.iterdir())
    far = 100 * LARGE * torch.randn(1, 5)
    fxprune.export_onnx(folded, tmp_path / "model.onnx", far)


def test_masked_logits_are_exported(tmp_path):
    gated, folded, wrong = made(lambda z: z + MASK)
    path = fxprune.export_onnx(folded, tmp_path / "model.onnx")
    assert len(fxprune.verify(gated, folded, path).comparisons) > 8
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify(gated, wrong, path)
