"""Writing ONNX files: whole or not at all, in one file or two, without traces."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import parser

from fxprune.errors import InputError, InternalError
from fxprune.onnx.backend import saving as onnx_saving
from fxprune.onnx.backend.saving import save_onnx

MODEL = """
<ir_version: 10, opset_import: ["": 17]>
m (float[2, 300] x) => (float[2, 300] y)
<float[1, 300] w = {0}>
{
    a = Add (x, w)
    y = Relu (a)
}
"""


@pytest.fixture
def model() -> onnx_ir.Model:
    proto = parser.parse_model(MODEL.replace("{0}", "{" + ", ".join(map(str, range(300))) + "}"))
    proto.doc_string = proto.graph.doc_string = "made in /home/someone"
    proto.graph.node[0].doc_string = "File /home/someone/model.py, line 3"
    proto.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/model.py")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [2, 300]))
    proto.graph.value_info[-1].metadata_props.add(key="where", value="/home/someone/model.py")
    proto.metadata_props.add(key="labels", value="cat,dog")
    return onnx_ir.from_proto(proto)


def output(path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"x": np.ones((2, 300), np.float32)})[0]


EXPECTED = np.tile(np.arange(300, dtype=np.float32) + 1, (2, 1))


def test_one_file_without_traces_that_runs(model, tmp_path):
    path = save_onnx(model, tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert b"/home/" not in path.read_bytes()
    assert {p.key: p.value for p in onnx.load(path).metadata_props} == {"labels": "cat,dog"}
    np.testing.assert_array_equal(output(path), EXPECTED)


def test_the_model_is_not_changed(model, tmp_path):
    before = onnx_ir.to_proto(model)
    save_onnx(model, tmp_path / "m.onnx")
    assert onnx_ir.to_proto(model) == before


def test_large_weights_lie_beside_the_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_saving, "_ONE_FILE_BYTES", 1000)
    path = save_onnx(model, tmp_path / "m.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    np.testing.assert_array_equal(output(path), EXPECTED)


def test_a_model_can_be_saved_over_its_own_external_data(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_saving, "_ONE_FILE_BYTES", 1000)
    path = save_onnx(model, tmp_path / "m.onnx")
    save_onnx(onnx_ir.load(path), path, overwrite=True)
    np.testing.assert_array_equal(output(path), EXPECTED)


def test_what_is_not_valid_is_not_written(model, tmp_path):
    (tmp_path / "m.onnx").write_text("the old one")
    model.graph[1].op_type = "Cat"  # there is no such operator
    with pytest.raises(InternalError, match="Cat"):
        save_onnx(model, tmp_path / "m.onnx", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "the old one"


def test_outputs_without_a_shape_stay_so(model, tmp_path):
    model.graph.outputs[0].shape = None
    path = save_onnx(model, tmp_path / "m.onnx")
    (found,) = onnx.load(path).graph.output
    assert not found.type.tensor_type.HasField("shape")
    model.graph.node(-1).op_type = "Cat"
    with pytest.raises(InternalError, match="Cat"):
        save_onnx(model, tmp_path / "n.onnx")


def test_places_that_cannot_hold_a_file_are_input_errors(model, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        save_onnx(model, tmp_path / "missing" / "m.onnx")
    with pytest.raises(InputError, match="it is a folder; name a file in it"):
        save_onnx(model, tmp_path)
    tmp_path.chmod(0o500)
    try:
        (tmp_path / "probe").touch()
    except OSError:
        with pytest.raises(InputError, match="cannot write in"):
            save_onnx(model, tmp_path / "m.onnx")
    finally:
        tmp_path.chmod(0o700)
