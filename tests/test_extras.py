"""A library that is missing is told with the extra that installs it, wherever it is needed."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fxprune.extras import EXTRAS, extra_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDS = {
    "fxprune.prepare": "torch",
    "fxprune.save": "safetensors",
    "fxprune.prune_onnx": "onnx",
    "fxprune.export_onnx": "onnxruntime",
    "fxprune.search": "optuna",
    "fxprune.scores": "torch",
    "fxprune.environments": "gymnasium",
    "fxprune.integrations.lightning": "lightning",
    "fxprune.integrations.transformers": "transformers",
    "fxprune.testing.networks": "hypothesis",
    "fxprune.testing.onnx_models": "hypothesis",
    "fxprune.testing.assert_unchanged": "torch",
}
"""A public name or module, and something that it does without at first sight only."""

ASK = """
import importlib, sys
for name in {blocked}: sys.modules[name] = None
home, _, name = {name!r}.rpartition(".")
try:
    try:
        importlib.import_module({name!r})
    except ModuleNotFoundError as error:
        if error.name != {name!r}: raise
        getattr(importlib.import_module(home), name)
except ImportError as error:
    print(type(error).__name__, error)
"""


SLOW = {"safetensors", "onnxruntime", "optuna", "transformers", "hypothesis"}
"""What is missed only after torch has been loaded."""


@pytest.mark.parametrize(
    ("name", "library"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] if each[1] in SLOW else [])
        for each in NEEDS.items()
    ],
)
def test_a_missing_library_is_told_with_its_extra(name, library):
    code = ASK.format(blocked=[library], name=name)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    told = f'MissingExtraError {name} needs {library}: pip install "fxprune[{extra_of(library)}]"'
    assert done.stdout.strip() == told, done.stderr[-500:]


def test_the_check_finds_what_is_not_missing():
    code = ASK.format(blocked=["torch"], name="fxprune.errors")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "" and done.returncode == 0


def test_every_public_module_is_asked():
    lazy = {"fxprune", "fxprune.testing"}
    free = {"fxprune.errors"}
    public = {"fxprune.scores", "fxprune.environments", "fxprune.integrations.lightning"}
    public |= {"fxprune.integrations.transformers"}
    asked = {name if name in public else name.rpartition(".")[0] for name in NEEDS}
    assert asked == lazy | public
    assert all(importlib.import_module(name).__doc__ for name in asked | free)


def test_extras_install_what_they_are_named_for():
    names = {"onnx_ir": "onnx-ir"}
    for extra, libraries in EXTRAS.items():
        installed = {
            re.match(r"[\w.-]+", each)[0] for each in PROJECT["optional-dependencies"][extra]
        }
        assert {names.get(library, library) for library in libraries} <= installed
