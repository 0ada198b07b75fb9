"""DistributedDataParallel and FSDP2: the gates see reduced gradients, so all processes agree.

torchrun --standalone --nproc-per-node 2 examples/recipes/distributed.py [ddp] [fsdp]
"""

import copy
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fxprune


def main(kind: str) -> None:
    """Train in every process; fold and verify in the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    images, labels = torch.randn(1280, 1, 8, 8), torch.randint(10, (1280,))
    gated = fxprune.prepare(model, images[:1], target=0.5, steps=30)
    # Shard the gated model as one: layers are read by the graph around them.
    parallel = (
        DistributedDataParallel(gated) if kind == "ddp" else fully_shard(copy.deepcopy(gated))
    )

    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9)
    rank, world = dist.get_rank(), dist.get_world_size()
    for x, y in zip(images.split(32), labels.split(32), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(x[rank::world]), y[rank::world]).backward()
        optimizer.step()

    if kind == "fsdp":  # gather into the model that is not sharded
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(parallel, options=options)  # full in the first process
        if rank == 0:
            gated.load_state_dict(state)
    if rank == 0:
        folded = fxprune.fold(gated)
        print(fxprune.verify(gated, folded))
        print(fxprune.report(folded, latency=False))


if __name__ == "__main__":
    dist.init_process_group("gloo")  # "nccl" on GPUs
    for each in sys.argv[1:] or ["ddp", "fsdp"]:
        main(each)
    dist.barrier()  # leave together
    dist.destroy_process_group()
