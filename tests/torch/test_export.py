"""One ONNX file that ONNX Runtime agrees with."""

import os
from pathlib import Path

import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.testing.torch.checkers import count_macs
from tests.torch.gated import EXACT, folded_at_half, params
from tests.torch.models import Auxiliary, Residual, images, plain, randomise


def test_export_is_one_file_that_onnx_runtime_agrees_with(exported):
    gated, folded, path = exported
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    verdict = fxprune.verify(gated, folded, path, inputs=[images(7)], batch_sizes=(1, 4))
    seen = {(item.what, item.batch, item.dtype) for item in verdict.comparisons}
    assert {("folded == onnxruntime", batch, "float32") for batch in (1, 4, 7)} <= seen
    assert {("gated == folded", batch, "float64") for batch in (1, 4, 7)} <= seen
    assert verdict.worst["gated == folded float64"] <= EXACT
    assert verdict.worst["folded == onnxruntime float32"] <= 1e-4


def test_exported_file_tells_our_figures(exported):
    _, folded, path = exported
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    before = randomise(Residual())
    assert properties["fxprune_version"] == fxprune.__version__
    assert properties["fxprune_source"] == "Residual"
    assert properties["fxprune_params"] == str(params(folded))
    assert properties["fxprune_params_before"] == str(params(before))
    assert properties["fxprune_macs"] == str(count_macs(folded.eval(), [images(1)]))
    assert properties["fxprune_macs_before"] == str(count_macs(before.eval(), [images(1)]))
    assert float(properties["fxprune_targets"].partition(":")[2].strip("} ")) > 1


def local_names() -> list[bytes]:
    """What would give this machine away."""
    names = [os.getcwd(), str(Path(__file__).parent), str(Path.home()), "site-packages"]
    names += [Path(torch.__file__).parent.as_posix(), __file__]
    return [name.encode() for name in names if len(name) > 4]


def test_exported_file_has_no_paths_of_this_machine(exported):
    data = exported[2].read_bytes()
    for name in local_names():
        assert name not in data, name
    assert b".py" not in data


def test_search_for_local_paths_finds_those_of_torch(tmp_path):
    path = tmp_path / "plain.onnx"
    program = torch.onnx.export(plain().eval(), (images(2),), dynamo=True, verbose=False)
    program.save(path)
    data = path.read_bytes()
    assert any(name in data for name in local_names())


def test_exported_batch_is_dynamic(exported):
    model = onnx.load(exported[2])
    shape = model.graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param
    assert [dim.dim_value for dim in shape.dim][1:] == [3, 8, 8]
    onnx.checker.check_model(model, full_check=True)


def test_plain_models_are_exported_too(tmp_path):
    model = randomise(Residual()).eval()
    with assert_unchanged(model):
        path = fxprune.export_onnx(model, tmp_path / "plain.onnx", images(1))
    assert path.stat().st_size > 4 * params(model)


def test_what_torch_cannot_export_is_said_in_its_own_words(tmp_path, monkeypatch):
    def failing(*_: object, **__: object) -> None:
        try:
            raise AssertionError("only 4D query")
        except AssertionError as error:
            raise RuntimeError("much advice") from error

    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(fxprune.FxpruneError, match="cannot express this model: only 4D query"):
        fxprune.export_onnx(nn.Linear(3, 2), tmp_path / "model.onnx", torch.randn(2, 3))
    assert not list(tmp_path.iterdir())


def test_model_in_training_is_exported_as_it_evaluates(tmp_path):
    _, folded = folded_at_half(randomise(Auxiliary()))
    path = fxprune.export_onnx(folded.train(), tmp_path / "auxiliary.onnx")
    assert folded.training
    assert len(onnx.load(path).graph.output) == 1


def test_gated_model_is_not_exported(gated, tmp_path):
    with (
        assert_unchanged(gated),
        pytest.raises(fxprune.InputError, match=r"export fxprune\.fold\(gated\)"),
    ):
        fxprune.export_onnx(gated, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_export_into_a_missing_folder_is_refused(gated, tmp_path):
    with pytest.raises(fxprune.InputError, match=r"there is no folder .*missing"):
        fxprune.export_onnx(fxprune.fold(gated), tmp_path / "missing" / "model.onnx")


def test_export_over_a_folder_is_refused(gated, tmp_path):
    with pytest.raises(fxprune.InputError, match="it is a folder"):
        fxprune.export_onnx(fxprune.fold(gated), tmp_path)
    assert not list(tmp_path.iterdir())


# Axes of any size -------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Tags words by a mean over the sequence; as long as one likes, to 64."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 12), nn.Embedding(64, 12)
        self.wide, self.narrow, self.head = nn.Linear(12, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.narrow(torch.relu(self.wide(x)))
        x = x if mask is None else x * mask[..., None]
        return self.head(x - x.mean(1, keepdim=True))


IDS = torch.randint(0, 2, (2, 9), generator=torch.Generator().manual_seed(0))


def tagger(*inputs: Tensor) -> nn.Module:
    gated = fxprune.prepare(Tagger().eval(), inputs)
    fxprune.reach_target(gated, fxprune.importance(gated))
    return fxprune.fold(gated).eval()


def test_a_dynamic_axis_runs_at_every_length(tmp_path):
    folded = tagger(IDS)
    path = fxprune.export_onnx(folded, tmp_path / "a.onnx", dynamic={"ids": {1: "length"}})
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param for dim in shape.dim] == ["batch", "length"]
    for size in ((1, 3), (4, 31)):
        ids = torch.randint(0, 20, size)
        (found,) = InferenceSession(path).run(None, {"ids": ids.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), folded(ids), rtol=1e-4, atol=1e-4)


def test_axes_of_one_name_go_together(tmp_path):
    axes = {"ids": {1: "length"}, "mask": {1: "length"}}
    path = fxprune.export_onnx(tagger(IDS, IDS.float()), tmp_path / "a.onnx", dynamic=axes)
    shapes = [value.type.tensor_type.shape for value in onnx.load(path).graph.input]
    assert [shape.dim[1].dim_param for shape in shapes] == ["length", "length"]


BAD_AXES = {
    "no mapping": ([1], "dynamic"),
    "another argument": ({"id": {1: "length"}}, "no example of an argument 'id'"),
    "an axis too many": ({"ids": {2: "length"}}, "a number from 1 to 1"),
    "the batch": ({"ids": {0: "length"}}, "a number from 1 to 1"),
    "no name": ({"ids": {1: 3}}, "a name for the axis"),
    "two sizes": ({"ids": {1: "n"}, "mask": {1: "n"}}, "axes of 9 and of 4 positions"),
}


@pytest.mark.parametrize(("dynamic", "match"), BAD_AXES.values(), ids=BAD_AXES)
def test_bad_dynamic_axes_are_refused(dynamic, match, tmp_path):
    examples = (IDS, torch.ones(2, 4))
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.export_onnx(Tagger(), tmp_path / "a.onnx", examples, dynamic=dynamic)
    assert not list(tmp_path.iterdir())


def test_model_that_has_one_size_only_is_not_exported_for_others(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    with pytest.raises(fxprune.FxpruneError):
        fxprune.export_onnx(model, tmp_path / "a.onnx", images(2), dynamic={"input": {2: "height"}})
    assert not list(tmp_path.iterdir())
