"""How positions are ranked."""

import numpy as np
import onnx
import pytest

import fxprune
from fxprune.criteria import DEPTH, ON_DATA, ON_FLOW
from fxprune.layout import layout_of
from fxprune.onnx.criteria import onnx_importance
from fxprune.onnx.frontend.program import read_onnx
from fxprune.passes.analyse import analyse
from tests.onnx.models import images, outputs, residual


def found(model, method, batches):
    """Ranks by name."""
    program = read_onnx(model, None, batches)
    analysis = analyse(program.ir)
    layout = layout_of(analysis)
    ranks = onnx_importance(program, analysis, layout, method, program.feeds)
    return dict(zip(layout.names, np.split(ranks, np.cumsum(layout.sizes)[:-1]), strict=True))


@pytest.mark.parametrize("method", ["magnitude", "group_norm", *ON_FLOW, "saliency"])
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


def value_of(model, name, x):
    """An array between two nodes."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return outputs(model, x)


@pytest.mark.parametrize(
    ("method", "statistic"),
    [
        ("activation", lambda x: np.abs(x).mean(1)),
        ("wanda", lambda x: np.square(x).mean(1)),
        ("flap", lambda x: x.var(1, ddof=1)),
    ],
)
def test_a_channel_counts_by_what_its_reader_sees(method, statistic):
    """Against numpy: the channels inside of both blocks, which one convolution reads."""
    model, x = residual(), images(8)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    ranks = found(model, method, [x])
    readers = [
        n
        for n in model.graph.node
        if len(n.input) > 1 and weights.get(n.input[1], x).shape == (8, 12, 3, 3)
    ]
    inner = [own for own in ranks.values() if len(own) == 12]
    assert len(readers) == len(inner) == 2
    for node, own in zip(readers, inner, strict=True):
        hidden = value_of(model, node.input[0], x).astype(float)
        numbers = statistic(np.moveaxis(hidden, 1, 0).reshape(12, -1))
        if method != "activation":
            numbers = numbers * np.square(weights[node.input[1]].astype(float)).sum((0, 2, 3))
        assert own == pytest.approx(numbers / numbers.mean(), rel=1e-4)


@pytest.mark.parametrize("method", [m for m in ON_DATA if m != "saliency"])
def test_scores_do_not_depend_on_how_data_is_cut(method):
    model, x = residual(), images(8)
    one, uneven, all_at_once = (
        found(model, method, np.split(x, c)) for c in (range(1, 8), [5], [])
    )
    for name, own in all_at_once.items():
        assert one[name] == pytest.approx(own, rel=1e-4)
        assert uneven[name] == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("method", ON_DATA)
def test_depth_is_ranked_by_data(method):
    ranks = found(residual(), method, [images(4)])
    branches = [float(own[0]) for name, own in ranks.items() if name.endswith("+")]
    channels = np.concatenate([own for name, own in ranks.items() if not name.endswith("+")])
    assert len(branches) == 2
    assert np.mean(branches) == pytest.approx(1)
    assert (min(branches) < channels.max()) == (method != DEPTH or max(branches) < channels.min())


def test_a_function_of_ones_own_ranks():
    def own(group):
        return sum(reader.flow.absolute for reader in group.readers) if group.size == 12 else None

    left, right = (found(residual(), method, [images(4)]) for method in (own, "activation"))
    for name, ranks in left.items():
        if len(ranks) == 12:
            assert ranks == pytest.approx(right[name], rel=1e-9)
        elif not name.endswith("+"):
            assert ranks.max() <= max(own.max() for own in left.values() if len(own) == 12)


@pytest.mark.parametrize("method", ON_DATA)
def test_missing_data_is_told(method):
    with pytest.raises(fxprune.InputError, match=f'method="{method}" needs data'):
        fxprune.prune_onnx(residual(), method=method)
    with pytest.raises(fxprune.InputError, match="holds no batches"):
        fxprune.prune_onnx(residual(), method=method, data=[])


def test_there_are_no_gradients():
    with pytest.raises(fxprune.InputError, match="unknown method 'taylor'; known for ONNX models"):
        fxprune.prune_onnx(residual(), method="taylor", data=[images(2)])


@pytest.mark.parametrize("wrong", [lambda group: [1.0], lambda group: [np.nan] * group.size])
def test_what_a_function_must_not_return_is_told(wrong):
    with pytest.raises(fxprune.InputError, match="method <lambda> is 'returned"):
        fxprune.prune_onnx(residual(), method=wrong)
