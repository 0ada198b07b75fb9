"""How positions are ranked."""

import onnx
import pytest

import fxprune
from tests.onnx.models import images, residual


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "activation", "wanda", "saliency"])
def test_channels_that_do_nothing_go_first(method):
    model = residual()
    idle = [1, 4, 7]
    for tensor in model.graph.initializer:
        if tensor.dims == [12, 8, 3, 3]:  # makes the inner channels of a block
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        if tensor.dims == [12]:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        if tensor.dims == [8, 12, 3, 3] and method == "group_norm":  # reads them as well
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = fxprune.prune_onnx(model, target=0.85, method=method, data=[images(8)])
    inner = [flags for name, flags in result.keep_set.items() if len(flags) == 12]
    assert len(inner) == 2
    for flags in inner:
        closed = {i for i, flag in enumerate(flags) if not flag}
        assert closed <= set(idle) or closed >= set(idle)
    assert all(not flags[idle[-1]] for flags in inner)
