"""Certificates: what was written is checked, and whatever was changed is noticed."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from fxprune.certificates import Certificate, parsed
from fxprune.commands.app import app
from fxprune.commands.torch_route import certificate_in, certify
from fxprune.errors import CheckpointError
from tests.test_cli import HERE, answered, run
from tests.torch.models import images

TORCH = f"{HERE}:residual"
WAYS = {
    "file": ("model.onnx", "small.onnx"),
    "module": (TORCH, "small.onnx"),
    "folder": (TORCH, "small"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder for every way, with a source and what `prune` wrote of it."""
    place = tmp_path_factory.mktemp("written")
    for way, (source, out) in WAYS.items():
        (place / way).mkdir()
        with contextlib.chdir(place / way):
            if way == "file":
                run("export", TORCH, source)
            run("prune", source, out)
    return place


@pytest.fixture(params=WAYS)
def pair(request, written, tmp_path, monkeypatch) -> tuple[str, Path]:
    """A source, and what `prune` wrote of it, in the current folder."""
    shutil.copytree(written / request.param, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    source, out = WAYS[request.param]
    return source, Path(out)


def test_what_was_written_holds(pair):
    source, out = pair
    alone, again = (answered("verify", *first, "--certificate", out) for first in ([], [source]))
    assert alone["certificate"] == again["certificate"]
    assert alone["verdict"] is None
    assert all(item["error"] <= item["tolerance"] for item in again["verdict"])
    assert {"fxprune", "Python", "torch"} <= set(alone["certificate"]["versions"])
    assert str(Path.cwd()) not in json.dumps(alone), "of this machine nothing is told"


def weights_of(out: Path) -> Path:
    return out if out.suffix else out / "model.safetensors"


def test_a_changed_byte_is_noticed(pair):
    """Wherever it stands: in weights, in the graph, in the certificate; most files still load."""
    _, out = pair
    path = weights_of(out)
    good = path.read_bytes()
    for place in np.linspace(0, len(good) - 1, 23).astype(int):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        code = answered_either("verify", "--certificate", out)
        assert code in (1, 2), place
    path.write_bytes(good + b"\x72\x00")
    assert answered_either("verify", "--certificate", out) in (1, 2)
    path.write_bytes(good)
    run("verify", "--certificate", out)


def answered_either(*words) -> int:
    """The exit code of what is not to succeed."""

    return CliRunner().invoke(app, list(map(str, words))).exit_code


def forge(out: Path, **changes) -> None:
    """Seal the result again with another certificate, as anybody can."""
    certificate = replace(certificate_in(out), seal="", **changes)
    if out.suffix:
        model = onnx.load(out)
        entries = [entry for entry in model.metadata_props if "certificate" not in entry.key]
        del model.metadata_props[:]
        model.metadata_props.extend(entries)
        onnx.save(model, out)
    certify(out, certificate)
    assert certificate_in(out).keep_set == certificate.keep_set


def refused(source: str, out: Path) -> str:
    """What making it again finds wrong, though the seal is right."""
    answered("verify", "--certificate", out)
    return answered("verify", source, "--certificate", out, code=1)["error"]


def test_a_wrong_keep_set_is_noticed_with_the_source(pair):
    source, out = pair
    keep = dict(certificate_in(out).keep_set)
    name = next(name for name, flags in keep.items() if "01" in flags)
    forge(out, keep_set={**keep, name: keep[name].replace("01", "10", 1)})
    assert "relative error" in refused(source, out)
    forge(out, keep_set={**keep, "nowhere": "1"})
    assert "its keep-set is that of another model" in refused(source, out)


@pytest.mark.parametrize("share", [0.9, 10])
def test_a_tampered_error_is_noticed_with_the_source(pair, share):
    source, out = pair
    first, *others = certificate_in(out).errors
    forge(out, errors=(replace(first, error=first.accepted * share), *others))
    assert refused(source, out).startswith("the certificate has an error")
    forge(out, errors=tuple(others))
    assert "the certificate says nothing of" in refused(source, out)


def test_another_source_is_noticed(pair):
    source, out = pair
    if source == TORCH:
        assert "is not what this was made of" in refused(f"{HERE}:other", out)
    else:
        run("export", f"{HERE}:other", "other.onnx")
        assert "is not what this was made of" in refused("other.onnx", out)


def test_weights_that_were_solved_anew_are_compared_by_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("export", TORCH, "model.onnx")
    np.savez("data.npz", x=np.concatenate([images(8)] * 4))
    for source, out in (("model.onnx", "small.onnx"), (TORCH, "small")):
        run("prune", source, out, "--correct", "--data", "data.npz")
        said = run("verify", source, "--certificate", out).stdout
        assert "of weights that were solved anew only the sizes" in said
        keep = dict(certificate_in(Path(out)).keep_set)
        name = next(name for name, flags in keep.items() if flags.count("1") > 1 and "0" in flags)
        forge(Path(out), keep_set={**keep, name: keep[name].replace("0", "1", 1)})
        assert "has shape" in refused(source, Path(out))


@pytest.mark.parametrize("options", [["--uniform", "*"], ["--uniform", "*: layer"]])
def test_layers_that_close_whole_are_told_by_their_branches(options, tmp_path, monkeypatch):
    """Nobody has to know what was uniform to make the result again."""
    monkeypatch.chdir(tmp_path)
    source = f"{HERE}:decoder_of_two_blocks"
    found = answered("prune", source, "small", "--target", ".45", *options)
    assert "layers.0" in found["keep_set"]
    run("verify", source, "--certificate", "small")


def test_fold_and_export_certify_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pruned = answered("prune", TORCH, "small")
    Path("keep.json").write_text(json.dumps(pruned))
    run("fold", TORCH, "keep.json", "folded.onnx")
    run("verify", TORCH, "--certificate", "folded.onnx")
    run("export", TORCH, "exported.onnx", "--checkpoint", "small")
    run("verify", TORCH, "--checkpoint", "small", "--certificate", "exported.onnx")
    assert "is not what this was made of" in refused(TORCH, Path("exported.onnx"))


def test_what_is_written_from_a_certified_file_has_no_certificate_of_another(pair):
    _, out = pair
    if not out.suffix:
        return
    run("quantize", out, "whole.onnx")
    assert (
        "has no certificate" in answered("verify", "--certificate", "whole.onnx", code=2)["error"]
    )
    run("prune", out, "again.onnx", "--target", ".9")
    assert certificate_in(Path("again.onnx")).source == out.name
    keys = [entry.key for entry in onnx.load("again.onnx").metadata_props]
    assert len(keys) == len(set(keys))


def test_certificates_of_another_form_are_told():

    for text in (None, "", "[]", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000):
        with pytest.raises(CheckpointError):
            parsed(Path("a.onnx"), text)
    good = str(Certificate("a", "b", {"0": "10"}, (), {}))
    assert parsed(Path("a.onnx"), good).flags == {"0": (True, False)}
