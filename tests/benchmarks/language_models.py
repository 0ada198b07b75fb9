"""What do criteria cost a language model? All of them, beside Torch-Pruning and a small model.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.language_models --out FOLDER
    python -m tests.benchmarks.language_models --out FOLDER --table     # what is there, as Markdown
    python -m tests.benchmarks.language_models --out FOLDER --methods wanda flap    # these only
    python -m tests.benchmarks.language_models --out FOLDER --device cuda --hidden 512 --layers 12

The model, its text and its training are those of `examples/language_model.py`. Every row is pruned
from the same dense model, measured, and trained on for a twentieth of the dense model's steps with
that as teacher. `narrow` is a thinner Llama of as many parameters, trained from scratch for as long
as the dense model and the recovery took. Times are of the processor on a CPU, so that other work
counts little; speeds are over the dense model's, in turns. FOLDER keeps the dense model and all
rows, and a run goes on where the last one ended.
"""

import argparse
import copy
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from safetensors.torch import load_model, save_model
from torch import nn

import tests.vision  # noqa: F401  (before transformers imports torchvision)
from examples.language_model import (
    RECOVERY,
    Setting,
    bits_per_byte,
    generating,
    llama,
    per_second,
    pruned,
    reading,
    samples,
    train,
)
from examples.language_model import corpus as whole_corpus
from fxprune.criteria import ON_FLOW
from fxprune.torch.criteria import METHODS
from tests.benchmarks.results import Results, read

REMOVED = (0.2, 0.5)
"""Shares of the parameters that are removed."""
PEERS = {
    "magnitude": tp.importance.GroupMagnitudeImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}
RANKING_DEPTH = (*ON_FLOW, "saliency", "taylor")
"""What ranks layers among channels."""
WIDTH_ALONE = "fxprune, layers stay,"
Row = dict[str, Any]


class Experiment:
    """A dense model, the text, and the rows that are known."""

    def __init__(self, setting: Setting, folder: Path, runs: int, count: int) -> None:
        self.setting, self.runs, self.count = setting, runs, count
        self.text, self.unseen = whole_corpus()
        self.results = Results(folder / "rows.json", go_on=True)
        self.rows = self.results.rows
        self.dense = llama(setting)
        weights = folder / "dense.safetensors"
        if weights.exists():
            load_model(self.dense, weights, device=setting.device)
            self.dense.eval()
        else:
            seconds = self.seconds(
                lambda: train(self.dense, self.text, setting, steps=setting.steps)
            )
            save_model(self.dense, str(weights))
            row = {"tool": "dense", "method": "", "removed": 0.0, "uniform": True}
            self.add({**row, **sizes_of(self.dense), "bits": self.bits(self.dense), "s": seconds})

    def add(self, row: Row) -> None:
        """Keep a row, in the file as well."""
        print(row, flush=True)
        self.results.add(row)

    def bits(self, model: nn.Module) -> float:
        """Bits per byte of files that no model has seen."""
        return bits_per_byte(model, self.unseen, self.setting)

    def seconds(self, action: Callable[[], Any]) -> float:
        """Of the processor, or of the clock where another device computes."""
        clock = self.setting.clock
        start = clock()
        action()
        if self.setting.device != "cpu":
            torch.cuda.synchronize()
        return clock() - start

    def speeds(self, model: nn.Module) -> Row:
        """How many times as fast as the dense model: writing in torch, reading in ONNX Runtime."""
        if not self.runs:
            return {}
        found, small = {}, self.calls(model)
        for name, dense in self.dense_calls.items():
            calls = {"dense": dense, "small": small[name]}
            speed = per_second(calls, self.count, self.runs, self.setting.clock)
            found[name] = speed["small"] / speed["dense"]
            found[f"{name}_per_s"] = speed["small"]
        return found

    def calls(self, model: nn.Module) -> dict[str, Callable[[], Any]]:
        """What is timed of a model."""
        ways = {"generate": generating, "onnx": reading}
        return {n: way(model, self.unseen, self.setting, self.count) for n, way in ways.items()}

    @cached_property
    def dense_calls(self) -> dict[str, Callable[[], Any]]:
        """Those of the dense model."""
        return self.calls(self.dense)

    def measured(self, make: Callable[[], Any]) -> Row:
        """What a small model is like before and after its recovery; or why there is none."""
        made: list[Any] = []
        try:
            taken = self.seconds(lambda: made.append(make()))
            (model,) = made
            row = {**sizes_of(model), "bits_pruned": self.bits(model), "s_pruning": taken}
            row |= self.speeds(model)
        except Exception as error:  # of another library, or a criterion that does not fit
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        steps = int(RECOVERY * self.setting.steps)
        learn = partial(train, model, self.text, self.setting, steps=steps, seed=3)
        row["s"] = taken + self.seconds(lambda: learn(teacher=self.dense))
        return {**row, "bits": self.bits(model)}

    def ours(self, method: str, removed: float, uniform: bool, kept: tuple[str, ...] = ()) -> Any:
        """Pruned by fxprune, but for what is kept."""
        options = {"method": method, "uniform": uniform, "ignore": kept}
        target = {"params": 1 - removed}
        return pruned(self.dense, self.text, self.setting, target=target, **options)

    def theirs(self, method: str, removed: float) -> Any:
        """Pruned by Torch-Pruning: the least ratio that removes enough, by bisection."""
        least, most, best = 0.0, 0.95, None
        for _ in range(8):
            ratio = (least + most) / 2
            found = self._at_ratio(method, ratio)
            if sizes_of(found)["params"] <= (1 - removed) * sizes_of(self.dense)["params"]:
                most, best = ratio, found
            else:
                least = ratio
        if best is None:
            raise RuntimeError("no ratio removes as much")
        return best.eval()

    def _at_ratio(self, method: str, ratio: float) -> Any:
        """Its own way for Llamas: heads go whole, caches stay out of its graph."""
        model = copy.deepcopy(self.dense)
        model.config.use_cache = False
        example = next(samples(self.text, self.setting, seed=1))[:1, :-1]
        layers = [each.self_attn for each in model.model.layers]
        heads = {m: 4 for a in layers for m in (a.q_proj, a.k_proj, a.v_proj)}
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=PEERS[method](),
            pruning_ratio=ratio,
            head_pruning_ratio=ratio,
            num_heads=heads,
            prune_num_heads=True,
            prune_head_dims=False,
            ignored_layers=[model.lm_head],
            output_transform=lambda output: output.logits,
        )
        if method == "taylor":
            for tokens in islice(samples(self.text, self.setting, seed=1), 16):
                model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss.backward()
        pruner.step()
        model.zero_grad()
        model.tie_weights()
        model.config.use_cache = True
        return model

    def narrow(self, removed: float, seconds: float) -> Row:
        """A thinner model, trained for as long as pruning one took in all."""
        wanted = (1 - removed) * sizes_of(self.dense)["params"]
        widths = range(8, self.setting.hidden, 8)
        setting = next(
            s
            for s in (replace(self.setting, hidden=w) for w in reversed(widths))
            if sizes_of(llama(s))["params"] <= wanted
        )
        trial = llama(setting)
        once = self.seconds(lambda: train(trial, self.text, setting, steps=20)) / 20
        steps = max(1, round(seconds / once))
        model = llama(setting)
        taken = self.seconds(lambda: train(model, self.text, setting, steps=steps))
        row = {**sizes_of(model), "bits": self.bits(model), "s": taken, "steps": steps}
        return {**row, **self.speeds(model)}

    def run(self, methods: Collection[str] = (*METHODS, "")) -> None:
        """All rows of some methods ("" is a model that was trained as small) not known yet."""
        known = {(r["tool"], r["method"], r["removed"], r["uniform"]) for r in self.rows}
        for key, make in self.plan():
            if key[1] in methods and key not in known:
                names = ("tool", "method", "removed", "uniform")
                self.add({**dict(zip(names, key, strict=True)), **make()})

    def plan(self) -> Iterator[tuple[tuple[str, str, float, bool], Callable[[], Row]]]:
        """What makes every row, by its key."""
        for removed in REMOVED:
            for method in METHODS:
                for uniform in (True, False):
                    make = partial(self.ours, method, removed, uniform)
                    yield ("fxprune", method, removed, uniform), partial(self.measured, make)
                if method in RANKING_DEPTH:
                    make = partial(self.ours, method, removed, True, ("*: layer",))
                    yield (WIDTH_ALONE, method, removed, True), partial(self.measured, make)
            for method in PEERS:
                make = partial(self.theirs, method, removed)
                yield ("Torch-Pruning", method, removed, True), partial(self.measured, make)
        for removed in reversed(REMOVED):
            yield ("narrow", "", removed, True), partial(self._narrow_in_time, removed)

    def _narrow_in_time(self, removed: float) -> Row:
        ours = [r for r in self.rows if r["tool"] == "fxprune" and r["removed"] == removed]
        times = [r["s"] for r in ours if "s" in r]
        dense = next(r["s"] for r in self.rows if r["tool"] == "dense")
        return self.narrow(removed, dense + max(times))


def sizes_of(model: nn.Module) -> Row:
    """How many parameters a model has."""
    return {"params": sum(p.numel() for p in model.parameters())}


def table(rows: list[Row]) -> str:
    """The rows as Markdown, best first among those that lost as much."""
    lines = [
        "| removed | row | parameters | bits per byte as pruned | recovered | `generate` | ONNX |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["removed"], r.get("bits", math.inf))):
        name = " ".join(filter(None, (row["tool"], row["method"] and f"`{row['method']}`")))
        name += "" if row["uniform"] else ", layers free"
        if "error" in row:
            lines.append(f"| {row['removed']:.0%} | {name} | {row['error']} | | | | |")
            continue
        cells = [
            f"{row['removed']:.0%}",
            name,
            f"{row['params']:,}",
            f"{row['bits_pruned']:.3f}" if "bits_pruned" in row else "",
            f"{row['bits']:.3f}",
            *(f"{row[way]:.2f} x" if way in row else "" for way in ("generate", "onnx")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the model")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5, help="of what is timed; 0 times nothing")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, ""], choices=METHODS)
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few steps")
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("fxprune").setLevel(logging.ERROR)
    if options.table:
        print(table(read(options.out / "rows.json")["rows"]))
        return
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.hidden, options.layers, steps=options.steps, device=options.device)
    runs, count = (1, 8) if options.quick else (options.runs, 128)
    setting = setting.quick() if options.quick else setting
    experiment = Experiment(setting, options.out, runs, count)
    experiment.run(options.methods)
    print(table(experiment.rows))


if __name__ == "__main__":
    main()
