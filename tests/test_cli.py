"""The command line, for torch models and ONNX files."""

import inspect
import json
import logging
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import parser
from rich.progress import Progress
from safetensors.torch import save_file
from typer.testing import CliRunner

import fxprune
from fxprune.commands import options, torch_route
from fxprune.commands.answers import EXIT_CODES
from fxprune.commands.app import app
from fxprune.commands.bars import PartBar
from fxprune.criteria import ON_DATA
from fxprune.searching import samplers
from fxprune.stages import stage, track
from fxprune.torch import criteria, zero_cost
from fxprune.torch.record import record_of
from tests.cli_models import residual
from tests.torch.models import images
from tests.torch.test_language_models import llama

PAGE = Path(__file__).parent.parent / "examples" / "docs" / "reference" / "command_line.md"
HERE = "tests.cli_models"
VERBS = [command.callback.__name__.replace("_", "-") for command in app.registered_commands]
OURS = {"source", "out", "json", "traceback"}


def run(*words, code=0):
    """What the command printed, after a look at its exit code."""
    result = CliRunner().invoke(app, list(map(str, words)), prog_name="fxprune")
    assert result.exit_code == code, result.output
    return result


def answered(*words, code=0):
    """What the command printed as JSON, and nothing else."""
    return json.loads(run(*words, "--json", code=code).stdout)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory) -> Path:
    model, example = residual()
    path = tmp_path_factory.mktemp("onnx") / "residual.onnx"
    return fxprune.export_onnx(model.eval(), path, example)


@pytest.fixture(params=["torch", "onnx"])
def source(request) -> str:
    if request.param == "torch":
        return f"{HERE}:residual"
    return str(request.getfixturevalue("onnx_file"))


# What every verb has


def test_verbs_are_those_of_the_readme():
    assert [
        *("inspect", "prune", "prune-checkpoint", "search", "fold", "verify", "export"),
        *("report", "quantize", "demo"),
    ] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_exit_codes(verb):
    shown = " ".join(run(verb, "--help").stdout.split())
    assert EXIT_CODES in shown
    assert "--json" in shown and "--traceback" in shown


def test_options_have_the_names_of_arguments():
    commands = {c.callback.__name__: inspect.signature(c.callback) for c in app.registered_commands}
    known = {
        name
        for verb in (fxprune.prune, fxprune.export_onnx, fxprune.save)
        for name in inspect.signature(verb).parameters
    }
    also_known = inspect.signature(fxprune.prune_onnx).parameters
    of_commands = {"shape", "checkpoint", "seed"}
    assert set(commands["prune"].parameters) - OURS - of_commands <= set(also_known)
    assert set(commands["prune"].parameters) - OURS - of_commands <= set(known)
    written = inspect.signature(fxprune.write_report).parameters
    report = set(commands["report"].parameters) - OURS - of_commands - {"figures"}
    assert report <= {*known, *written}
    exported = inspect.signature(fxprune.export_onnx).parameters
    quantised = inspect.signature(fxprune.quantize).parameters
    assert set(commands["quantize"].parameters) - OURS - {"shape"} <= set(quantised)
    verified = inspect.signature(fxprune.verify_onnx).parameters
    pair = {"first", "second", "certificate"}
    assert set(commands["verify"].parameters) - OURS - of_commands <= {*verified, *pair}
    assert set(commands["export"].parameters) - OURS - of_commands <= set(exported)


def test_seed_and_checkpoint_are_wherever_a_model_comes_in():
    for command in app.registered_commands:
        options = set(inspect.signature(command.callback).parameters)
        if options & {"source", "first"}:
            assert "seed" in options
            assert "checkpoint" in options or command.callback.__name__ == "quantize"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_examples_in_help_name_what_there_is(verb):
    command = app.registered_commands[VERBS.index(verb)]
    examples = command.epilog.partition("Examples:\n\n")[2].split("\n\n")
    options = inspect.signature(command.callback).parameters
    for example in examples:
        fxprune_, first, *words = shlex.split(example)
        assert fxprune_ == "fxprune" and first in VERBS
        if first == verb:
            named = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
            assert {name.removeprefix("no_") for name in named} <= set(options)
    assert any(example.split()[1] == verb for example in examples)


def test_version():
    assert run("--version").stdout == f"{fxprune.__version__}\n"


def test_without_a_verb_help_is_shown():
    assert "module:factory" in run(code=2).output


# Verbs


def test_inspect_shows_groups_pins_and_what_half_would_leave(source):
    text = run("inspect", source).stdout
    for word in ("stem.0", "branch", "network output", "With half of every group", "macs"):
        assert word in text
    found = answered("inspect", source)
    assert found["after"] == found["before"]
    assert found["with_half"]["params"] < 0.4 * found["before"]["params"]
    assert {row["name"] for row in found["rows"]} >= {"stem.0", "body.0", "body+"}
    assert sum(layer["macs_before"] for layer in found["layers"]) == found["before"]["macs"]


def test_inspect_leaves_alone_what_is_ignored(source):
    found = answered("inspect", source, "--ignore", "body.0")
    pins = {row["name"]: row["pin"] for row in found["rows"]}
    assert pins["body.0"] == "ignored by the caller"
    assert not pins["stem.0"]


def check_target_is_met_to_within_one_position(source, found):
    """Half of the parameters are left, and no closed position would fit."""
    if source.endswith(".onnx"):
        analysis = fxprune.inspect_onnx(source)
    else:
        analysis = record_of(fxprune.prepare(*residual())).analysis
    params = analysis.costs.polynomials["params"]
    sizes = {name: sum(flags) for name, flags in found["keep_set"].items()}
    most = found["before"]["params"] / 2
    assert params(sizes) == found["after"]["params"] <= most
    for name, flags in found["keep_set"].items():
        assert all(flags) or params({**sizes, name: sizes[name] + 1}) > most


def test_prune_writes_an_onnx_file_that_is_verified(source, tmp_path):
    found = answered("prune", source, tmp_path / "half.onnx", "--target", "params=.5")
    check_target_is_met_to_within_one_position(source, found)
    assert found["written"] == str(tmp_path / "half.onnx")
    assert found["verdict"] and all(c["error"] <= c["tolerance"] for c in found["verdict"])
    assert sum(map(sum, found["keep_set"].values())) < sum(map(len, found["keep_set"].values()))
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx")
    feeds = {session.get_inputs()[0].name: images(3).numpy()}
    assert session.run(None, feeds)[0].shape == (3, 5)
    assert os.listdir(tmp_path) == ["half.onnx"]


def test_routes_agree_on_what_is_pruned(onnx_file, tmp_path):
    options = ["--target", "macs=.6", "--target", "params=.7", "--round-to", "2"]
    costs = [
        answered("prune", source, tmp_path / f"{number}.onnx", *options)["after"]
        for number, source in enumerate((f"{HERE}:residual", onnx_file))
    ]
    for cost in ("macs", "params"):
        assert costs[0][cost] == pytest.approx(costs[1][cost], rel=0.15), "norms are fused or not"


@pytest.mark.parametrize("place", ["small", "small/model.safetensors"])
def test_prune_saves_a_checkpoint_that_loads(tmp_path, place):
    found = answered("prune", f"{HERE}:residual", tmp_path / place)
    model, _ = residual()
    loaded = fxprune.load(tmp_path / "small", model)
    assert fxprune.report(loaded, latency=False).after == found["after"]
    more = ("--checkpoint", tmp_path / "small")
    written = answered("export", f"{HERE}:other", tmp_path / "small.onnx", *more)["written"]
    assert written == str(tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    feeds = {session.get_inputs()[0].name: images(3).numpy()}
    with torch.no_grad():
        expected = loaded.eval()(images(3)).numpy()
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=1e-4, atol=1e-5)


def test_prune_takes_data_from_files_and_from_python(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.concatenate([images(8)] * 4), y=np.arange(32) % 5)
    taylor = ("--method", "taylor", "--data", tmp_path / "data.npz")
    assert answered("prune", f"{HERE}:residual", tmp_path / "a", *taylor)["verdict"]
    correct = ("--correct", "--data", f"{HERE}:batches")
    assert answered("prune", f"{HERE}:residual", tmp_path / "b", *correct)["verdict"]


@pytest.mark.parametrize("method", ON_DATA)
def test_both_routes_know_the_criteria_on_data(method, onnx_file, tmp_path):
    np.savez(tmp_path / "data.npz", x=images(8))
    more = ("--method", method, "--target", ".7", "--data", tmp_path / "data.npz")
    for number, source in enumerate((f"{HERE}:residual", onnx_file)):
        found = answered("prune", source, tmp_path / f"{number}.onnx", *more)
        assert not all(all(flags) for flags in found["keep_set"].values())


@pytest.mark.parametrize("data", ["data.npz", f"{HERE}:arrays"])
def test_prune_of_a_file_takes_data_from_files_and_from_python(data, onnx_file, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.concatenate([images(8)] * 4))
    data = tmp_path / data if data.endswith(".npz") else data
    more = ("--method", "wanda", "--correct", "--data", data)
    found = answered("prune", onnx_file, tmp_path / "a.onnx", *more)
    plain = answered("prune", onnx_file, tmp_path / "b.onnx", "--method", "wanda", "--data", data)
    assert found["keep_set"] == plain["keep_set"]
    feeds = {"x": images(64, seed=9).numpy()}
    outputs = [
        onnxruntime.InferenceSession(path).run(None, feeds)[0]
        for path in (onnx_file, tmp_path / "a.onnx", tmp_path / "b.onnx")
    ]
    corrected, uncorrected = (np.square(outputs[0] - other).mean() for other in outputs[1:])
    assert corrected < uncorrected


def test_a_language_model_on_disk_is_pruned_from_the_command_line(tmp_path):
    dense, out, again = (tmp_path / name for name in ("dense", "out", "again"))
    model = llama()
    model.save_pretrained(dense)
    words = ("prune-checkpoint", dense)
    found = answered(*words, out, "--target", "params=.6", "--shape", "input_ids=2,9")
    assert (
        found["written"] == str(out) and found["after"]["params"] <= 0.6 * found["before"]["params"]
    )
    expected = type(model).from_pretrained(out).state_dict()
    assert sum(t.numel() for t in expected.values()) == found["after"]["params"]
    (tmp_path / "keep.json").write_text(json.dumps(found))
    kept = answered(*words, again, "--keep-set", tmp_path / "keep.json")
    assert kept["keep_set"] == found["keep_set"]
    got = type(model).from_pretrained(again).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items())
    assert "it is there already" in run(*words, out, code=2).stderr


def test_fold_follows_the_keep_set_that_prune_printed(source, tmp_path):
    pruned = answered("prune", source, tmp_path / "a.onnx")
    (tmp_path / "keep.json").write_text(json.dumps(pruned))
    folded = answered("fold", source, tmp_path / "keep.json", tmp_path / "b.onnx")
    assert folded["after"] == pruned["after"]
    assert folded["keep_set"] == pruned["keep_set"]
    assert run("verify", tmp_path / "a.onnx", tmp_path / "b.onnx").stdout.endswith("the same\n")


def test_verify_compares_every_kind_of_model(onnx_file):
    first = f"{HERE}:residual"
    for pair in ((first, first), (first, onnx_file), (onnx_file, first), (onnx_file, onnx_file)):
        found = answered("verify", *pair)
        assert all(item["error"] <= item["tolerance"] for item in found["verdict"])


def test_verify_tells_models_that_differ(onnx_file, tmp_path):
    run("export", f"{HERE}:other", tmp_path / "other.onnx")
    pairs = [(f"{HERE}:residual", f"{HERE}:other"), (onnx_file, tmp_path / "other.onnx")]
    for pair in (*pairs, (f"{HERE}:residual", tmp_path / "other.onnx")):
        found = answered("verify", *pair, code=1)
        assert found["kind"] == "VerificationError" and found["exit_code"] == 1
        assert "relative error" in found["error"]


SATURATED = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 2] x) => (float[n, 2] y OTHERS) <float far = {1e9}> {
    q = Sub (x, far)
    y = Relu (q)
    z = Exp (x)
}"""


def test_verify_says_what_it_does_not_show(tmp_path):
    for name, others in (("silent.onnx", ""), ("one.onnx", ", float[n, 2] z")):
        onnx.save(parser.parse_model(SATURATED.replace("OTHERS", others)), tmp_path / name)
    found = answered("verify", tmp_path / "silent.onnx", tmp_path / "silent.onnx", code=1)
    assert "nothing was shown" in found["error"]
    pair = ("verify", tmp_path / "one.onnx", tmp_path / "one.onnx")
    assert answered(*pair)["shows_nothing"] == ["y"]
    said = run(*pair).stdout.splitlines()
    assert said[-2].startswith("nothing is shown of y: ")
    assert said[-1] == "the same in all that is shown"


def test_shapes_are_for_what_the_factory_does_not_say(tmp_path):
    shape = ("--shape", "1,3,8,8")
    run("prune", f"{HERE}:without_example", tmp_path / "a.onnx", *shape)
    run("verify", f"{HERE}:without_example", f"{HERE}:without_example", *shape, code=0)
    named = answered("inspect", f"{HERE}:without_example", "--shape", "input=1,3,9,9")
    assert (
        named["before"]["macs"]
        > answered("inspect", f"{HERE}:without_example", *shape)["before"]["macs"]
    )


def test_report_is_a_page_with_figures(source, tmp_path):
    (tmp_path / "points.csv").write_text("target,accuracy,label\n0.5,88.9,gated\n0.5,88.5,narrow\n")
    more = ("--points", tmp_path / "points.csv", "--figures", tmp_path / "figures")
    found = answered("report", source, tmp_path / "report.html", *more)
    assert found["written"] == str(tmp_path / "report.html")
    assert set(found["latency_ms"]) == {"before", "after"}
    page = (tmp_path / "report.html").read_text()
    assert "narrow" in page and "Verified" in page
    assert "method: <code>group_norm</code>" in page and "fxprune report " in page
    assert len(list((tmp_path / "figures").iterdir())) == 3
    assert not list(tmp_path.glob("*.onnx"))
    quick = answered("report", source, tmp_path / "report.html", "--no-latency", "--force")
    assert quick["latency_ms"] == {}


def test_files_lose_ranks_and_bits(onnx_file, tmp_path):
    small = tmp_path / "small.onnx"
    found = answered("prune", onnx_file, small, "--target", "bytes=.4", "--factorise", "low_rank")
    assert found["after"]["bytes"] <= 0.4 * found["before"]["bytes"]
    shown = run("quantize", small, tmp_path / "q.onnx", "--bits", "4").stdout
    assert "4-bit weights" in shown
    shown = run("quantize", small, tmp_path / "p.onnx", "--form", "palette", "--bits", "5").stdout
    assert "palettes of 32" in shown


def test_quantize_writes_a_smaller_file_that_agrees(onnx_file, tmp_path):
    np.savez(tmp_path / "data.npz", x=images(64).numpy())
    found = answered(
        "quantize", onnx_file, tmp_path / "a.onnx", "--calibration", tmp_path / "data.npz"
    )
    assert found["scheme"] == "static" and found["samples"] == 64
    assert found["bytes_after"] == (tmp_path / "a.onnx").stat().st_size
    assert found["agreement"] > 0.7
    assert "dynamic 8-bit" in run("quantize", onnx_file, tmp_path / "b.onnx").stdout


def test_demo_needs_nothing():
    text = run("demo").stdout
    assert "gated == folded" in text and "macs" in text and "latency" in text
    smaller, faster, exact = text.splitlines()[-3:]
    assert smaller.startswith("smaller:") and faster.startswith("faster:")
    assert exact.startswith("exact:")


def test_inspect_shows_models_in_which_nothing_is_free():
    assert {row["pin"] for row in answered("inspect", f"{HERE}:closed")["rows"]} == {
        "network input",
        "network output",
    }


def test_session_of_the_documentation_is_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    for part in filter(None, session.split("$ fxprune ")):
        words, _, expected = part.partition("\n")
        assert bare(run(*words.split()).stdout) == bare(expected)


def bare(text: str) -> str:
    """What is printed, without the errors, which depend on the machine."""
    return re.sub(r"error \S+", "error", text)


# What goes wrong

SOURCE = f"{HERE}:residual"
WRONG = {
    "no file": (("inspect", "missing.onnx"), 2, "there is no file missing.onnx"),
    "no module": (("inspect", "nowhere:model"), 2, "cannot import nowhere from here"),
    "no factory": (("inspect", f"{HERE}:residua"), 2, "did you mean 'residual'?"),
    "no source": (("inspect", "resnet18"), 2, "neither an .onnx file nor module:factory"),
    "failing": (("inspect", f"{HERE}:failing"), 2, "failing() fails: KeyError: 'no weights'"),
    "no model": (("inspect", f"{HERE}:text"), 2, "gives str: it must give a torch module"),
    "shape": (("inspect", SOURCE, "--shape", "3x8"), 2, "shape '3x8' is none"),
    "ignore": (("inspect", SOURCE, "--ignore", "nothing"), 2, "no module 'nothing'"),
    "target": (("prune", SOURCE, "a.onnx", "--target", "half"), 2, "'half' is no number"),
    "twice": (("prune", SOURCE, "a", "--target", ".5", "--target", ".6"), 2, "gives macs twice"),
    "range": (("prune", SOURCE, "a.onnx", "--target", "-1"), 2, "--target"),
    "cost": (("prune", SOURCE, "a.onnx", "--target", "mac=.5"), 2, "did you mean 'macs'?"),
    "word": (("prune", SOURCE, "a.onnx", "--round-to", "0"), 2, "--round-to is 0: give"),
    "method": (("prune", SOURCE, "a.onnx", "--method", "wonda"), 2, "unknown --method 'wonda'"),
    "suffix": (("prune", SOURCE, "a.pt"), 2, "give NAME.onnx, or a folder"),
    "folder": (("prune", SOURCE, "missing/a.onnx"), 2, "there is no folder missing"),
    "correct": (("prune", SOURCE, "a.onnx", "--correct"), 2, "--correct needs --data"),
    "keep-set": (("fold", SOURCE, "missing.json", "a.onnx"), 2, "missing.json"),
    "nothing": (("prune", f"{HERE}:closed", "a.onnx"), 3, "can be pruned; what was found"),
    "export": (("quantize", SOURCE, "a.onnx"), 2, "is no .onnx file: export it first"),
}


@pytest.mark.parametrize(("words", "code", "message"), WRONG.values(), ids=WRONG)
def test_errors_are_one_line_and_leave_nothing(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words, code=code)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("fxprune: ")
    assert not result.stdout
    found = answered(*words, code=code)
    assert message in found["error"] and found["exit_code"] == code
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("verb", "out", "message"),
    [
        ("prune", "a.txt", "an ONNX file becomes an ONNX file"),
        ("prune", "missing/a.onnx", "there is no folder missing"),
        ("export", "a.onnx", "is ONNX already"),
    ],
)
def test_errors_about_onnx_files(verb, out, message, onnx_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in answered(verb, onnx_file, out, code=2)["error"]
    assert not os.listdir(tmp_path)


def test_damaged_file_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 this is none")
    found = answered("inspect", tmp_path / "broken.onnx", code=2)
    assert "broken.onnx" in found["error"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 3))}, "the model does not run on"),
        ({"x": np.zeros((4, 3, 8, 8))}, "expected batches of (inputs, labels)"),
        (None, "is no .npz file of plain arrays"),
    ],
)
def test_data_that_does_not_fit_is_told(arrays, message, tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04 broken") if arrays is None else np.savez(path, **arrays)
    method = "taylor" if "batches" in message else "group_norm"
    words = ("prune", SOURCE, tmp_path / "a", "--data", path, "--method", method, "--correct")
    assert message in answered(*words, code=2)["error"]


def test_weights_come_from_files_and_from_a_seed(tmp_path):
    model, _ = residual()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        same = ("verify", f"{HERE}:other", SOURCE, "--checkpoint", tmp_path / name)
        assert answered(*same)["verdict"]
    drawn = ("prune", f"{HERE}:drawn")
    kept = [
        answered(*drawn, tmp_path / str(number), "--seed", seed)["keep_set"]
        for number, seed in enumerate((0, 0, 1))
    ]
    assert kept[0] == kept[1] != kept[2]


def test_models_that_do_not_run_differ(tmp_path):
    found = answered("verify", SOURCE, f"{HERE}:closed", code=1)
    assert "relative error inf" in found["error"]
    found = answered("verify", f"{HERE}:closed", SOURCE, "--shape", "1,3,8,8", code=2)
    assert "the first model fails on inputs of shape (1, 3, 8, 8)" in found["error"]


def test_points_that_are_none_are_told(tmp_path):
    (tmp_path / "points.csv").write_bytes(b"\xff\xfe\x00")
    words = ("report", SOURCE, tmp_path / "a.html", "--no-latency", "--points")
    assert "is no CSV file" in answered(*words, tmp_path / "points.csv", code=2)["error"]
    (tmp_path / "points.csv").write_text("target,accuracy\n0.5,good\n")
    assert (
        "a point is (target, accuracy)"
        in answered(*words, tmp_path / "points.csv", code=2)["error"]
    )


def test_keep_set_that_is_none_is_told(tmp_path):
    (tmp_path / "keep.json").write_text("[1, 2]")
    found = answered("fold", SOURCE, tmp_path / "keep.json", tmp_path / "a.onnx", code=2)
    assert "holds no keep-set" in found["error"]


def test_own_errors_ask_for_a_report(monkeypatch):
    def broken(source):
        raise RuntimeError("oh\nno")

    monkeypatch.setattr(torch_route, "inspect", broken)
    found = answered("inspect", SOURCE, code=4)
    assert found["error"].startswith("RuntimeError: oh no; --traceback shows where")
    result = run("inspect", SOURCE, "--traceback", code=4)
    assert "Traceback" in result.stderr and "in broken" in result.stderr


def test_what_a_factory_prints_is_kept_off_stdout():
    result = run("inspect", f"{HERE}:noisy", "--json")
    assert json.loads(result.stdout)
    assert "I am being made" in result.stderr


def test_wrong_usage_has_the_exit_code_of_bad_input():
    assert "No such option" in run("inspect", SOURCE, "--nothing", code=2).stderr
    assert "Did you mean 'prune'?" in run("prun", SOURCE, "a.onnx", code=2).stderr


# Files from strangers

STEERING = "<script>\x1b[31m[red]:bomb:[/blue]"


@pytest.fixture
def hostile_file(tmp_path, onnx_file) -> Path:
    """A good model whose names are made to do harm where they are shown."""
    model = onnx_ir.load(onnx_file)
    for value in list(model.graph.initializers.values()):
        value.name = f"{STEERING}.{value.name}"
    for node in model.graph:
        node.name = f"{STEERING}.{node.name}"
    onnx_ir.save(model, tmp_path / "hostile.onnx")
    return tmp_path / "hostile.onnx"


def test_names_from_a_file_stay_text(hostile_file, tmp_path):
    text = run("inspect", hostile_file).stdout
    assert "\x1b" not in text
    assert "<script>?[31m[red]:bomb:[/" in text
    found = answered("report", hostile_file, tmp_path / "report.html", "--no-latency")
    assert any(row["name"].startswith(STEERING) for row in found["rows"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script") == 1 and "&lt;script" in page


@pytest.mark.slow
def test_damaged_bytes_are_told_or_do_no_harm(onnx_file, tmp_path):
    good, chance = onnx_file.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(good)
        for place in chance.sample(range(len(good)), 2):
            damaged[place] = chance.randrange(256)
        (tmp_path / "a.onnx").write_bytes(damaged[: chance.choice([len(good), -1])])
        words = ["prune", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--json"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (0, 2, 3), result.output
        assert {file.name for file in tmp_path.iterdir()} <= {"a.onnx", "b.onnx"}
        assert (tmp_path / "b.onnx").exists() == (result.exit_code == 0)
        (tmp_path / "b.onnx").unlink(missing_ok=True)


def test_names_in_errors_stay_text(tmp_path):
    result = run("inspect", f"{HERE}:\x1b[31m", code=2)
    assert "\x1b" not in result.stderr


# As a process of its own

MAIN = "from fxprune.cli import main; main()"


def process(*words, before="", **environment):
    """Runs the command in the repository root."""
    return subprocess.run(
        [sys.executable, "-c", f"{before}\n{MAIN}", *map(str, words)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None"


def test_onnx_jobs_need_no_torch(onnx_file, tmp_path):
    jobs = [
        ["inspect", onnx_file],
        ["prune", onnx_file, tmp_path / "a.onnx"],
        ["verify", onnx_file, onnx_file],
        ["demo"],
        ["report", onnx_file, tmp_path / "report.html", "--no-latency"],
    ]
    all_but_last = (
        "from fxprune.commands.app import app\n"
        f"for words in {[list(map(str, words)) for words in jobs[:-1]]}:\n"
        "    app([*words, '--json'], standalone_mode=False)"
    )
    done = process(*jobs[-1], "--json", before=f"{WITHOUT_TORCH}\n{all_but_last}")
    assert done.returncode == 0, done.stderr
    assert len(list(map(json.loads, done.stdout.splitlines()))) == len(jobs)


def test_torch_jobs_without_torch_say_what_to_install():
    done = process("inspect", f"{HERE}:residual", before=WITHOUT_TORCH)
    assert done.returncode == 2
    assert done.stderr == 'fxprune: this needs torch: pip install "fxprune[torch]"\n'


def test_without_typer_the_command_says_what_to_install():
    done = process("demo", before="import sys; sys.modules['typer'] = None")
    assert done.returncode == 1
    assert 'pip install "fxprune[cli]"' in done.stderr


def test_installed_command_answers():
    script = Path(sys.executable).with_name("fxprune")
    if not script.exists():
        pytest.skip("fxprune was installed before it had a command: pip install -e .")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, f"{fxprune.__version__}\n")


def test_steps_are_shown_on_a_terminal_only(onnx_file):
    words = ("verify", onnx_file, onnx_file, "--json")
    shown, hidden = process(*words, FORCE_COLOR="1"), process(*words)
    assert "comparing" in shown.stderr
    assert hidden.stderr == ""
    assert json.loads(shown.stdout) == json.loads(hidden.stdout)


def test_long_steps_have_a_bar_while_they_last(caplog):
    with caplog.at_level(logging.DEBUG, "fxprune.progress"):
        assert list(track("ab", "letters")) == ["a", "b"]
        stage("the end")
    with Progress(disable=True) as progress:
        bar, seen = PartBar(progress), []
        for record in caplog.records:
            bar.emit(record)
            seen.append(
                [(t.description, t.completed, t.total, t.fields["count"]) for t in progress.tasks]
            )
        bar.hide()
    assert seen == [
        [("letters", 0, 2, "0 of 2")],
        [("letters", 1, 2, "1 of 2")],
        [],
        [("the end", 0, None, "")],
    ]
    assert not progress.tasks


def test_tables_are_no_problem_for_plain_terminals(onnx_file):
    done = process("inspect", onnx_file, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "stem.0" in done.stdout


def completed(words: str) -> list[str]:
    """What the shell makes of the last word."""
    last = str(len(words.split(" ")) - 1)
    done = process(_FXPRUNE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=last)
    return done.stdout.split()


def test_shell_completes_verbs_and_values():
    assert completed("fxprune in") == ["inspect"]
    assert completed("fxprune prune a.onnx b.onnx --method bl") == ["block_influence"]
    assert completed("fxprune prune a.onnx b.onnx --target m") == ["macs=", "memory="]


def test_what_the_shell_completes_is_what_is_known():
    assert sorted(options.METHODS) == sorted(criteria.METHODS)
    assert sorted(options.SAMPLERS) == sorted((*samplers.SAMPLERS, "milp"))
    assert set(zero_cost.METHODS) < set(options.SCORES)
