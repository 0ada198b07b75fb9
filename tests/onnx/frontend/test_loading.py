"""Reading ONNX files: what arrives in which form, and what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from fxprune.errors import CheckpointError, InputError
from fxprune.onnx.backend.saving import save_onnx
from fxprune.onnx.frontend.loading import load_onnx
from tests.onnx.frontend import hostile as hostile_onnx

ROOT = Path(__file__).parents[3]

TINY = """
<ir_version: 8, opset_import: ["": 17, "f": 1]>
tiny (float[n, 3] x) => (float[n, 3] y) {
    s = Constant <value_float = 2.0> ()
    a = f.twice (x)
    y = Mul (a, s)
}
<domain: "f", opset_import: ["": 17]>
twice (a) => (b) {
    b = Add (a, a)
}
"""
UNSORTED = """
<ir_version: 8, opset_import: ["": 17]>
unsorted (float[n, 3] x) => (float[n, 3] y) {
    y = Relu (c)
    c = Add (b, x)
    b = Abs (a)
    a = Neg (x)
}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["": 17]>
branches (bool flag, float[2, 3] x) => (float[2, 3] y) {
    a = Abs (x)
    y = If (flag) <
        then_branch = then () => (float[2, 3] t) { t = Add (a, x) },
        else_branch = else () => (float[2, 3] e) {
            k = Constant <value_float = 3.0> ()
            e = Mul (a, k)
        }
    >
}
"""


def run(model: onnx_ir.Model, *values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, values, strict=True)))[0]


def operators(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def weighted(size: int = 3) -> onnx.ModelProto:
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    made = hostile_onnx.adding(numpy_helper.from_array(values))
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = size
    return made


# What is refused


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Every hostile file, loaded in a process with little memory."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.onnx.frontend.hostile", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr, "libraries below must not talk"
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", hostile_onnx.CASES)
def test_hostile_files_are_refused_with_a_reason_and_nothing_is_written(outcomes, name):
    kind, message, *written = outcomes[name]
    assert kind == "CheckpointError", message
    assert re.search(hostile_onnx.CASES[name][0], message), message
    assert len(message) < 1000
    assert not written


def test_a_runner_that_is_given_a_good_file_says_that_it_was_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(hostile_onnx.CASES, "good", ("", lambda folder: hostile_onnx.model()))
    assert hostile_onnx.outcome("good", tmp_path / "good" / "model") == ["", "it was loaded"]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_truncated_file_loads_as_nothing(tmp_path, cut):
    data = weighted(64).SerializeToString()
    with pytest.raises(CheckpointError):
        load_onnx(data[: len(data) * cut // 20])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.onnx", "there is no file missing.onnx"),
        (".", "is a folder: name the file in it"),
        (3, "is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, got int"),
    ],
)
def test_what_is_no_source_is_an_input_error(source, message):
    with pytest.raises(InputError, match=message):
        load_onnx(source)


# What arrives


def test_functions_are_written_out_and_constants_are_initialisers():
    model = load_onnx(parser.parse_model(TINY))
    assert operators(model) == ["Add", "Mul"]
    assert not model.functions
    assert list(model.graph.initializers) == ["s"]
    np.testing.assert_array_equal(run(model, np.ones((2, 3), np.float32)), 4 * np.ones((2, 3)))


def test_an_unsorted_graph_is_sorted():
    model = load_onnx(parser.parse_model(UNSORTED))
    assert operators(model) == ["Neg", "Abs", "Add", "Relu"]
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(run(model, x), [[0, 0, 4]])


def test_a_sorted_graph_keeps_its_order():
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"]) for i in range(20)]
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(20)], ["y"]))
    model = load_onnx(hostile_onnx.model(nodes))
    assert [node.outputs[0].name for node in model.graph] == [f"y{i}" for i in range(20)] + ["y"]


def test_subgraphs_see_the_values_around_them():
    model = load_onnx(parser.parse_model(BRANCHES))
    assert operators(model) == ["Abs", "If"]
    x = np.full((2, 3), -2, np.float32)
    np.testing.assert_array_equal(run(model, np.array(True), x), np.zeros((2, 3)))
    np.testing.assert_array_equal(run(model, np.array(False), x), np.full((2, 3), 6))


def test_inputs_with_a_value_are_constants():
    proto = weighted()
    proto.ir_version = 3  # such files list every initialiser as an input
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [2, 3]))
    model = load_onnx(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.ir_version >= 4
    np.testing.assert_array_equal(run(model, np.zeros((2, 3), np.float32)), [[0, 1, 2], [3, 4, 5]])


def test_files_stamped_with_the_newest_format_run():
    proto = weighted()
    proto.ir_version = onnx.IR_VERSION
    model = load_onnx(proto)
    np.testing.assert_array_equal(run(model, np.zeros((2, 3), np.float32)), [[0, 1, 2], [3, 4, 5]])


def test_a_size_of_minus_one_is_not_known():
    proto = hostile_onnx.model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    shape = load_onnx(proto).graph.inputs[0].shape
    assert not isinstance(shape[0], int)
    assert shape[1] == 3


def test_unknown_domains_of_operators_are_no_reason_to_refuse():
    proto = hostile_onnx.model([helper.make_node("Mystery", ["x"], ["y"], domain="elsewhere")])
    proto.opset_import.append(helper.make_opsetid("elsewhere", 7))
    assert operators(load_onnx(proto)) == ["Mystery"]


def test_the_default_domain_has_two_names():
    proto = hostile_onnx.model()
    proto.opset_import[0].domain = "ai.onnx"
    assert load_onnx(proto).opset_imports[""] == 17


@pytest.mark.parametrize("form", ["path", "text", "bytes", "proto", "model"])
def test_every_source_gives_the_same_and_stays_as_it_was(form, tmp_path):
    proto = parser.parse_model(TINY)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(proto.SerializeToString())
    source = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "proto": proto,
        "model": onnx_ir.from_proto(proto),
    }[form]
    model = load_onnx(source)
    assert operators(model) == ["Add", "Mul"]
    model.graph.initializers["s"].const_value.name = "renamed"
    assert proto == parser.parse_model(TINY)
    assert path.read_bytes() == proto.SerializeToString()
    if isinstance(source, onnx_ir.Model):
        assert onnx_ir.to_proto(source).SerializeToString(deterministic=True)
        assert operators(source) == ["Constant", "twice", "Mul"]


@pytest.mark.parametrize("given", ["absolute", "relative"])
def test_external_data_is_found_beside_the_model(given, tmp_path, monkeypatch):
    onnx.save_model(
        weighted(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d"
    )
    monkeypatch.chdir(tmp_path)
    model = load_onnx(tmp_path / "m.onnx" if given == "absolute" else "m.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(
        run(load_onnx(save_onnx(model, tmp_path / "one.onnx")), np.zeros((2, 3), np.float32)),
        [[0, 1, 2], [3, 4, 5]],
    )


def test_four_gigabytes_of_external_data_are_not_read(tmp_path):
    """A file with a hole in it: no disk space, and no memory either."""
    size = 2**30
    with open(tmp_path / "data", "wb") as file:
        file.truncate(4 * size)
    proto = hostile_onnx.external("data", length=4 * size)
    proto.graph.initializer[0].dims[:] = [2, size // 2]
    (tmp_path / "big.onnx").write_bytes(proto.SerializeToString())
    code = (
        "import re, sys\n"
        "from fxprune.onnx.frontend.loading import load_onnx\n"
        "model = load_onnx(sys.argv[1])\n"
        "array = model.graph.initializers['w'].const_value.numpy()\n"
        "assert array.shape == (2, 2**29) and array[1, -1] == 0\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "big.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000, "kilobytes"
