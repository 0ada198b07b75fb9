"""What every process of the distributed tests runs: train each method, save what came out.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.recipes.ranks FOLDER KIND
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fxprune
from tests.recipes.training import BATCH, SETTINGS, Plain, begin, loss_of, sgd
from tests.torch.models import Residual, images

STEPS = 14
METHODS_BY_KIND = {"ddp": list(SETTINGS), "fsdp": [m for m in SETTINGS if m != "consensus"]}


def train_part(model: nn.Module, rank: int = 0, world: int = 1, parts: int = 1) -> None:
    """Train on every `world`th sample, in `parts` whose gradients are accumulated."""
    optimizer = sgd(model)
    for seed in range(STEPS):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        chunks = images(BATCH, seed)[rank::world].chunk(parts)
        for index, x in enumerate(chunks):
            last = index == parts - 1
            with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                (loss_of(model, seed, x) / parts).backward()
        optimizer.step()


def full_state(model: nn.Module) -> dict[str, Any]:
    """A state_dict of whole tensors, in every process."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def parallel(kind: str, gated: nn.Module) -> nn.Module:
    """The model as it trains in several processes."""
    return DistributedDataParallel(gated) if kind == "ddp" else fully_shard(gated)


def refusals(sharded: nn.Module) -> dict[str, str]:
    """What the verbs say of a sharded model."""
    said = {}
    verbs = {
        "fold": fxprune.fold,
        "verify": lambda model: fxprune.verify(model, model),
        "prepare": lambda model: fxprune.prepare(fully_shard(Residual()), images(1)),
    }
    for name, verb in verbs.items():
        try:
            verb(sharded)
        except fxprune.InputError as error:
            said[name] = str(error)
    return said


def trained(kind: str) -> dict[str, Any]:
    """By method, what this process has at the end."""
    rank, world = dist.get_rank(), dist.get_world_size()
    results: dict[str, Any] = {}
    for method in METHODS_BY_KIND[kind]:
        model = parallel(kind, begin(method, Plain()))
        train_part(model, rank, world, parts=2)
        results[method] = full_state(model) if kind == "fsdp" else model.module.state_dict()
    # Statistics of batches differ by process; what is kept must not.
    model = parallel(kind, begin("static", Residual()))
    train_part(model, rank, world)
    results["keep-set with batch norm"] = fxprune.keep_set(model)
    results["refusals"] = refusals(model) if kind == "fsdp" else {}
    if kind == "fsdp":
        try:
            train_part(parallel(kind, begin("consensus", Plain())), rank, world)
        except fxprune.InputError as error:
            results["refusals"]["consensus"] = str(error)
    return results


if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    dist.init_process_group("gloo")
    torch.save(trained(kind), Path(folder) / f"{kind}{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
