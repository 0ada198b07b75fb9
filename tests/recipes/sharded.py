"""What every process of the test of accelerate's FSDP2 runs: a gated Llama, three steps, one fold.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.recipes.sharded FILE
"""

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

import fxprune
from tests import vision  # before transformers
from tests.torch.test_language_models import llama

STEPS = 3


def begin() -> Any:
    """The same gated model in every process; its target is reached by the last step."""
    ids = batch(0)
    example = {"input_ids": ids, "labels": ids}
    return fxprune.prepare(llama().train(), example, target=0.5, steps=STEPS, uniform=True)


def batch(number: int) -> Tensor:
    """Four sentences."""
    return torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(number))


def train(model: Any, optimizer: Any, rank: int, world: int, backward: Any) -> None:
    """Each process takes a part of every batch."""
    for number in range(STEPS):
        ids = batch(number)[rank::world]
        optimizer.zero_grad()
        backward(model(input_ids=ids, labels=ids).loss)
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def alone() -> Any:
    """What one process makes of the whole batches."""
    gated = begin()
    train(gated, sgd(gated), 0, 1, lambda loss: loss.backward())
    return gated


def together() -> tuple[Any, list[str]]:
    """What several make of their parts, and which modules accelerate had sharded."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    gated = begin()
    sharded = copy.deepcopy(gated)
    sharded, optimizer = accelerator.prepare(sharded, sgd(sharded))
    train(sharded, optimizer, dist.get_rank(), dist.get_world_size(), accelerator.backward)
    found = [name for name, module in sharded.named_modules() if hasattr(type(module), "unshard")]
    options = StateDictOptions(full_state_dict=True)
    gated.load_state_dict(get_model_state_dict(sharded, options=options))
    return gated, found


if __name__ == "__main__":
    assert vision.torchvision
    gated, sharded = together()
    keep = {name: flags.tolist() for name, flags in fxprune.keep_set(gated).items()}
    rank = dist.get_rank()
    folded = fxprune.fold(gated)
    torch.save(
        {"keep": keep, "sharded": sharded, "folded": folded.state_dict()}, f"{sys.argv[1]}{rank}"
    )
    dist.barrier()
    dist.destroy_process_group()
