"""ONNX files are pruned where torch is not installed, and torch verbs say what they need.

`python tests/test_without_torch.py` does the same with whatever is installed; .ci/run calls it in a
fresh environment that has nothing but `fxprune[onnx]`.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What the extra "onnx" does not bring along.
ELSEWHERE = {
    "torch",
    "torchvision",
    "safetensors",
    "onnxscript",
    "scipy",
    "sklearn",
    "PIL",
    "matplotlib",
}


def block(names: set[str]) -> None:
    """Make modules look as if they were not installed."""

    class Blocker:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker)


def small_network(path: Path) -> Path:
    """Two convolutions and a linear layer, written by onnx alone."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"a": (16, 3, 3, 3), "b": (16,), "c": (24, 16, 3, 3), "d": (24, 10)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a", "b"], ["1"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["1"], ["2"]),
            helper.make_node("Conv", ["2", "c"], ["3"]),
            helper.make_node("GlobalAveragePool", ["3"], ["4"]),
            helper.make_node("Flatten", ["4"], ["5"]),
            helper.make_node("MatMul", ["5", "d"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def prune_without_torch(folder: Path) -> None:
    """Everything that ONNX files can have done to them."""
    import fxprune

    before, after = small_network(folder / "before.onnx"), folder / "after.onnx"
    assert len(fxprune.inspect_onnx(before).free_groups) == 2
    result = fxprune.prune_onnx(before, after, target=0.5)
    assert 0.3 < result.costs_after["macs"] / result.costs_before["macs"] <= 0.5
    assert after.stat().st_size < before.stat().st_size
    again = fxprune.fold_onnx(before, result.keep_set)
    assert fxprune.verify_onnx(after, again.model).comparisons
    assert fxprune.quantize(after, folder / "small.onnx").agreement > 0.5
    assert not ELSEWHERE & set(sys.modules), sorted(ELSEWHERE & set(sys.modules))
    try:
        fxprune.prepare  # noqa: B018
    except fxprune.MissingExtraError as error:
        assert str(error) == 'fxprune.prepare needs torch: pip install "fxprune[torch]"'
        assert isinstance(error, ImportError)
    else:
        raise AssertionError("torch is installed")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Python in the repository, where imports can be blocked without harm to other tests."""
    command = [sys.executable, "-c", f"from tests import test_without_torch as t\n{code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_files_are_pruned_where_torch_is_not_installed(tmp_path):
    done = run(f"t.block(t.ELSEWHERE); t.prune_without_torch(t.Path({str(tmp_path)!r}))")
    assert done.returncode == 0, done.stderr


def test_random_models_are_drawn_where_torch_is_not_installed():
    done = run(
        "t.block(t.ELSEWHERE)\n"
        "from hypothesis import find\n"
        "from fxprune.testing import keep_sets, onnx_models\n"
        "import fxprune\n"
        "model = find(onnx_models(), lambda model: True)\n"
        "keep = find(keep_sets(fxprune.inspect_onnx(model.proto)), lambda keep: True)\n"
        "assert fxprune.fold_onnx(model.proto, keep).verdict.comparisons"
    )
    assert done.returncode == 0, done.stderr


def test_the_check_finds_torch_where_it_is_installed(tmp_path):
    done = run(f"t.prune_without_torch(t.Path({str(tmp_path)!r}))")
    assert "AssertionError: torch is installed" in done.stderr


def test_onnx_verbs_name_their_extra():
    done = run("t.block({'onnx_ir'}); import fxprune; fxprune.prune_onnx")
    message = 'MissingExtraError: fxprune.prune_onnx needs onnx_ir: pip install "fxprune[onnx]"'
    assert message in done.stderr


def test_what_no_extra_installs_is_an_import_error():
    done = run("t.block({'networkx'}); import fxprune; fxprune.prune_onnx")
    assert "ModuleNotFoundError: No module named 'networkx'" in done.stderr


if __name__ == "__main__":
    missing = {name for name in ELSEWHERE if importlib.util.find_spec(name) is None}
    assert missing == ELSEWHERE, f"this environment has more: {sorted(ELSEWHERE - missing)}"
    with tempfile.TemporaryDirectory() as folder:
        prune_without_torch(Path(folder))
    print("ONNX files are pruned without torch")
