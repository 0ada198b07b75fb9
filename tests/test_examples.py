"""What documentation shows runs: doctests, the examples, the Python of the README."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fxprune
from tests.test_packaging import ROOT, modules_on_disk
from tests.torch.decoders import decoder, tokens
from tests.torch.models import Residual, images, randomise

README = (ROOT / "README.md").read_text()
MODULES = sorted(name.removesuffix(".__init__") for name in modules_on_disk())


def examples_in(name: str) -> list[doctest.DocTest]:
    """The doctests of a module that have examples."""
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


def check_doctests(tests: list[doctest.DocTest]) -> None:
    """Every example prints what it says."""
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    check_doctests(examples_in(name))


def test_the_main_verb_and_the_notation_have_examples():
    names = [test.name for module in MODULES for test in examples_in(module)]
    assert {"fxprune.torch.prepare.prepare", "fxprune.passes.operators.parse"} <= set(names)


def test_check_of_doctests_finds_a_wrong_one():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        check_doctests([wrong])


def run(*command: str, folder: Path) -> str:
    """Run Python somewhere else, as a user with an installed fxprune would; its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_quickstart_halves_a_network_and_keeps_its_accuracy(tmp_path):
    output = run(str(ROOT / "examples" / "quickstart.py"), folder=tmp_path)
    accuracies = dict(re.findall(r"test accuracy (\w+) +([\d.]+)%", output))
    assert accuracies.keys() == {"dense", "gated", "folded"}, output
    assert accuracies["gated"] == accuracies["folded"]
    assert float(accuracies["folded"]) > 95
    assert "folded == onnxruntime" in output
    before, after = re.findall(r"\bmacs\b\D+([\d,]+)\D+([\d,]+)", output)[0]
    share = int(after.replace(",", "")) / int(before.replace(",", ""))
    assert 0.48 < share <= 0.5


BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


WRITTEN = {
    "model.onnx": ["gated == folded", "folded == onnxruntime"],
    "": [],
    "smaller.onnx": [],
    "pairs.onnx": ["kept: "],
    "trials.csv": ["trial", "macs"],
    "small.onnx": ["macs:", "masked == folded"],
    "report.html": [],
}
"""By block of the README the file that it writes, if any, and what it prints."""


def test_readme_shows_python():
    assert len(BLOCKS) == len(WRITTEN)


@pytest.mark.parametrize(("code", "file"), list(zip(BLOCKS, WRITTEN, strict=True)), ids=WRITTEN)
def test_python_of_the_readme_runs(code, file, tmp_path, monkeypatch, capsys):
    def train(gated: torch.nn.Module) -> None:
        optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
        gated(images(2)).square().sum().backward()
        optimizer.step()

    monkeypatch.chdir(tmp_path)
    model = randomise(Residual()) if file else decoder()
    model.pretrained_cfg = {"input_size": images().shape[1:]}
    given = ["model.onnx", "samples.npz"] if file == "small.onnx" else []
    if given:
        fxprune.export_onnx(model, "model.onnx", images(2))
        np.savez("samples.npz", images(8).numpy())
    exec(code, {"model": model, "train": train, "token_ids": tokens()})
    output = capsys.readouterr().out
    assert all(words in output for words in WRITTEN[file])
    assert {path.name for path in tmp_path.iterdir()} == {file, *given} - {""}
