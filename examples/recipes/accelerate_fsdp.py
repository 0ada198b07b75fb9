"""accelerate with FSDP2: a language model whose layers are sharded over processes.

torchrun --standalone --nproc-per-node 2 examples/recipes/accelerate_fsdp.py
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

import fxprune


def main() -> None:
    """Train in every process; fold and verify in the first."""
    torch.manual_seed(0)  # all processes begin with one model
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, use_cache=False)
    tokens = torch.randint(64, (256, 16))
    example = {"input_ids": tokens[:2], "labels": tokens[:2]}
    gated: Any = fxprune.prepare(LlamaForCausalLM(config), example, target=0.5, steps=12)

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
    )
    on_cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, fsdp_plugin=plugin)
    if on_cpu:  # where accelerate shards only if told so by hand
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    loader = DataLoader(TensorDataset(tokens), batch_size=8)
    sharded = copy.deepcopy(gated)
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=1e-3)
    sharded, optimizer, loader = accelerator.prepare(sharded, optimizer, loader)
    for (ids,) in loader:
        optimizer.zero_grad()
        accelerator.backward(sharded(input_ids=ids, labels=ids).loss)
        optimizer.step()

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(sharded, options=options)  # whole in the first process
    if accelerator.is_main_process:
        gated.load_state_dict(state)
        folded = fxprune.fold(gated)
        print(fxprune.verify(gated, folded))
        print(fxprune.report(folded, latency=False))


if __name__ == "__main__":
    main()
    dist.barrier()  # leave together
    dist.destroy_process_group()
