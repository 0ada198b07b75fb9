"""What is there already is replaced only on request, and what a verb reads never."""

import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from typer.testing import CliRunner

import fxprune
from fxprune.commands.app import app
from fxprune.files import check_apart, check_output
from tests.worlds import GROUP, World, X

KEEP = {GROUP: [True, False] * 4}
WRITERS: dict[str, Callable[..., Any]] = {
    "export_onnx": lambda w, path, **o: fxprune.export_onnx(w.model, path, X, **o),
    "factorise_onnx": lambda w, path, **o: fxprune.factorise_onnx(w.proto, path, **o),
    "merge_onnx": lambda w, path, **o: fxprune.merge_onnx(w.proto, path, **o),
    "fold_onnx": lambda w, path, **o: fxprune.fold_onnx(w.proto, KEEP, path, **o),
    "prune_onnx": lambda w, path, **o: fxprune.prune_onnx(w.proto, path, **o),
    "quantize": lambda w, path, **o: fxprune.quantize(w.proto, path, **o),
    "save": lambda w, path, **o: fxprune.save(w.folded, path, **o),
    "write_figures": lambda w, path, **o: fxprune.write_figures(w.folded, path, **o),
    "write_model_card": lambda w, path, **o: fxprune.write_model_card(w.folded, path, **o),
    "write_report": lambda w, path, **o: fxprune.write_report(w.folded, path, latency=False, **o),
}
NAMES = {
    "save": "saved",
    "write_figures": "figures",
    "write_model_card": "card",
    "write_report": "report.html",
}
READERS: dict[str, Callable[..., Any]] = {
    "factorise_onnx": lambda source, path: fxprune.factorise_onnx(source, path, overwrite=True),
    "merge_onnx": lambda source, path: fxprune.merge_onnx(source, path, overwrite=True),
    "fold_onnx": lambda source, path: fxprune.fold_onnx(source, KEEP, path, overwrite=True),
    "prune_onnx": lambda source, path: fxprune.prune_onnx(source, path, overwrite=True),
    "quantize": lambda source, path: fxprune.quantize(source, path, overwrite=True),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_every_verb_that_writes_asks_before_it_overwrites():
    places = {"path", "output", "folder"}
    for name in fxprune.__all__:
        thing = getattr(fxprune, name)
        parameters = set() if isinstance(thing, type) else set(inspect.signature(thing).parameters)
        asks = name not in ("load", "prune_checkpoint")  # one reads, one writes where nothing is
        writes = bool(places & parameters) and asks
        assert ("overwrite" in parameters) == writes == (name in WRITERS), name


@pytest.mark.parametrize("verb", WRITERS)
def test_what_is_there_is_replaced_only_on_request(verb, world):
    path = world.folder / "new" / NAMES.get(verb, "model.onnx")
    path.parent.mkdir()
    WRITERS[verb](world, path)
    files = [path] if path.is_file() else sorted(path.iterdir())
    for file in files:
        file.write_text("what was there")
    before = contents(path.parent)
    with pytest.raises(fxprune.InputError, match=r"is there already.*overwrite=True"):
        WRITERS[verb](world, path)
    assert contents(path.parent) == before
    WRITERS[verb](world, path, overwrite=True)
    after = contents(path.parent)
    assert after.keys() == before.keys()
    assert all(text != b"what was there" for text in after.values())


def test_one_figure_in_the_way_is_enough_and_other_files_are_not(world):
    folder = world.folder / "figures"
    folder.mkdir()
    (folder / "other.png").write_text("not ours")
    fxprune.write_figures(world.folded, folder)
    (folder / "widths.png").unlink()
    with pytest.raises(fxprune.InputError, match=r"cost\.png: it is there already"):
        fxprune.write_figures(world.folded, folder)
    assert not (folder / "widths.png").exists()


@pytest.mark.parametrize("verb", ["fold_onnx", "prune_onnx", "quantize"])
def test_a_place_is_looked_at_before_any_work(verb, world):
    junk = World(world.folder, world.model, world.gated, world.folded, b"no model")
    with pytest.raises(fxprune.InputError, match="is there already"):
        WRITERS[verb](junk, world.place("there.onnx"))


def linked(source: Path, kind: str) -> Path | str:
    """Another name of a file."""
    other = source.with_name("other.onnx")
    if kind == "relative":
        return os.path.relpath(source)
    if kind == "dotted":
        return source.parent / "empty.onnx" / ".." / source.name
    if kind == "symbolic":
        other.symlink_to(source)
    elif kind == "hard":
        other.hardlink_to(source)
    else:
        return source
    return other


@pytest.mark.parametrize("kind", ["same", "relative", "dotted", "symbolic", "hard"])
@pytest.mark.parametrize("verb", READERS)
def test_a_model_is_never_written_over_itself(verb, kind, world):
    source = world.folder / "model.onnx"
    onnx.save(world.proto, source)
    before = source.read_bytes()
    with pytest.raises(fxprune.InputError, match=r"the work reads .* and would replace it"):
        READERS[verb](source, linked(source, kind))
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "output"), [("weights.onnx", "weights.onnx"), ("small.onnx.data", "small.onnx")]
)
@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("in_memory", [False, True])
def test_weights_of_the_model_are_never_written_over(verb, data, output, in_memory, world):
    source = world.folder / "model.onnx"
    onnx.save(world.proto, source, save_as_external_data=True, location=data, size_threshold=0)
    before = contents(world.folder)
    given = onnx_ir.load(source) if in_memory else source
    with pytest.raises(fxprune.InputError, match="would replace it"):
        READERS[verb](given, world.folder / output)
    assert contents(world.folder) == before


def test_data_is_never_written_over(world):
    np.savez(world.folder / "data.npz", x=X.numpy())
    (world.folder / "data.npz").rename(world.folder / "data.onnx")
    before = contents(world.folder)
    for call in (
        lambda path: fxprune.quantize(world.proto, path, calibration=path, overwrite=True),
        lambda path: fxprune.prune_onnx(world.proto, path, data=path, overwrite=True),
        lambda path: fxprune.fold_onnx(world.proto, KEEP, path, data=path, overwrite=True),
        lambda path: fxprune.prune_onnx(world.proto, path, data=str(world.folder), overwrite=True),
    ):
        with pytest.raises(fxprune.InputError, match="would replace it"):
            call(world.place("data.onnx"))
    assert contents(world.folder) == before


def test_a_report_is_never_written_over_the_model_it_is_about(world):
    onnx.save(world.proto, world.folder / "model.html")
    result = fxprune.prune_onnx(world.place("model.html"))
    with pytest.raises(fxprune.InputError, match="would replace it"):
        fxprune.write_report(result, world.place("model.html"), latency=False, overwrite=True)


def test_a_link_that_leads_nowhere_is_in_the_way_as_well(tmp_path):
    (tmp_path / "m.onnx").symlink_to(tmp_path / "gone")
    with pytest.raises(fxprune.InputError, match="is there already"):
        check_output("path", tmp_path / "m.onnx")
    check_output("path", tmp_path / "m.onnx", overwrite=True)


def test_sources_that_are_no_files_are_in_nobodys_way(tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    check_apart(tmp_path / "m.onnx", [None, b"bytes", 3, "module:name", tmp_path / "gone", "a\0b"])


# The command line -------------------------------------------------------------------------------

HERE = "tests.cli_models"


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, words)), prog_name="fxprune")


def commands(folder: Path) -> dict[str, tuple[list[Any], str]]:
    """What writes, and where."""
    model, there = f"{HERE}:residual", folder / "there.onnx"
    return {
        "prune": (["prune", model, there], "there.onnx"),
        "prune a file": (["prune", folder / "model.onnx", there], "there.onnx"),
        "save": (["prune", model, folder / "saved"], "saved/model.safetensors"),
        "fold": (["fold", folder / "model.onnx", folder / "keep.json", there], "there.onnx"),
        "export": (["export", model, there], "there.onnx"),
        "quantize": (["quantize", folder / "model.onnx", there], "there.onnx"),
        "report": (
            ["report", model, folder / "there.html", "--no-latency"],
            "there.html",
        ),
        "figures": (
            ["report", model, folder / "new.html", "--no-latency", "--figures", folder / "saved"],
            "saved/cost.png",
        ),
    }


@pytest.mark.parametrize("name", commands(Path()))
def test_commands_replace_only_by_force(name, world):
    onnx.save(world.proto, world.folder / "model.onnx")
    (world.folder / "keep.json").write_text(json.dumps({GROUP: [1, 0] * 4}))
    words, file = commands(world.folder)[name]
    (world.folder / file).parent.mkdir(exist_ok=True)
    (world.folder / file).write_text("what was there")
    before = contents(world.folder)
    refused = run(*words)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("fxprune: cannot write") and "--force" in refused.stderr
    assert contents(world.folder) == before
    assert run(*words, "--force").exit_code == 0
    assert (world.folder / file).read_bytes() != b"what was there"


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "model.onnx", "link.onnx"],
        ["quantize", "model.onnx", "link.onnx"],
        ["fold", "model.onnx", "keep.json", "keep.onnx"],
        ["fold", f"{HERE}:residual", "keep.json", "keep.onnx"],
        ["export", f"{HERE}:residual", "weights.onnx", "--checkpoint", "saved"],
        ["prune", f"{HERE}:residual", "data.onnx", "--data", "data.npz"],
        ["prune", "model.onnx", "data.onnx", "--data", "data.npz"],
        ["quantize", "model.onnx", "data.onnx", "--calibration", "data.npz"],
        ["report", "model.onnx", "points.html", "--points", "points.csv", "--no-latency"],
    ],
    ids=" ".join,
)
def test_no_force_writes_over_what_a_command_reads(words, world):
    onnx.save(world.proto, "model.onnx")
    Path("keep.json").write_text(json.dumps({GROUP: [1, 0] * 4}))
    Path("points.csv").write_text("0.5,90\n")
    np.savez("data.npz", x=X.numpy())
    fxprune.save(world.folded, "saved")
    for link, file in (
        ("link.onnx", "model.onnx"),
        ("keep.onnx", "keep.json"),
        ("weights.onnx", "saved/model.safetensors"),
        ("data.onnx", "data.npz"),
        ("points.html", "points.csv"),
    ):
        os.link(file, link)
    before = contents(world.folder)
    refused = run(*words, "--force")
    assert refused.exit_code == 2
    assert "would replace it" in refused.stderr and refused.stderr.count("\n") == 1
    assert contents(world.folder) == before


def test_a_copy_is_not_the_source(world):
    onnx.save(world.proto, "model.onnx")
    shutil.copy("model.onnx", "copy.onnx")
    assert run("prune", "model.onnx", "copy.onnx", "--force").exit_code == 0
