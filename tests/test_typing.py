"""What type checkers tell users: models keep their class, and everything public has a type."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fxprune

ROOT = Path(fxprune.__file__).parent.parent
USER = """
from pathlib import Path

import torch
from torch import nn

import fxprune


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def features(self) -> int:
        return self.layer.in_features


model = Net()
gated = fxprune.prepare(model, torch.zeros(1, 4), target=0.5)
optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
reveal_type(gated)
reveal_type(fxprune.fold(gated))
reveal_type(fxprune.fold(gated, optimizer=optimizer))
reveal_type(fxprune.prune(model, torch.zeros(1, 4)))
reveal_type(fxprune.load(Path("folder"), model))
reveal_type(fxprune.merge(fxprune.factorise(model)))
reveal_type(fxprune.progress(gated))
reveal_type(fxprune.verify(gated, fxprune.fold(gated)))
features: int = fxprune.fold(gated).features()
wrong: str = fxprune.fold(gated).features()
"""
REVEALED = [
    *("Net", "Net", "tuple[Net, Optimizer]", "Net", "Net", "Net"),
    *("str", "Verdict"),
]


def checked(tmp_path: Path, text: str) -> str:
    """What `mypy --strict` says of a user's file."""
    (tmp_path / "user.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "user.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_models_keep_their_class_and_nothing_else_is_wrong(tmp_path):
    said = checked(tmp_path, USER)
    bare = re.sub(r"\b[\w.]+\.(?=[A-Z])|builtins\.", "", said)
    assert re.findall(r'Revealed type is "(.*?)"', bare) == REVEALED, said
    errors = [line for line in said.splitlines() if line.startswith("user.py") and "error" in line]
    (error,) = errors
    assert 'expression has type "int", variable has type "str"' in error
