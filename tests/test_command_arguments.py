"""Whatever a command is called with wrongly is told in one line, with exit code 2.

One table of wrong words by the name of the argument serves all commands on both routes; a new
command, or a new option, has to find its row.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from fxprune.commands.app import app
from tests.worlds import GROUP, World, X

HERE = "tests.cli_models"
COMMANDS = {command.callback.__name__: command.callback for command in app.registered_commands}
FLAGS = {"correct", "latency", "overwrite", "json", "traceback"}
"""What is there or not."""

TORCH, FILE = f"{HERE}:plain_model", "model.onnx"
RIGHT: dict[str, dict[str, Any]] = {
    "inspect": {"source": [TORCH, FILE]},
    "prune": {"source": [TORCH, FILE], "out": "new.onnx"},
    "prune_checkpoint": {"folder": "weights", "out": "pruned", "model": TORCH},
    "search": {"source": [TORCH]},
    "fold": {"source": [TORCH, FILE], "keep_set": "keep.json", "out": "new.onnx"},
    "verify": {"first": [TORCH, FILE], "second": FILE},
    "export": {"source": [TORCH], "out": "new.onnx"},
    "report": {"source": [TORCH, FILE], "out": "new.html"},
    "quantize": {"source": [FILE], "out": "new.onnx"},
    "demo": {},
}
SOURCES = ["", "missing.onnx", "text.onnx", "resnet18", "nowhere:model", f"{HERE}:nothing"]
SOURCES += [f"{HERE}:failing", f"{HERE}:text", "empty.onnx", "tests.cli_models:", ":x"]
DATA = ["", "missing.npz", "text.npz", "object.npz", "nowhere:data"]
DATA += [f"{HERE}:failing", f"{HERE}:nothing", f"{HERE}:text"]
WRONG: dict[str, list[str]] = {
    "bits": ["3", "0", "16", "x", ""],
    "calibration": DATA,
    "certificate": [
        "",
        "missing.onnx",
        "missing",
        "text.onnx",
        "model.onnx",
        "weights",
        "keep.json",
    ],
    "checkpoint": ["missing", "there.onnx", "", "text.pt", "missing.safetensors", "weights"],
    "clock": ["", "sundial", "threads=1", "torch,onnxruntime", "threads=0", "batch=x", "speed=1"],
    "data": DATA,
    "factorise": ["", "low", "Spatial"],
    "form": ["", "float", "Palette"],
    "figures": ["there.onnx", "there.onnx/figures"],
    "first": SOURCES,
    "folder": ["", "missing", "there.onnx", "empty.onnx"],
    "ignore": ["nowhere", "", "*: heads", "nowhere.*"],
    "keep_set": [
        *("missing.json", "text", "empty.onnx", "", "list.json", "numbers.json", "deep.json"),
        *("strings.json", "short.json", "unknown.json"),
    ],
    "least": ["", "-1", "2", "x", "nan", "nowhere=.5", "0=2", "True", "*: heads=.5"],
    "method": ["", "best", "Random"],
    "model": [source for source in SOURCES if "onnx" not in source and source],
    "opset": ["", "0", "-1", "x", "2.5", "1000000"],
    "out": [
        *("", ".", "missing/a.onnx", "a.txt", "there.onnx", "there.html", "empty.onnx"),
        "a" * 5000 + ".onnx",
    ],
    "points": ["missing.csv", "text", "empty.onnx", "bytes.csv", "nan.csv", ""],
    "uniform": ["", "nowhere.*", "*: heads"],
    "round_to": ["", "0", "-1", "2.5", "x", "nan"],
    "sampler": ["", "best", "TPE", "milp"],
    "score": ["", "accuracy", "naswot", "nowhere:score", f"{HERE}:text", f"{HERE}:failing", ":x"],
    "second": SOURCES,
    "seed": ["", "-1", "x", "2.5", str(2**64)],
    "shape": ["", "3x8", "0,3,8,8", "-1,3,8,8", "1,3", "z=1,3,8,8", "x=", "1,3,8,8,"],
    "source": SOURCES,
    "storage": ["", ".", "missing/study.log", "text"],
    "table": ["", "a.txt", "missing/a.csv", "there.onnx"],
    "trials": ["", "0", "-1", "x", "2.5"],
    "target": [
        *("", "half", "0", "-1", "nan", "inf", "energy=.5", "macs=x", "nowhere:macs=.5"),
        *("nowhere.*:macs=.5", "*: channel:macs=.5"),
    ],
}


SERVES = {(verb, TORCH, "out", place) for verb in ("prune", "fold") for place in ("", ".")}
"""A checkpoint may lie in the current folder."""
SERVES.add(("prune_checkpoint", None, "out", "a.txt"))
"""A folder of any name."""


def options_of(command: str) -> list[str]:
    return [name for name in inspect.signature(COMMANDS[command]).parameters if name not in FLAGS]


def words_of(command: str, source: str | None, changed: Mapping[str, str]) -> list[str]:
    """A command line in which one argument is another."""
    arguments = dict(RIGHT[command])
    for name in ("source", "first"):
        if name in arguments:
            arguments[name] = source
    options = [f"--model={arguments.pop('model')}"] if "model" in arguments.keys() - changed else []
    arguments.pop("model", None)
    words = [command.replace("_", "-"), *options]
    words += [changed.get(name, value) for name, value in arguments.items()]
    words += ["--no-latency"] * (command == "report")
    for name, value in changed.items():
        if name not in arguments:
            words += [f"--{name.replace('_', '-')}", value]
    return words


@pytest.fixture
def folder(world: World) -> Path:
    onnx.save(world.proto, FILE)
    world.weights()
    files = {
        "keep.json": {GROUP: [1, 0] * 4},
        "list.json": [1, 0],
        "numbers.json": {GROUP: [2] * 8},
        "strings.json": {GROUP: "10101010"},
        "short.json": {GROUP: [1]},
        "unknown.json": {"nope": [1]},
    }
    for name, value in files.items():
        Path(name).write_text(json.dumps(value))
    Path("deep.json").write_text("[" * 100_000)
    Path("bytes.csv").write_bytes(b"\xff\xfe\x00")
    Path("nan.csv").write_text("0.5,nan\n")
    for name in ("text.onnx", "text.npz", "text.pt"):
        Path(name).write_text("neither")
    np.savez("uneven.npz", x=X.numpy(), y=np.zeros(3))
    np.savez("object.npz", x=np.array([object()]))
    return world.folder


def run(words: list[str]) -> Any:
    return CliRunner().invoke(app, words, prog_name="fxprune")


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def check_refused(words: list[str], folder: Path) -> None:
    """One line, exit code 2, no file."""
    before, result = contents(folder), run(words)
    said = f"{[word[:40] for word in words]}: {result.output[-500:]} {result.exception!r}"
    assert result.exit_code == 2, said
    assert result.stderr.startswith("fxprune: ") and result.stderr.count("\n") == 1, said
    assert not result.stdout, said
    assert contents(folder) == before, said


def test_every_command_has_a_right_call_and_every_option_wrong_words():
    assert sorted(COMMANDS) == sorted(RIGHT)
    assert {name for command in COMMANDS for name in options_of(command)} == set(WRONG)


ROUTES = [
    (command, source)
    for command, arguments in RIGHT.items()
    for source in arguments.get("source", arguments.get("first", [None]))
]


@pytest.mark.parametrize(("command", "source"), ROUTES)
def test_right_commands_are_accepted(command, source, folder):
    result = run(words_of(command, source, {}))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("command", "source", "name"),
    [(*pair, name) for pair in ROUTES for name in options_of(pair[0])],
)
def test_wrong_words_are_told_in_one_line(command, source, name, folder):
    for word in WRONG[name]:
        if (command, source, name, word) not in SERVES:
            check_refused(words_of(command, source, {name: word}), folder)


@pytest.mark.parametrize(
    "words",
    [
        ["prune"],
        ["prune", TORCH],
        ["nothing"],
        ["inspect", TORCH, "--nothing"],
        ["inspect", TORCH, "more"],
        ["prune", TORCH, "a.onnx", "--target"],
        ["prune", TORCH, "a.onnx", "--correct"],
        ["prune", FILE, "a.onnx", "--correct"],
        ["prune", FILE, "a.onnx", "--method", "wanda"],
        ["prune", TORCH, "a.onnx", "--method", "taylor"],
        ["prune", TORCH, "a.onnx", "--shape", "x=1,3,8,8", "--shape", "x=1,3,9,9"],
        ["prune", TORCH, "a.onnx", "--least", ".1", "--least", ".2"],
        ["prune", TORCH, "a.onnx", "--data", "uneven.npz"],
        ["export", FILE, "a.onnx"],
        ["quantize", TORCH, "a.onnx"],
        ["search", FILE],
        ["verify", FILE],
        ["verify", FILE, FILE, "--certificate", FILE],
        ["search", TORCH, "--score", "macs", "--score", "macs"],
    ],
)
def test_words_that_do_not_go_together_are_told_in_one_line(words, folder):
    check_refused(words, folder)


@pytest.mark.parametrize(
    "words",
    [["inspect", TORCH], ["--nothing"], ["demo"], ["inspect", FILE, "--shape", "1", "--json"]],
)
def test_a_command_that_is_accepted_or_says_more_is_found(words, folder):
    with pytest.raises(AssertionError):
        check_refused(words, folder)


def test_what_was_searched_is_folded(folder):
    words = ["search", TORCH, "--target", ".5", "--trials", "5", "--table", "trials.csv"]
    found = run([*words, "--storage", "study.log", "--json"])
    assert found.exit_code == 0, found.output
    Path("found.json").write_text(found.stdout)
    keep = json.loads(found.stdout)["keep_set"][GROUP]
    assert 0 < sum(keep) < len(keep)
    assert len(Path("trials.csv").read_text().splitlines()) == 6
    assert run([*words[:-2], "--storage", "study.log", "--json"]).stdout.count("keep_set") == 1
    folded = run(["fold", TORCH, "found.json", "small.onnx", "--json"])
    assert json.loads(folded.stdout)["keep_set"][GROUP] == keep


def test_least_is_kept_on_both_routes(folder):
    for source, out in ((TORCH, "a.onnx"), (FILE, "b.onnx")):
        options = {"out": out, "target": ".9", "least": "0=.8", "method": "magnitude"}
        words = words_of("prune", source, options)
        result = run([*words, "--json"])
        assert result.exit_code == 0, result.output
        assert sum(json.loads(result.stdout)["keep_set"][GROUP]) == 7
