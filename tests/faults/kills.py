"""Work that is killed at any moment, and what must be true of the disk afterwards.

A child process repeats something that writes; SIGKILL ends it after a random time. Then the folder
holds the old file or the new one, whole, and the next child goes on from there.
"""

import copy
import functools
import itertools
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import fxprune
from fxprune.files import draft_of
from fxprune.testing import assert_rewrite_equivalent, randomise
from tests.forking import fork, one_thread

STEPS = 60
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build() -> nn.Module:
    """A small convolutional network with random weights."""
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 16, 10)).eval()
    randomise(model, torch.Generator().manual_seed(0))
    return model


@functools.cache
def versions() -> tuple[nn.Module, nn.Module]:
    """Two folded models that take turns on disk."""
    folded = []
    for kept in (range(0, 16, 2), range(5)):
        gated = fxprune.prepare(build(), X, target=1.0)
        flags = [position in kept for position in range(16)]
        fxprune.set_keep_set(gated, {group: flags for group in ("0", "3")})
        folded.append(fxprune.fold(gated))
    return folded[0], folded[1]


def alternate(write: Callable[[nn.Module], object]) -> None:
    """Write one version and the other for ever."""
    while True:
        for version in versions():
            write(version)


def is_one_of_them(got: nn.Module | Tensor) -> bool:
    """Whether a model, or what it returned, is that of a version."""
    output = got if isinstance(got, Tensor) else got(X)
    expected = [version(X) for version in versions()]
    return any(
        torch.allclose(output, each, rtol=1e-4, atol=1e-4) for each in expected
    ) and output.shape == (4, 10)


# Saving ---------------------------------------------------------------------------------------


def save_for_ever(folder: Path) -> None:
    """Save two versions in turn."""
    alternate(lambda version: fxprune.save(version, folder / "saved", overwrite=True))


def check_saved(folder: Path) -> None:
    """What is there loads, and is one of the two."""
    if (folder / "saved" / "model.safetensors").exists():
        assert is_one_of_them(fxprune.load(folder / "saved", build()).eval())


def shrink_for_ever(folder: Path) -> None:
    """Shrink a training model and save what it folds to."""
    gated = fxprune.prepare(build(), X, target=1.0)
    keep = {group: [position % 2 == 0 for position in range(16)] for group in ("0", "3")}
    fxprune.set_keep_set(gated, keep)
    while True:
        shrunk = copy.deepcopy(gated)
        fxprune.shrink(shrunk, SGD(shrunk.parameters(), lr=0.1))
        fxprune.save(fxprune.fold(shrunk), folder / "saved", overwrite=True)


# Pruning files --------------------------------------------------------------------------------


@functools.cache
def shards() -> tempfile.TemporaryDirectory[str]:
    """A folder with the weights of the model, a file for each layer."""
    place = tempfile.TemporaryDirectory()
    state = build().state_dict()
    files = {name: f"layer{name.partition('.')[0]}.safetensors" for name in state}
    for file in set(files.values()):
        own = {name: state[name] for name in state if files[name] == file}
        save_file(own, Path(place.name) / file)
    index = json.dumps({"weight_map": files})
    (Path(place.name) / "model.safetensors.index.json").write_text(index)
    return place


def prune_files_for_ever(folder: Path) -> None:
    """Prune the files to the two versions in turn, each time into a new folder."""
    for number in itertools.count():
        kept = list((range(0, 16, 2), range(5))[number % 2])
        flags = {group: [position in kept for position in range(16)] for group in ("0", "3")}
        options: dict[str, Any] = {"example_inputs": X, "keep_set": flags, "uniform": False}
        out = folder / f"{os.getpid()}-{number}"
        fxprune.prune_checkpoint(shards().name, out, model=build, **options)


def check_pruned_files(folder: Path) -> None:
    """Every folder that is there loads, and is one of the two."""
    for out in folder.glob("[!.]*"):
        assert is_one_of_them(fxprune.load(out, build()).eval())
        shutil.rmtree(out)


# Exporting ------------------------------------------------------------------------------------


def export_for_ever(folder: Path) -> None:
    """Export two versions in turn."""
    path = folder / "model.onnx"
    alternate(lambda version: fxprune.export_onnx(version, path, X, overwrite=True))


def check_exported(folder: Path) -> None:
    """A file that is there runs in ONNX Runtime, and is one of the two."""
    path = folder / "model.onnx"
    if path.exists():
        session = onnxruntime.InferenceSession(path)
        (output,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
        assert is_one_of_them(torch.from_numpy(output))


# Training -------------------------------------------------------------------------------------


def begin() -> tuple[nn.Module, Optimizer]:
    """The same calls in every process."""
    gated = fxprune.prepare(build().train(), X, target=0.5, steps=STEPS // 2)
    return gated, SGD(gated.parameters(), lr=0.01, momentum=0.9)


def step(gated: nn.Module, optimizer: Optimizer, number: int) -> None:
    """One step on data of its own."""
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    nn.functional.cross_entropy(gated(x), torch.arange(16) % 10).backward()
    optimizer.step()


def train(folder: Path) -> None:
    """Go on from the checkpoint, if there is one, and write another after every step."""
    gated, optimizer = begin()
    path, done = folder / "checkpoint.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        gated.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    for number in range(done, STEPS):
        step(gated, optimizer, number)
        state = {"model": gated.state_dict(), "optimizer": optimizer.state_dict()}
        with draft_of(path, overwrite=True) as draft:
            torch.save({**state, "done": number + 1}, draft)


@functools.cache
def trained_straight() -> dict[str, Tensor]:
    """The end of the same training without a break."""
    with one_thread():
        gated, optimizer = begin()
        for number in range(STEPS):
            step(gated, optimizer, number)
    return gated.state_dict()


def check_trained(folder: Path) -> None:
    """The checkpoint loads; at the end of the training it has the bits of a straight one."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return
    state = torch.load(path, weights_only=True)
    gated, _ = begin()
    gated.load_state_dict(state["model"])
    assert_rewrite_equivalent(gated.eval(), fxprune.fold(gated), inputs=[X])
    if state["done"] == STEPS:
        for name, tensor in trained_straight().items():
            assert torch.equal(tensor, state["model"][name]), name
        path.unlink()  # the next child begins anew


# The loop -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """Work that writes, what must hold afterwards, and how long it may run, in seconds."""

    work: Callable[[Path], None]
    check: Callable[[Path], None]
    longest: float


SCENARIOS = {
    "save": Scenario(save_for_ever, check_saved, 0.05),
    "shrink": Scenario(shrink_for_ever, check_saved, 0.2),
    "train": Scenario(train, check_trained, 0.3),
    "prune files": Scenario(prune_files_for_ever, check_pruned_files, 0.5),
    "export": Scenario(export_for_ever, check_exported, 1.5),
}


def kill(scenario: Scenario, folder: Path, seconds: float) -> bool:
    """Run the work in a child and kill it after a time; whether it was still running."""
    versions(), shards()
    child = fork(lambda: scenario.work(folder))
    deadline = time.monotonic() + seconds
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


def killed(name: str, folder: Path, number: int, seed: int = 0) -> int:
    """Kill the work of a scenario so many times; how often it was still running."""
    generator, scenario = random.Random(seed), SCENARIOS[name]
    running = 0
    for _ in range(number):
        running += kill(scenario, folder, generator.uniform(0.005, scenario.longest))
        scenario.check(folder)
    return running
