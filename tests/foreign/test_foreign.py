"""The command over foreign files: what it finds, and that it can find fault."""

import onnx
import pytest
from onnx import parser

import fxprune
from tests.foreign import __main__ as foreign
from tests.foreign.collecting import _once
from tests.foreign.light_models import light_models, with_weights

NOTHING = """
<ir_version: 8, opset_import: ["": 17]>
nothing (float[n, 3] x) => (float[n, 3] y) {
    y = Relu (x)
}
"""


@pytest.fixture
def squeezenet(tmp_path):
    light = next(path for path in light_models() if "squeezenet" in path.name)
    path = tmp_path / "squeezenet.onnx"
    onnx.save(with_weights(light), path)
    return path


def test_light_models_get_weights(squeezenet):
    model = onnx.load(squeezenet)
    assert "ConstantOfShape" not in {node.op_type for node in model.graph.node}
    assert squeezenet.stat().st_size > 4e6


def test_a_file_is_pruned_and_verified(squeezenet):
    row = foreign.check(squeezenet)
    assert (row.status, row.reason) == ("ok", "")
    assert 0.45 < row.macs <= 0.5
    assert 0 < row.error <= row.accepted
    assert row.free_groups == 25  # as in torchvision
    assert row.bytes < 0.7
    assert set(row.pinned) == {"network input", "compared or mixed along in softmaxout_1 (along)"}


def test_what_is_pinned_whole_is_no_failure(tmp_path):
    path = tmp_path / "nothing.onnx"
    onnx.save(parser.parse_model(NOTHING), path)
    row = foreign.check(path)
    assert row.status == "nothing to prune"
    assert row.reason.startswith("nothing can be pruned")


def test_a_file_that_is_no_model_fails(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    row = foreign.in_a_process(path)
    assert row.status == "failed"
    assert "broken.onnx" in row.reason


def test_wrong_files_are_found_and_end_the_command_with_1(squeezenet, monkeypatch, capsys):
    def wrong(*_, **__):
        raise fxprune.VerificationError("y: relative error 3")

    monkeypatch.setattr(fxprune, "prune_onnx", wrong, raising=False)
    monkeypatch.setattr(foreign, "in_a_process", foreign.check)
    monkeypatch.setattr(foreign, "collect", lambda folder: [squeezenet])
    monkeypatch.setattr("sys.argv", ["foreign"])
    assert foreign.main() == 1
    assert "{'wrong': 1}" in capsys.readouterr().out


def test_a_collection_that_breaks_off_leaves_nothing(tmp_path):
    def breaks(folder):
        (folder / "half.onnx").touch()
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError):
        _once(tmp_path / "files", breaks)
    assert not list(tmp_path.iterdir())
