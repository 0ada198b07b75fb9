"""A damaged or foreign checkpoint is refused, and the model stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.torch.shards import WEIGHTS
from fxprune.torch.storage import DESCRIPTION
from tests.torch.models import Residual, images, plain, randomise


@pytest.fixture
def checkpoint(gated, tmp_path) -> Path:
    fxprune.set_keep_set(gated, {"stem.0": [True, False] * 4})
    return fxprune.save(fxprune.fold(gated), tmp_path / "checkpoint")


def does_not_load(checkpoint: Path, match: str, model: nn.Module | None = None) -> None:
    model = randomise(Residual(), seed=7) if model is None else model
    with assert_unchanged(model), pytest.raises(fxprune.CheckpointError, match=match):
        fxprune.load(checkpoint, model)


def rewrite(checkpoint: Path, change: Any) -> None:
    """Write the checkpoint anew after `change(description, tensors)`."""
    with safe_open(checkpoint / WEIGHTS, framework="pt") as file:
        description = json.loads(file.metadata()["fxprune"])
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description, tensors)
    save_file(tensors, checkpoint / WEIGHTS, {"fxprune": json.dumps(description)})


def test_rewritten_checkpoint_loads_if_nothing_changed(checkpoint):
    rewrite(checkpoint, lambda description, tensors: None)
    assert fxprune.load(checkpoint, Residual())(images()).shape == (2, 5)


def test_missing_checkpoint_is_refused(tmp_path):
    does_not_load(tmp_path / "nowhere", r"there is no checkpoint at .*nowhere.model\.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_checkpoint_is_refused(checkpoint, share):
    file = checkpoint / WEIGHTS
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    does_not_load(checkpoint, "is damaged or not a safetensors file")


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip file", b"\x00" * 64, b"{}" * 100])
def test_foreign_file_is_refused(checkpoint, content):
    (checkpoint / WEIGHTS).write_bytes(content)
    does_not_load(checkpoint, "is damaged or not a safetensors file")


def test_safetensors_file_of_another_program_is_refused(checkpoint):
    save_file({"weight": torch.ones(3)}, checkpoint / WEIGHTS)
    does_not_load(checkpoint, r"was not written by fxprune\.save")


def test_description_that_is_not_json_is_refused(checkpoint):
    save_file({"weight": torch.ones(3)}, checkpoint / WEIGHTS, {"fxprune": "{"})
    does_not_load(checkpoint, "is not JSON")


def _without(name):
    def change(description, tensors):
        del description[name]

    return change


EDITS = {
    "format": (lambda d, t: d.update(format=99), "a format that this fxprune does not know"),
    "list": (lambda d, t: d.update(history="none"), "lacks 'history'"),
    "no history": (_without("history"), "lacks 'history'"),
    "no examples": (_without("examples"), "lacks 'examples'"),
    "empty history": (lambda d, t: d.update(history=[]), "has an empty history"),
    "step": (lambda d, t: d.update(history=[3]), "malformed keep-set"),
    "text": (lambda d, t: d["history"][0]["kept"].update(head="all"), "malformed keep-set"),
    "shape": (lambda d, t: d["examples"][0][0].update(shape="big"), "malformed example input"),
    "dtype": (lambda d, t: d["examples"][0][0].update(dtype="float99"), "malformed example input"),
    "name": (
        lambda d, t: d["history"][0]["kept"].update(nope=[0]),
        "belongs to another model than this Residual .* no group 'nope'",
    ),
    "index": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [99]}), "no group 'stem.0'"),
    "negative": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [-1]}), "stem.0"),
    "empty": (lambda d, t: d["history"][0]["kept"].update({"stem.0": []}), "stem.0 keeps nothing"),
    "fewer": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [0]}), "does not fit"),
    "alias": (lambda d, t: d.update(aliases={"head.bias": "nope"}), "lacks the tensor nope"),
    "tensor": (lambda d, t: t.pop("head.bias"), "does not fit this Residual"),
    "extra": (lambda d, t: t.update(nope=torch.ones(2)), "does not fit this Residual"),
    "size": (lambda d, t: t.update({"head.bias": torch.ones(6)}), "does not fit this Residual"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_checkpoint_is_refused(checkpoint, edit):
    change, match = EDITS[edit]
    rewrite(checkpoint, change)
    does_not_load(checkpoint, match)


def test_description_for_people_is_not_needed(checkpoint):
    (checkpoint / DESCRIPTION).write_text("edited by hand")
    assert fxprune.load(checkpoint, Residual())(images()).shape == (2, 5)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (plain(), r"another model than this Sequential \(it was made from Residual\)"),
        (Residual(width=6), r"another model than this Residual .*'stem\.0'"),
        (Residual(width=9), r"made from a Residual with \d+ macs, this one has \d+"),
    ],
)
def test_checkpoint_of_another_constructor_is_refused(checkpoint, model, match):
    does_not_load(checkpoint, match, model)


def test_checkpoint_is_not_loaded_onto_what_is_no_model_as_constructed(checkpoint, gated):
    with pytest.raises(fxprune.InputError, match="is gated already"):
        fxprune.load(checkpoint, gated)
    with pytest.raises(fxprune.InputError, match=r"must be a torch\.nn\.Module, got dict"):
        fxprune.load(checkpoint, {})
