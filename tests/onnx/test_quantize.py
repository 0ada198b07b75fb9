"""Quantised files: how small, how close, and never one that does not work."""

import logging
from pathlib import Path

import hypothesis.extra.numpy
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import fxprune
from fxprune.errors import InputError, VerificationError
from fxprune.onnx import quantize as quantization
from fxprune.onnx.compact import expanded, palette
from fxprune.onnx.frontend.loading import load_onnx


def network(opset: int = 17) -> onnx.ModelProto:
    """Convolution, batch norm, convolution, mean over pixels, linear: [n, 3, 8, 8] -> [n, 5]."""
    rng = np.random.default_rng(0)
    shapes = {"a": (32, 3, 3, 3), "b": (64, 32, 3, 3), "c": (5, 64), "d": (5,)}
    arrays = {name: rng.normal(0, 0.2, shape) for name, shape in shapes.items()}
    arrays |= {name: rng.uniform(0.5, 1.5, 32) for name in ("scale", "shift", "mean", "variance")}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["1", "scale", "shift", "mean", "variance"], ["2"]),
        helper.make_node("Relu", ["2"], ["3"]),
        helper.make_node("Conv", ["3", "b"], ["4"]),
        helper.make_node("Relu", ["4"], ["5"]),
        helper.make_node("GlobalAveragePool", ["5"], ["6"]),
        helper.make_node("Flatten", ["6"], ["7"]),
        helper.make_node("Gemm", ["7", "c", "d"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value.astype(np.float32), k) for k, value in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset > 9 else 4)


def samples(number: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(8, 3, 8, 8)).astype(np.float32) for _ in range(number)]


def outputs(model: onnx.ModelProto | str, x: np.ndarray) -> np.ndarray:
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return onnxruntime.InferenceSession(source).run(None, {"x": x})[0]


@pytest.mark.parametrize("calibration", [None, samples()], ids=["dynamic", "static"])
def test_a_quantised_file_is_small_and_close(calibration, tmp_path):
    proto = network()
    found = fxprune.quantize(proto, tmp_path / "small.onnx", calibration=calibration)
    assert proto == network()
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    assert found.bytes_after == found.path.stat().st_size
    assert found.size_ratio < 0.35
    assert found.scheme == ("dynamic" if calibration is None else "static")
    x = np.random.default_rng(2).normal(size=(64, 3, 8, 8)).astype(np.float32)
    expected, got = outputs(proto, x), outputs(str(found.path), x)
    error = np.sqrt(np.square(expected - got).mean() / np.square(expected).mean())
    assert 0 < error < 0.1
    assert found.error == pytest.approx(error, rel=1)
    assert found.agreement > 0.9
    assert (expected.argmax(1) == got.argmax(1)).mean() > 0.9


def test_weights_have_a_scale_per_channel_and_batch_norms_are_folded(tmp_path):
    path = fxprune.quantize(network(), tmp_path / "q.onnx", calibration=samples()).path
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    weights = [
        (stored[node.input[0]], stored[node.input[1]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    scales = {tuple(weight.dims): tuple(scale.dims) for weight, scale in weights}
    assert scales[32, 3, 3, 3] == (32,)
    assert scales[64, 32, 3, 3] == (64,)
    assert {w.data_type for w, _ in weights if len(w.dims) > 1} == {TensorProto.INT8}


def test_old_operators_are_converted(tmp_path):
    found = fxprune.quantize(network(opset=9), tmp_path / "q.onnx", calibration=samples())
    assert found.agreement > 0.9
    assert load_onnx(found.path).opset_imports[""] >= 13


def test_biases_of_one_row_are_quantised(tmp_path):
    proto = network()
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "d")
    bias.dims[:] = [1, 5]  # as exporters of Keras and scikit-learn write them
    found = fxprune.quantize(proto, tmp_path / "q.onnx", calibration=samples())
    assert found.agreement > 0.9


def test_calibration_from_a_file(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.concatenate(samples()))
    found = fxprune.quantize(
        onnx_ir.from_proto(network()), tmp_path / "q.onnx", calibration=tmp_path / "data.npz"
    )
    assert found.samples == 32
    assert found.agreement > 0.9


def test_nothing_is_said_and_logging_stays_as_it_was(tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    fxprune.quantize(network(), tmp_path / "q.onnx", calibration=samples())
    fxprune.quantize(network(), tmp_path / "d.onnx")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    logging.getLogger("probe").warning("still heard")
    assert [record.message for record in caplog.records] == ["still heard"]


def test_a_summary_in_one_line(tmp_path):
    found = fxprune.quantize(network(), tmp_path / "q.onnx", calibration=samples())
    assert str(found).startswith("q.onnx: static 8-bit, 0.02 MB, 0.28 of 0.08 MB; the ")
    assert "of 32 samples, relative error" in str(found)


def sabotaged(before, after, *_):
    """A quantiser that forgets the sign of a weight."""
    model = onnx.load(before)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "c")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "c"))
    onnx.save(model, after)


def broken(before, after, *_):
    """A quantiser that leaves what is no number."""
    model = onnx.load(before)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "d")
    weight.CopyFrom(numpy_helper.from_array(np.full(5, np.nan, np.float32), "d"))
    onnx.save(model, after)


@pytest.mark.parametrize(
    ("quantiser", "message"),
    [
        (sabotaged, "computes something else: relative error"),
        (broken, "values that are not finite"),
    ],
)
def test_a_file_that_computes_something_else_is_not_written(
    quantiser, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantization, "_quantize_static", quantiser)
    (tmp_path / "q.onnx").write_text("the old one")
    with pytest.raises(VerificationError, match=message):
        fxprune.quantize(network(), tmp_path / "q.onnx", calibration=samples(), overwrite=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the old one"]


def with_output(op_type: str, *inputs: str) -> onnx.ModelProto:
    """The network with a second output."""
    proto = network()
    proto.graph.node.append(helper.make_node(op_type, inputs, ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return proto


def test_every_output_is_compared(tmp_path, monkeypatch):
    def spoiled(before: Path, after: Path, feeds: object) -> None:
        model = onnx.load(before)
        model.graph.node[-1].op_type = "Neg"
        onnx.save(model, after)

    monkeypatch.setattr(quantization, "_quantize_static", spoiled)
    proto = with_output("Identity", "y")
    with pytest.raises(VerificationError, match="computes something else"):
        fxprune.quantize(proto, tmp_path / "q.onnx", calibration=samples())


@pytest.mark.parametrize("calibration", [None, samples(), samples(1)])
def test_a_model_whose_outputs_never_move_is_not_written(calibration, tmp_path):
    proto = network()
    proto.graph.node[-1].output[0] = "q"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(-1e9), "far"))
    proto.graph.node.append(helper.make_node("Add", ["q", "far"], ["p"]))
    proto.graph.node.append(helper.make_node("Relu", ["p"], ["y"]))
    with pytest.raises(VerificationError, match="nothing was shown"):
        fxprune.quantize(proto, tmp_path / "q.onnx", calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_values_that_are_infinite_in_both_agree(tmp_path):
    proto = network()
    mask = np.array([0, -np.inf, 0, 0, 0], np.float32)
    proto.graph.node[-1].output[0] = "q"
    proto.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    proto.graph.node.append(helper.make_node("Add", ["q", "mask"], ["y"]))
    assert 0 < fxprune.quantize(proto, tmp_path / "q.onnx").error < 0.5


def test_what_is_quantised_is_not_quantised_again(tmp_path):
    path = fxprune.quantize(network(), tmp_path / "q.onnx", calibration=samples()).path
    with pytest.raises(InputError, match="the model is quantised already: it has"):
        fxprune.quantize(path, tmp_path / "again.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": []}, "calibration holds no batches"),
        ({"calibration": [np.zeros((2, 3, 9, 9))]}, "but the model takes"),
        ({"output": "no/such/folder/q.onnx"}, "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(arguments, message, tmp_path):
    output = tmp_path / arguments.pop("output", "q.onnx")
    with pytest.raises(InputError, match=message):
        fxprune.quantize(network(), output, **arguments)
    assert not list(tmp_path.iterdir())


def test_shapes_of_random_inputs_can_be_given(tmp_path):
    proto = network()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    found = fxprune.quantize(proto, tmp_path / "q.onnx", shapes={"x": (6, 3, 12, 8)})
    assert found.samples == 6


# Weights alone in few bits


@pytest.mark.parametrize(
    ("options", "ratio", "error", "said"),
    [
        ({"bits": 4}, 0.17, 0.2, "4-bit weights"),
        ({"form": "palette", "bits": 8}, 0.32, 0.01, "palettes of 256"),
        ({"form": "palette", "bits": 4}, 0.17, 0.2, "palettes of 16"),
        ({"form": "palette", "bits": 3}, 0.17, 0.25, "palettes of 8"),
    ],
)
def test_weights_in_few_bits_are_small_close_and_pruned_further(
    options, ratio, error, said, tmp_path
):
    proto = network()
    found = fxprune.quantize(proto, tmp_path / "q.onnx", calibration=samples(), **options)
    assert proto == network()
    assert found.size_ratio < ratio
    assert 0 < found.error < error
    assert said in str(found)
    x = samples(1)[0]
    compact, original = outputs(str(found.path), x), outputs(network(), x)
    assert np.square(compact - original).mean() < error**2 * np.square(original).mean() * 2
    small = fxprune.prune_onnx(found.path, tmp_path / "s.onnx", target={"bytes": 0.5})
    assert small.costs_after["bytes"] <= 0.5 * small.costs_before["bytes"]
    kinds = {v.const_value.dtype.name for v in small.model.graph.initializers.values()}
    assert kinds & {"INT4", "UINT4", "UINT8"}
    assert small.verdict.comparisons


def test_what_was_pruned_is_stored_in_few_bits(tmp_path):
    small = fxprune.prune_onnx(network(), target=0.5).model
    both = fxprune.quantize(small, tmp_path / "small.onnx", bits=4, calibration=samples())
    alone = fxprune.quantize(network(), tmp_path / "whole.onnx", bits=4, calibration=samples())
    assert both.bytes_after < 0.75 * alone.bytes_after


@pytest.mark.parametrize("options", [{"bits": 4}, {"form": "palette", "bits": 4}, {}])
def test_norms_are_those_of_the_weights_that_stored_numbers_stand_for(options, tmp_path):
    """Steps of a channel with a large scale count for more than their numbers say."""
    proto = network()
    (loud,) = (t for t in proto.graph.initializer if t.name == "a")
    factors = np.where(np.arange(32) < 16, 0.1, 3.0)[:, None, None, None]
    array = (numpy_helper.to_array(loud) * factors).astype(np.float32)
    loud.CopyFrom(numpy_helper.from_array(array, "a"))
    path = fxprune.quantize(proto, tmp_path / "q.onnx", calibration=samples(), **options).path
    keep = fxprune.prune_onnx(path, target=0.6, method="magnitude").keep_set
    (flags,) = (own for own in keep.values() if len(own) == 32)
    assert sum(flags[16:]) > sum(flags[:16])


def matrix(inputs: int = 64) -> onnx.ModelProto:
    array = np.random.default_rng(0).normal(size=(inputs, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matrix",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_matrices_have_a_scale_per_block_and_become_one_operator(tmp_path):
    path = fxprune.quantize(matrix(), tmp_path / "q.onnx", bits=4).path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options)
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    assert [node.op_type for node in optimised.graph.node] == ["MatMulNBits"]
    pins = {group.pin for group in fxprune.inspect_onnx(path).groups}
    assert any("blocks" in pin for pin in pins)  # why prune_onnx leaves them alone


@pytest.mark.parametrize(("bits", "form"), [(4, "integers"), (2, "palette"), (5, "palette")])
def test_stored_numbers_stand_for_what_the_runtime_computes(bits, form, tmp_path):
    eye = np.eye(64, dtype=np.float32)
    for inputs in (64, 20):
        path = tmp_path / f"{inputs}.onnx"
        fxprune.quantize(matrix(inputs), path, bits=bits, form=form)
        stored = load_onnx(path).graph.initializers
        (value,) = (v for n, v in stored.items() if n in ("w_q", "w_index"))
        session = onnxruntime.InferenceSession(path)
        computed = session.run(None, {"x": eye[:inputs, :inputs]})[0]
        assert np.allclose(expanded(value), computed, atol=1e-5)


@settings(max_examples=20)
@given(
    hypothesis.extra.numpy.arrays(np.float64, st.integers(1, 300), elements=st.floats(-9, 9)),
    st.integers(1, 8),
)
def test_palettes_have_the_nearest_value_for_every_weight(array, bits):
    codebook, places = palette(array, 2**bits)
    assert len(codebook) <= 2**bits and places.shape == array.shape
    off = np.abs(codebook[places] - array)
    nearest = np.abs(codebook[:, None] - array).min(axis=0)
    assert np.allclose(off, nearest, atol=0.01)  # members move the values that they are nearest to
    assert off.max(initial=0) <= np.ptp(array) + 1e-9


@pytest.mark.parametrize("options", [{"bits": 4}, {"form": "palette"}])
def test_weights_that_are_no_numbers_are_named(options, tmp_path):
    proto = network()
    for tensor in proto.graph.initializer:
        if tensor.name == "b":
            array = numpy_helper.to_array(tensor).copy()
            array[0, 0, 0, 0] = np.inf
            tensor.CopyFrom(numpy_helper.from_array(array, "b"))
    proto.graph.node.append(helper.make_node("Identity", ["1"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    with pytest.raises(InputError, match="b holds NaN or infinite weights"):
        fxprune.quantize(proto, tmp_path / "q.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_without_such_weights_says_so(tmp_path):
    with pytest.raises(InputError, match="no weights that would take less"):
        fxprune.quantize(matrix(1), tmp_path / "q.onnx", form="palette", bits=8)
    assert not list(tmp_path.iterdir())
