"""How much memory, and how long, does pruning a language model of a billion parameters take?

    python -m tests.benchmarks.memory --json memory.json
    python -m tests.benchmarks.memory --layers 2         # a small one, to try the command

The sizes of TinyLlama-1.1B with random weights in bfloat16, in shards of 500 MB, are cut uniformly
to half of the parameters by group norm. Every route runs in a process of its own, one after the
other; its peak is the largest resident set (VmHWM), with Python and all libraries. Routes in memory
begin with the model there. What files give is compared with what memory gives, bit by bit.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import fxprune
from tests import vision
from tests.benchmarks.apart import found_apart
from tests.benchmarks.results import save

GIB = 2**30
SHARD = "500MB"
ROUTES = ("make", "idle", "copy", "in place", "files", "compare")
"""Write the model; have it; `prune`; the same with `copy=False`; `prune_checkpoint`; and whether
the last two gave the same."""
OPTIONS: dict[str, Any] = {"target": {"params": 0.5}, "round_to": 32, "uniform": True}
"""transformers refuses a width that is no multiple of its 32 heads."""


def model_of(layers: int) -> Any:
    """The same weights at every call."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "vocab_size": 32000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4}
    config = transformers.LlamaConfig(**sizes, **heads, num_hidden_layers=layers, dtype="bfloat16")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        return transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def run(route: str, folder: Path, layers: int) -> dict[str, Any]:
    """What one route takes, in this process."""
    if route == "compare":
        return {"same": same(folder / "small", folder / "pruned")}
    model = None if route == "files" else model_of(layers)
    if route == "make":
        model.save_pretrained(folder / "dense", max_shard_size=SHARD)
        return {"parameters": parameters(model)}
    Path("/proc/self/clear_refs").write_text("5")  # the peak of making the model
    start = time.perf_counter()
    if route == "files":
        fxprune.prune_checkpoint(folder / "dense", folder / "small", **OPTIONS)
    elif route != "idle":
        copy = route == "copy"
        model = fxprune.prune(model, model.dummy_inputs, copy=copy, **OPTIONS)
    found = {"seconds": time.perf_counter() - start, "peak_gib": peak()}
    if route == "in place":
        model.save_pretrained(folder / "pruned")
        found["parameters"] = parameters(model)
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two folders give the same bits."""
    states = [
        transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
        for folder in (one, other)
    ]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def peak() -> float:
    """The largest resident set of this process so far, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / GIB


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("ROUTE", "FOLDER"))
    given = parser.parse_args()
    if given.one:
        assert vision.torchvision
        print(json.dumps(run(given.one[0], Path(given.one[1]), given.layers)))
        return
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        for route in ROUTES:
            where = ("--one", route, folder, "--layers", str(given.layers))
            found[route], failure = found_apart(1800, "-m", __spec__.name, *where)
            print(route, failure or found[route], flush=True)
        shards = [file.stat().st_size for file in (Path(folder) / "dense").glob("*.safetensors")]
    found |= {"model_gib": sum(shards) / GIB, "largest_shard_gib": max(shards) / GIB}
    for route in ("copy", "in place"):
        print(f"{route}: {found[route]['peak_gib'] / found['model_gib']:.2f} times the model")
    above = found["files"]["peak_gib"] - found["largest_shard_gib"]
    print(f"files: {above:.2f} GiB above the largest shard")
    save(given.json, [found])


if __name__ == "__main__":
    main()
