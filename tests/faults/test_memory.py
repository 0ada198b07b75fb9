"""How much memory `prepare` and `fold` take, and when it is free again."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import fxprune
from fxprune.torch.frontend.recorder import Recorder
from tests.torch.models import Auxiliary, Residual, images

MEASURE = """
import json, resource, shutil, sys, tempfile, threading, torch
from safetensors.torch import save_file
from torch import nn
import fxprune

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def prepared(model, x):
    gated = fxprune.prepare(model, x, target=0.5)
    fxprune.reach_target(gated)
    return gated

small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
fxprune.fold(prepared(small, torch.randn(2, 4)))  # loads what is loaded once
model = nn.Sequential(*(layer for _ in range(16) for layer in (nn.Linear(2048, 2048), nn.ReLU())))
model.append(nn.Linear(2048, 10))
parameters = sum(p.numel() * p.element_size() for p in model.parameters())
base = resident() - parameters
if sys.argv[1] == "files":
    folder = tempfile.mkdtemp()
    names = {name: f"{name}.safetensors" for name in model.state_dict()}
    for name, tensor in model.state_dict().items():
        save_file({name: tensor}, f"{folder}/{names[name]}")
    with open(f"{folder}/model.safetensors.index.json", "w") as index:
        json.dump({"weight_map": names}, index)
    model = model.to("meta")
    del tensor
peak, done = resident(), threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
x = torch.randn(1, 2048)
if sys.argv[1] == "files":
    options = {"model": model, "example_inputs": x}
    fxprune.prune_checkpoint(folder, f"{folder}/out", **options)
    shutil.rmtree(folder)
elif sys.argv[1] == "in place":
    folded = fxprune.prune(model, x, copy=False)
elif sys.argv[1] == "kept":
    gated = prepared(model, x)
    folded = fxprune.fold(gated)
else:
    model = prepared(model, x)
    folded = fxprune.fold(model)
peak = max(peak, resident())
done.set()
watcher.join()
print((peak - base) / parameters)
"""


def peak(model: str) -> float:
    """The peak of prepare and fold at half of the MACs, over the size of the model."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, model],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent.parent,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return float(done.stdout.split()[-1])


def test_prepare_and_fold_need_what_three_models_need():
    """The model, its gated copy and half of it folded are 2.5 times its parameters."""
    share = peak("kept")
    assert 2.4 < share <= 2.6, f"prepare and fold peak at {share:.2f} times the parameters"


def test_model_that_the_caller_lets_go_makes_room_for_the_fold():
    """The model and its gated copy are twice its parameters."""
    share = peak("let go")
    assert 1.9 < share <= 2.1, f"prepare and fold peak at {share:.2f} times the parameters"


def test_pruning_in_place_needs_what_the_model_needs_and_a_matrix():
    """One of its 16 matrices is 0.06 of the model; weights are measured in pieces of 8 MiB."""
    share = peak("in place")
    assert 0.99 < share <= 1.15, f"prune in place peaks at {share:.2f} times the parameters"


def test_pruning_files_needs_a_part_of_what_the_model_needs():
    """A matrix is read, cut and written, by 0.06 of the model; measured at 64 MiB a piece."""
    share = peak("files")
    assert 0.01 < share <= 0.4, f"prune_checkpoint peaks at {share:.2f} times the parameters"


class Walker(nn.Module):
    """A recurrent layer, which keeps its weights in a list as well."""

    def __init__(self):
        super().__init__()
        self.walk, self.last = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.walk(x.flatten(2)[..., :8])[0])


def prepared(model: nn.Module) -> nn.Module:
    gated = fxprune.prepare(model, images(1), target=0.5)
    fxprune.reach_target(gated)
    return gated


VERBS = {"model": prepared, "gated": fxprune.fold, "folded": lambda folded: None}
"""What comes after each model."""


def test_weights_are_freed_as_they_are_folded():
    model = Residual()
    parameters = {key: weakref.ref(p) for key, p in model.named_parameters()}
    gc.disable()
    try:
        small = fxprune.prune(model, images(1), copy=False)
    finally:
        gc.enable()
    own = {id(parameter) for parameter in small.parameters()}
    left = {key: parameter() for key, parameter in parameters.items()}
    assert all(p is None or id(p) in own for p in left.values())
    assert any(p is None for p in left.values())


def left_after(build: type[nn.Module]) -> dict[str, list[str]]:
    """The parameters of each model that live on without it, though nothing looks for cycles."""
    left: dict[str, list[str]] = {}
    model: Any = build()
    gc.disable()
    try:
        for name, verb in (
            ("model", prepared),
            ("gated", fxprune.fold),
            ("folded", lambda _: None),
        ):
            parameters = {key: weakref.ref(p) for key, p in model.named_parameters()}
            model = verb(model)
            left[name] = [key for key, parameter in parameters.items() if parameter() is not None]
    finally:
        gc.enable()
    return left


@pytest.mark.parametrize("build", [Residual, Auxiliary, Walker])
def test_models_are_freed_when_they_are_let_go(build):
    assert left_after(build) == {"model": [], "gated": [], "folded": []}


def test_model_that_is_held_is_found(monkeypatch):
    monkeypatch.setattr(Recorder, "let_go", lambda recorder: None)
    assert "stem.0.weight" in left_after(Residual)["model"]
