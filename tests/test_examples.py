"""What documentation shows runs: doctests, the examples, the Python of README and site."""

import contextlib
import doctest
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fxprune
from tests import vision as vision  # before pages import torchvision or transformers
from tests.test_packaging import ROOT, modules_on_disk

DOCS = ROOT / "examples" / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
SLOW = (
    "coming_from.md",
    "first_steps.md",
    "tasks/deploy.md",
    "tasks/detectors.md",
    "tasks/how_much.md",
    "tasks/keep_layers.md",
    "tasks/language_models.md",
    "tasks/low_rank.md",
    "tasks/onnx_files.md",
    "tasks/own_scores.md",
)
"""Pages that take more than a few seconds."""
NEEDED = {"tasks/detectors.md": "ultralytics", "coming_from.md": "torch_pruning"}
"""Libraries without which a page does not run."""
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
    assert not list(tmp_path.iterdir())
    *_, smaller, faster, accuracy = output.splitlines()
    assert smaller.startswith("smaller:") and faster.startswith("faster:")
    accuracies = {name: value for value, name in re.findall(r"([\d.]+)% (\w+)", accuracy)}
    assert accuracies.keys() == {"dense", "gated", "folded"}, output
    assert accuracies["gated"] == accuracies["folded"]
    assert float(accuracies["folded"]) > 95
    assert "folded == onnxruntime" in output
    after, before = re.findall(r"([\d,]+) of ([\d,]+) multiply", smaller)[0]
    share = int(after.replace(",", "")) / int(before.replace(",", ""))
    assert 0.48 < share <= 0.5


FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)|<img src=\"([^\"]+)\"")


def blocks_of(text: str) -> list[tuple[str, str]]:
    """The Python blocks of a page in order, each with the text right behind it, if any."""
    found: list[tuple[str, str]] = []
    end = -1
    for match in FENCE.finditer(text):
        kind, content = match.groups()
        if kind == "python":
            found.append((content, ""))
        elif found and not text[end : match.start()].strip():
            found[-1] = (found[-1][0], content)
        end = match.end()
    return found


def check_block(code: str, text: str, names: dict[str, Any]) -> str:
    """Python runs and prints the text, in which `...` stands for anything; what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "page", "exec"), names)
    output = printed.getvalue()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert not text or doctest.OutputChecker().check_output(text, output, flags), output
    return output


def check_page(text: str) -> None:
    """The blocks of a page run one after the other, as somebody who reads it would paste them."""
    names: dict[str, Any] = {"__name__": "page"}
    for code, output in blocks_of(text):
        check_block(code, output, names)


def speed_of(page: str) -> Any:
    return pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])


@pytest.mark.parametrize(
    "page", [speed_of(name) for name, path in PAGES.items() if blocks_of(path.read_text())]
)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    if page in NEEDED:
        pytest.importorskip(NEEDED[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    check_page(PAGES[page].read_text())


def test_list_of_slow_pages_is_of_pages_with_python():
    assert all(blocks_of(PAGES[page].read_text()) for page in [*SLOW, *NEEDED])


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```", AssertionError),
        ("```python\nx = 1\n```\nand\n```python\nx / 0\n```", ZeroDivisionError),
    ],
)
def test_check_of_a_page_finds_what_is_wrong(page, error):
    check_page("```python\nprint(1, 2)\n```\n```text\n1 ...\n```")
    with pytest.raises(error):
        check_page(page)


def test_blocks_of_the_readme_run_as_pasted_and_meet_their_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, file = (code for code, _ in blocks_of((ROOT / "README.md").read_text()))
    names: dict[str, Any] = {}
    printed = check_block(module, "", names)
    assert "gated == folded" in printed and "folded == onnxruntime" in printed
    report = fxprune.report(names["folded"], latency=False)
    assert 0.45 < report.after["macs"] / report.before["macs"] <= 0.5
    names = {}
    assert "masked == folded" in check_block(file, "", names)
    result = names["result"]
    assert 0.48 < result.costs_after["macs"] / result.costs_before["macs"] <= 0.5
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "network.onnx",
        "small.onnx",
    }


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_between_files_lead_somewhere(page):
    links = ["".join(found) for found in LINK.findall((ROOT / page).read_text())]
    assert not [link for link in links if not (ROOT / link).exists()]
