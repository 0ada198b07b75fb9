"""The tutorial on rewrites of others finds what is wrong with one, and lets another pass."""

import copy
import importlib.util
import sys

import onnx
import pytest
import torch
from onnxscript.optimizer import optimize
from torch import nn

from examples.testing_rewrites import (
    REWRITES,
    Rewrite,
    counterexample,
    fused_by_fx,
    main,
    of_modules,
)
from fxprune import FxpruneError
from fxprune.testing import (
    assert_onnx_rewrite_equivalent,
    assert_onnxruntime_agrees,
    assert_rewrite_equivalent,
    randomise,
)


class CalledTwice(nn.Module):
    """The counter-example that the tutorial finds, without what is not needed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(self.conv(x).relu()))


def test_fuse_of_torch_folds_a_norm_into_both_calls_of_a_convolution():
    network = CalledTwice().double().eval()
    randomise(network, torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(
            network, fused_by_fx(network), inputs=[torch.randn(2, 3, 4, 4).double()]
        )


def test_optimizer_of_onnxscript_renames_tensors_of_what_it_is_given():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        graph (float[n, 2] x) => (float[n, 2] y) {
            c = Constant <value = float[2] value {1, 2}> ()
            y = Add (x, c)
        }
    """)
    tensor = model.graph.node[0].attribute[0].t
    assert tensor.name == "value"
    optimize(model)
    assert tensor.name == "c"


def test_optimizer_of_onnxscript_fails_on_paddings_of_old_versions_of_onnx():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 10]>
        graph (float[n, 1, 4, 4] x) => (float[n, 1, 6, 6] y) <float[1, 1, 1, 1] w = {2}> {
            padded = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (x)
            y = Conv (padded, w)
        }
    """)
    onnx.checker.check_model(model)
    with pytest.raises(Exception, match="An error occurred when running") as failure:
        optimize(model)
    assert "IndexError" in str(failure.getrepr())


def test_export_of_a_3d_convolution_without_bias_runs_only_when_it_is_optimised():
    model, x = nn.Conv3d(3, 4, 1, bias=False).eval(), torch.randn(2, 3, 4, 4, 4)
    assert_onnxruntime_agrees(model, [x])
    with pytest.raises(FxpruneError, match=r"no file to rewrite: .* bias must be a 1D"):
        assert_onnx_rewrite_equivalent(copy.deepcopy, model, [x])


@pytest.mark.parametrize(
    "name",
    ["torch.ao.quantization.fuse_modules (torch ", "onnxsim.simplify on ONNX models (onnxsim "],
)
def test_rewrite_that_is_right_passes(name):
    (rewrite,) = (rewrite for rewrite in REWRITES if str(rewrite).startswith(name))
    assert counterexample(rewrite, 4) == ("", "", 4)


def test_library_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["testing_rewrites", "--only", "onnxsim"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="onnxsim is not installed: pip install onnxsim"):
        main()


def test_rewrite_that_is_wrong_is_found_with_a_plain_network():
    def halve(network):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.first.weight *= 0.5
        return other

    source, error, _ = counterexample(Rewrite("halve", "torch", of_modules(halve)), 8)
    assert "first differing layer: first (Conv2d)" in error
    assert source.count("nn.Conv2d") == 3
