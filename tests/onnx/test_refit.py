"""Corrected weights."""

import numpy as np
import onnx
import pytest

import fxprune
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.prune import masked_model
from fxprune.onnx.refit import refitted
from fxprune.testing import GraphBuilder
from tests.onnx.frontend.samples import drawing, read_whole
from tests.onnx.models import images, outputs, residual


def test_corrected_weights_come_closer():
    model, data, x = residual(width=16), [images(64, seed) for seed in (1, 2)], images(32, 9)
    wanted = outputs(model, x)
    errors = [
        np.abs(outputs(fxprune.prune_onnx(model, correct=correct, data=data).model, x) - wanted)
        for correct in (False, True)
    ]
    assert errors[1].mean() < 0.7 * errors[0].mean()


def dependent(g: GraphBuilder) -> str:
    """Nine channels, of which the last three are sums of others."""
    first = np.random.default_rng(0).normal(size=(6, 3, 1, 1)).astype(np.float32)
    return g("Conv", "x", g.stored(np.concatenate([first, first[:3] + first[3:]])))


def corrected(model: onnx.ModelProto, keep: dict[str, tuple[bool, ...]]) -> fxprune.OnnxResult:
    """Folded after its weights have been fitted with next to no damping."""
    analysis, program = fxprune.inspect_onnx(model), read_onnx(model)
    masked, data = masked_model(program, analysis, keep), [{"x": images(64, 6)}]
    mended, fitted = refitted(program, analysis, masked, keep, data, ridge=1e-9)
    assert fitted >= 1
    return fxprune.fold_onnx(mended.model, keep)


@pytest.mark.parametrize("skip", [False, True])
def test_corrected_weights_repair_channels_that_are_sums_of_others(skip):
    g = drawing()
    h = dependent(g)
    if skip:  # whose error the branch has to mend
        total = g("ReduceSum", h, g.numbers(1))
        model = read_whole(g, g("Add", total, g("Conv", h, g.weight(1, 9, 1, 1))))
    else:
        read = g("Conv", h, g.weight(5, 9, 3, 3), g.weight(5), pads=[1] * 4, strides=[2, 2])
        model = read_whole(g, read)
    keep = {fxprune.inspect_onnx(model).free_groups[0].name: (True,) * 6 + (False,) * 3}
    x = images(4, 5)
    wanted = outputs(model, x)
    errors = [
        np.abs(outputs(result.model, x) - wanted).max() / np.abs(wanted).max()
        for result in (fxprune.fold_onnx(model, keep), corrected(model, keep))
    ]
    assert errors[0] > 0.1
    assert errors[1] < 1e-2
