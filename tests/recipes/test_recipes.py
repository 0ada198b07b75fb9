"""The examples of the table of training recipes run, prune, and are all there are."""

import re
import runpy
from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.test_packaging import ROOT

FOLDER = ROOT / "examples" / "recipes"
RECIPES = sorted(file.name for file in FOLDER.glob("*.py"))
TOGETHER = ("distributed.py", "accelerate_fsdp.py")
"""Those that several processes run: see `test_distributed.py`."""
PAGE = ROOT / "examples" / "docs" / "tasks" / "train.md"
LISTED = re.findall(r"^\| `examples/recipes/(\w+\.py)`", PAGE.read_text(), re.M)


def test_documentation_lists_the_recipes():
    assert sorted(LISTED) == RECIPES


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """accelerate keeps the settings of the first Accelerator of a process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TOGETHER])
def test_recipe_runs(name, capsys, caplog):
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    output = capsys.readouterr().out
    assert output.count("gated == folded") == 8
    shares = re.findall(r"macs\W.*?(\d+\.\d)%", output) or [
        f"{100 * float(share):.1f}" for share in re.findall(r"fxprune/macs': ([\d.]+)", output)
    ]
    if name == "resume.py":
        assert "bit-identical: True" in output
    else:
        assert 40 < float(shares[-1]) <= 50
    assert "folding after" not in caplog.text
