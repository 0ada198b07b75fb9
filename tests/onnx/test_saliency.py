"""Saliency: changes of the outputs by position, against torch's derivatives and against folds."""

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

import fxprune
from fxprune.errors import InputError
from fxprune.onnx import saliency as onnx_saliency
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.saliency import saliency
from fxprune.passes.analyse import analyse
from tests.onnx.frontend.samples import drawing, read_whole
from tests.onnx.models import images, outputs, residual


def found(model: onnx.ModelProto, x: np.ndarray, step: float = 1.0) -> dict[str, np.ndarray]:
    """Saliency by group."""
    program = read_onnx(model)
    analysis = analyse(program.ir)
    numbers = saliency(program, analysis, [{"x": x}], step=step).groups
    return {group.name: numbers[group.space] for group in analysis.free_groups}


def assert_is_what_closing_does(model: onnx.ModelProto, x: np.ndarray) -> None:
    """Every position is cut out by a fold of its own."""
    y = outputs(model, x)
    for name, numbers in found(model, x).items():
        for position, number in enumerate(numbers):
            keep = {name: [i != position for i in range(len(numbers))]}
            change = outputs(fxprune.fold_onnx(model, keep).model, x) - y
            wanted = np.square(change).sum() / np.square(y).sum()
            assert number == pytest.approx(wanted, rel=1e-3), (name, position)


def normalised() -> onnx.ModelProto:
    """Linear, layer norm, linear, mean over channels."""
    g = drawing()
    h = g("Flatten", g("Conv", "x", g.weight(2, 3, 6, 6)))
    h = g("Gemm", h, g.weight(5, 2), g.weight(5), transB=1)
    h = g("LayerNormalization", h, g.weight(5), g.weight(5))
    h = g("Gemm", h, g.weight(4, 5), g.weight(4), transB=1)
    return read_whole(g, g("Concat", h, g("ReduceMean", g("Relu", h), g.numbers(1)), axis=1))


def test_small_steps_give_the_squared_derivative_of_the_outputs():
    g = drawing()
    first, bias, second = (
        np.random.default_rng(0).normal(size=size).astype(np.float32)
        for size in ((6, 3, 3, 3), (6,), (4, 6, 2, 2))
    )
    h = g("Sigmoid", g("Conv", "x", g.stored(first), g.stored(bias)))
    model = read_whole(g, g("Tanh", g("Conv", h, g.stored(second))))
    head = onnx.numpy_helper.to_array(model.graph.initializer[-1]).copy()
    x = images(3)

    def gated(gates: torch.Tensor) -> torch.Tensor:
        hidden = torch.conv2d(torch.tensor(x), torch.tensor(first), torch.tensor(bias)).sigmoid()
        seen = torch.conv2d(hidden * gates[:, None, None], torch.tensor(second)).tanh()
        return seen.flatten(1) @ torch.tensor(head)

    gates = torch.ones(6)
    jacobian = torch.autograd.functional.jacobian(gated, gates)
    wanted = jacobian.square().sum((0, 1)) / gated(gates).square().sum()
    numbers = next(iter(found(model, x, step=1 / 256).values()))
    np.testing.assert_allclose(numbers, wanted.numpy(), rtol=0.02)


@pytest.mark.parametrize("model", [residual, normalised])
def test_whole_steps_give_what_closing_does(model):
    assert_is_what_closing_does(model(), images(3))


def test_another_order_of_positions_is_noticed(monkeypatch):
    right = onnx_saliency.mask_program

    def reversed_gates(program, plan, gates, branches):
        return right(program, plan, {s: g[::-1] for s, g in gates.items()}, branches)

    monkeypatch.setattr(onnx_saliency, "mask_program", reversed_gates)
    with pytest.raises(AssertionError):
        assert_is_what_closing_does(residual(), images(3))


def test_a_position_that_nobody_reads_has_none():
    model = residual()
    reader = next(t for t in model.graph.initializer if t.dims == [8, 12, 3, 3])
    array = onnx.numpy_helper.to_array(reader).copy()
    array[:, 5] = 0
    reader.CopyFrom(onnx.numpy_helper.from_array(array, reader.name))
    inner = next(n for n in found(model, images(2)).values() if len(n) == 12)
    assert np.flatnonzero(inner == 0).tolist() == [5]


def test_samples_come_from_all_over_the_data():
    model, few = residual(), [images(2, seed) for seed in range(8)]
    program = read_onnx(model)
    analysis = analyse(program.ir)
    numbers = saliency(program, analysis, [{"x": x} for x in few]).groups
    wanted = found(model, np.concatenate([x[:1] for x in few]))
    for group in analysis.free_groups:
        np.testing.assert_allclose(numbers[group.space], wanted[group.name], rtol=1e-5)


def test_outputs_must_be_of_floating_point():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> one (float[n, 3] x) => (int64[n, 1] y)'
        "<float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2, 2] v = {1, 2, 3, 4}>"
        "{ h = MatMul (x, w)  z = MatMul (h, v)  y = ArgMax <axis = 1> (z) }"
    )
    with pytest.raises(InputError, match="outputs of floating point"):
        found(model, np.ones((2, 3), np.float32))


def test_every_position_is_a_step_of_the_progress(caplog):
    with caplog.at_level(logging.DEBUG, "fxprune.progress"):
        numbers = found(residual(), images(1))
    shares = [record.done for record in caplog.records if record.name == "fxprune.progress"]
    branches = 2
    assert shares == list(range(sum(map(len, numbers.values())) + branches + 1))
