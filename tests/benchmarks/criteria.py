"""What is left of accuracy by each criterion, pruned without training, on both routes?

    python -m tests.benchmarks.criteria --json criteria.json

Small networks are trained on scikit-learn's digits (8 x 8 pixels; nothing is downloaded), pruned to
half of their multiply-accumulates by every criterion, with and without corrected weights, and
tried on images that neither training nor criteria have seen. Takes two to three minutes on a core.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fxprune
from fxprune.criteria import DEPTH, ON_FLOW
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import session_of
from tests.benchmarks.results import save

LAST = "wanda, depth last"
METHODS = (
    "magnitude",
    "group_norm",
    "bn_scale",
    "random",
    *ON_FLOW,
    "saliency",
    DEPTH,
    "taylor",
    LAST,
)
"""All criteria, and one of them that says nothing of branches, with torch."""
TRAINED_ON, LOOKED_AT, BATCH = 1200, 256, 64


class Block(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add a branch."""
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def convolutional() -> nn.Module:
    """Four residual blocks."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(stem, *(Block(16) for _ in range(4)), pool)


class Tokens(nn.Module):
    """Rows of pixels as tokens, with a learned position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        return self.embedding(x.squeeze(1)) + self.position


class Layer(nn.Module):
    """Attention and an MLP, each beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add two branches."""
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Three layers, and a classifier of the mean token."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = Tokens(width)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.head(self.norm(self.layers(self.tokens(x))).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": convolutional,
    "transformer": Transformer,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model, pruned."""

    model: str
    seed: int
    method: str
    route: str
    corrected: bool
    accuracy: float
    macs: float
    seconds: float


def digits() -> tuple[Tensor, Tensor]:
    """All images and labels, in a fixed random order."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = torch.from_numpy(found.images[order]).float().unsqueeze(1) / 16
    return images, torch.from_numpy(found.target[order]).long()


def trained(build: Callable[[], nn.Module], seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """A network after ten epochs."""
    torch.manual_seed(seed)
    model = build().train()
    steps = 10 * len(x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(outputs: Any, labels: Tensor) -> float:
    """The share of labels that are guessed."""
    return float((torch.as_tensor(outputs).argmax(1) == labels).float().mean())


class Trial:
    """One trained network and what it is tried on."""

    def __init__(self, name: str, seed: int, target: float) -> None:
        x, y = digits()
        self._name, self._seed, self._target = name, seed, target
        self._x, self._y = x[TRAINED_ON:], y[TRAINED_ON:]
        self._model = trained(MODELS[name], seed, x[:TRAINED_ON], y[:TRAINED_ON])
        parts = (torch.split(array[:LOOKED_AT], BATCH) for array in (x, y))
        self._data = list(zip(*parts, strict=True))
        file = io.BytesIO()
        torch.onnx.export(
            self._model,
            (x[:2],),
            file,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
        self._file = file.getvalue()

    @torch.no_grad()
    def dense(self) -> Row:
        """The network as it is."""
        found = accuracy(self._model(self._x), self._y)
        return Row(self._name, self._seed, "none", "torch", False, found, 1.0, 0.0)

    def row(self, method: str, route: str, corrected: bool) -> Row | None:
        """Pruned by one criterion; None where that finds nothing to rank by."""
        start = time.perf_counter()
        try:
            found, macs = getattr(self, f"_{route}")(method, corrected)
        except fxprune.InputError:
            return None
        seconds = time.perf_counter() - start
        return Row(self._name, self._seed, method, route, corrected, found, macs, seconds)

    @torch.no_grad()
    def _torch(self, method: str, corrected: bool) -> tuple[float, float]:
        torch.manual_seed(self._seed)
        gated = fxprune.prepare(self._model, self._x[:2], target=self._target)
        ranks = fxprune.importance(gated, "wanda" if method == LAST else method, self._data)
        if method == LAST:
            ranks = {name: own for name, own in ranks.items() if not name.endswith("+")}
        fxprune.reach_target(gated, ranks)
        if corrected:
            fxprune.refit(gated, self._data)
        small = fxprune.fold(gated).eval()
        costs = fxprune.report(small, latency=False).as_dict()
        return accuracy(small(self._x), self._y), costs["macs_after"] / costs["macs_before"]

    def _onnx(self, method: str, corrected: bool) -> tuple[float, float]:
        data = [x.numpy() for x, _ in self._data]
        result = fxprune.prune_onnx(
            self._file, target=self._target, method=method, data=data, correct=corrected
        )
        small = load_onnx(result.model)
        with session_of(small) as session:
            (outputs,) = session.run({"x": self._x.numpy()}, [str(small.graph.outputs[0].name)])
        return accuracy(outputs, self._y), result.costs_after["macs"] / result.costs_before["macs"]


def rows(options: argparse.Namespace) -> list[Row]:
    """Every network, criterion and route."""
    found: list[Row | None] = []
    for name in options.models:
        for seed in range(options.seeds):
            trial = Trial(name, seed, options.target)
            found.append(trial.dense())
            for method in options.methods:
                for route in ("torch", "onnx"):
                    found += [trial.row(method, route, corrected) for corrected in (False, True)]
    return [row for row in found if row is not None]


def table(found: list[Row], model: str) -> Table:
    """Mean accuracies over seeds."""
    columns = [(route, corrected) for route in ("torch", "onnx") for corrected in (False, True)]
    titles = [f"{route}{', corrected' * corrected}" for route, corrected in columns]
    made = Table("criterion", *titles, title=model)
    for method in dict.fromkeys(row.method for row in found if row.model == model):
        own = [row for row in found if (row.model, row.method) == (model, method)]
        cells = []
        for column in columns:
            values = [row.accuracy for row in own if (row.route, row.corrected) == column]
            cells.append(f"{statistics.mean(values):.1%}" if values else "-")
        made.add_row(method, *cells)
    return made


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=float, default=0.5, help="share of the MACs kept")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = rows(options)
    for model in options.models:
        Console().print(table(found, model))
    print(f"{time.perf_counter() - start:.0f} s")
    save(options.json, found)


if __name__ == "__main__":
    main()
