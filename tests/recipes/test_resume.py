"""Going on in the middle, from a file, gives the bits of going straight through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fxprune
from tests.forking import one_thread
from tests.recipes.training import SETTINGS, assert_prunes, assert_same_bits, begin, sgd, train
from tests.test_packaging import ROOT

STEPS, BREAK = 14, 5


def save_in_the_middle(method: str, file: Path) -> None:
    """Train up to the break."""
    gated = begin(method)
    optimizer = sgd(gated)
    train(gated, optimizer, range(BREAK))
    torch.save([gated.state_dict(), optimizer.state_dict()], file)


def resume(method: str, file: Path) -> torch.nn.Module:
    """Load into a model that is freshly prepared, and train to the end."""
    gated = begin(method)
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.add_(1.0)
    optimizer = sgd(gated)
    states = torch.load(file, weights_only=True)
    gated.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    train(gated, optimizer, range(BREAK, STEPS))
    return gated


def straight(method: str) -> torch.nn.Module:
    """Without a break."""
    gated = begin(method)
    train(gated, sgd(gated), range(STEPS))
    assert_prunes(gated)
    return gated


@pytest.mark.parametrize("method", SETTINGS)
def test_training_goes_on_bit_by_bit(method, tmp_path):
    save_in_the_middle(method, tmp_path / "middle.pt")
    assert_same_bits(straight(method), resume(method, tmp_path / "middle.pt"))


@pytest.mark.slow
@one_thread()
def test_training_goes_on_bit_by_bit_in_another_process(tmp_path):
    for index, method in enumerate(SETTINGS):
        save_in_the_middle(method, tmp_path / f"{index}.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.recipes.test_resume", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for index, method in enumerate(SETTINGS):
        gated = begin(method)
        gated.load_state_dict(torch.load(tmp_path / f"{index}.pt", weights_only=True))
        assert_same_bits(straight(method), gated)
        fxprune.verify(gated, fxprune.fold(gated))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, each in enumerate(SETTINGS):
        path = Path(sys.argv[1]) / f"{number}.pt"
        torch.save(resume(each, path).state_dict(), path)
