"""The checker of rewrites of ONNX files lets right ones pass, and finds each kind of wrong one."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fxprune import FxpruneError
from fxprune.testing import OnnxModel, assert_onnx_rewrite_equivalent, randomise


@pytest.fixture
def model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    randomise(model, torch.Generator().manual_seed(0))
    return model


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_copy_is_the_same_function(model):
    assert_onnx_rewrite_equivalent(copy.deepcopy, model, [X])


def scaled(by):
    def rewrite(file):
        file = copy.deepcopy(file)
        bias = next(tensor for tensor in file.graph.initializer if tensor.name == "2.bias")
        values = onnx.numpy_helper.to_array(bias) * np.float32(by)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return file

    return rewrite


def test_rounding_is_allowed_and_nothing_beyond(model):
    assert_onnx_rewrite_equivalent(scaled(1 + 2e-7), model, [X])
    message = r"(?s)ONNX output 0 differs by .* first differing value: conv2d_1 \(Conv\)"
    with pytest.raises(AssertionError, match=message):
        assert_onnx_rewrite_equivalent(scaled(1 + 1e-2), model, [X])


def test_tolerance_may_be_given(model):
    assert_onnx_rewrite_equivalent(scaled(1 + 1e-4), model, [X], rtol=1e-3)
    with pytest.raises(AssertionError, match="differs by"):
        assert_onnx_rewrite_equivalent(scaled(1 + 1e-4), model, [X], rtol=1e-6)


def test_change_of_what_was_given_is_found(model):
    def rewrite(file):
        file.graph.initializer[0].doc_string = "seen"
        return file

    with pytest.raises(AssertionError, match="the rewrite has changed what it was given"):
        assert_onnx_rewrite_equivalent(rewrite, model, [X])


def test_number_of_samples_that_is_written_into_the_file_is_found(model):
    def rewrite(file):
        file = copy.deepcopy(file)
        shape = onnx.helper.make_node("Constant", [], ["shape"], value_ints=X.shape)
        given = onnx.helper.make_node("Reshape", [file.graph.input[0].name, "shape"], ["given"])
        file.graph.node[0].input[0] = "given"
        for node in (given, shape):
            file.graph.node.insert(0, node)
        return file

    with pytest.raises(AssertionError, match="the rewritten file does not run"):
        assert_onnx_rewrite_equivalent(rewrite, model, [X])


@pytest.mark.parametrize("kind", ["input", "output"])
def test_other_name_is_found(kind, model):
    def rewrite(file):
        file = copy.deepcopy(file)
        old = getattr(file.graph, kind)[0].name
        for node in file.graph.node:
            for names in (node.input, node.output):
                names[:] = ["other" if name == old else name for name in names]
        getattr(file.graph, kind)[0].name = "other"
        return file

    with pytest.raises(AssertionError, match=rf"{kind}s are \['other'\], expected"):
        assert_onnx_rewrite_equivalent(rewrite, model, [X])


def test_model_without_a_file_is_not_held_against_the_rewrite():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(FxpruneError, match="there is no file to rewrite"):
        assert_onnx_rewrite_equivalent(copy.deepcopy, Deciding(), [X])


LINEAR = """
import numpy as np
from onnx import numpy_helper, parser

model = parser.parse_model('''
    <ir_version: 8, opset_import: ["": 17]>
    network (float[n, 3] x) => (float[n, 4] y) { y = MatMul (x, w) }
''')
weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
inputs = {"x": np.ones((2, 3), np.float32)}
"""


@pytest.mark.parametrize(("by", "fits"), [(1, True), (1 + 2e-7, True), (1 + 1e-5, False)])
def test_files_that_no_model_was_exported_to_are_compared_as_well(by, fits):
    def rewrite(file):
        file = copy.deepcopy(file)
        values = onnx.numpy_helper.to_array(file.graph.initializer[0]) * np.float32(by)
        file.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
        return file

    if fits:
        return assert_onnx_rewrite_equivalent(rewrite, OnnxModel(LINEAR))
    with pytest.raises(AssertionError, match="ONNX output 0 differs by"):
        assert_onnx_rewrite_equivalent(rewrite, OnnxModel(LINEAR))
