"""A language model of the bytes of Python's standard library, pruned, and taught by what it was.

    python -m examples.language_model                  # a Llama of 0.8 million weights, one core
    python -m examples.language_model --device cuda --hidden 512 --layers 12 --steps 20000
    python -m examples.language_model --quick           # seconds, to see it run

Nothing is downloaded: the text is what Python came with. The model is a Llama of transformers
(`pip install "fxprune[integrations]"`), trained from scratch. What is left of it after pruning goes
on for a twentieth of the steps with the whole model as teacher. Files are split, so no text that is
tested was seen. `tests/benchmarks/language_models.py` compares every criterion by these functions.
"""

import argparse
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

import fxprune

RECOVERY = 0.05
"""The share of the training's steps that a pruned model learns on."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How large the model is, and how it trains."""

    hidden: int = 128
    layers: int = 4
    length: int = 128
    batch: int = 16
    steps: int = 3000
    rate: float = 2e-3
    device: str = "cpu"

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of the processor, so that other work counts little; of the wall on a device."""
        return time.process_time if self.device == "cpu" else time.perf_counter

    def quick(self) -> "Setting":
        """Just enough to run every line."""
        return replace(self, hidden=32, layers=2, length=32, batch=4, steps=20)


# Text -----------------------------------------------------------------------------------------


def corpus(validation: float = 0.05) -> tuple[Tensor, Tensor]:
    """The bytes of the standard library without its tests: files to learn from, files to test on.

    Every file ends with a zero.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "test", "tests", "idle_test"}
    files = [f for f in sorted(folder.rglob("*.py")) if left_out.isdisjoint(f.parts)]
    random.Random(0).shuffle(files)
    count = max(1, int(validation * len(files)))
    return _text(files[count:]), _text(files[:count])


def _text(files: list[Path]) -> Tensor:
    joined = bytearray().join(file.read_bytes() + b"\0" for file in files)
    return torch.frombuffer(joined, dtype=torch.uint8)


def samples(text: Tensor, setting: Setting, seed: int) -> Iterator[Tensor]:
    """Batches of stretches from anywhere in the text, of shape (batch, length + 1), without end."""
    draw = torch.Generator().manual_seed(seed)
    stretch = torch.arange(setting.length + 1)
    while True:
        starts = torch.randint(len(text) - setting.length, (setting.batch, 1), generator=draw)
        yield text[starts + stretch].long().to(setting.device)


# Model ----------------------------------------------------------------------------------------


def llama(setting: Setting, seed: int = 0) -> Any:
    """A small Llama that reads and writes bytes."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=setting.hidden,
        intermediate_size=11 * setting.hidden // 4,
        num_hidden_layers=setting.layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).to(setting.device)


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """For every byte what the model expects next."""
    found: Tensor = model(input_ids=tokens, use_cache=False).logits
    return found


def train(
    model: nn.Module,
    text: Tensor,
    setting: Setting,
    *,
    steps: int,
    seed: int = 0,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """An ordinary loop, AdamW under a one-cycle learning rate; leaves the model in eval mode."""
    optimizer = AdamW(model.parameters(), setting.rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = OneCycleLR(optimizer, setting.rate, max(steps, 20), pct_start=0.1)
    model.train()
    batches = islice(samples(text, setting, seed), steps)
    for tokens in tqdm(batches, "training", steps, mininterval=5):
        given, wanted = tokens[:, :-1], tokens[:, 1:]
        said = logits(model, given)
        if teacher is None:
            loss = F.cross_entropy(said.flatten(0, 1), wanted.flatten())
        else:
            with torch.no_grad():
                lesson = logits(teacher, given)
            loss = fxprune.distillation_loss(said, lesson, wanted, temperature=1.0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def pruned(model: nn.Module, text: Tensor, setting: Setting, **options: Any) -> Any:
    """What `fxprune.prune` leaves; data for criteria that look at some is from the same text."""
    batches = [tokens[:, :-1] for tokens in islice(samples(text, setting, seed=1), 16)]
    data = [{"input_ids": tokens, "use_cache": False} for tokens in batches]
    return fxprune.prune(model, data[0], data=data, loss=of_the_next_byte, **options).eval()


def of_the_next_byte(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss that taylor takes gradients of."""
    tokens = batch["input_ids"]
    return F.cross_entropy(logits(model, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


# Measures -------------------------------------------------------------------------------------


@torch.no_grad()
def bits_per_byte(model: nn.Module, text: Tensor, setting: Setting, count: int = 32) -> float:
    """How many bits a byte costs, on `count` batches from the same places for every model."""
    losses = []
    for tokens in islice(samples(text, setting, seed=2), count):
        said = logits(model, tokens[:, :-1])
        losses.append(F.cross_entropy(said.flatten(0, 1), tokens[:, 1:].flatten()).item())
    return statistics.mean(losses) / torch.tensor(2.0).log().item()


def generating(model: Any, text: Tensor, setting: Setting, count: int) -> Callable[[], Any]:
    """Greedy decoding of `count` bytes with a cache, after a few of the text."""
    ids = text[None, :16].long().to(setting.device)
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    return partial(model.generate, ids, attention_mask=torch.ones_like(ids), **options)


def reading(model: nn.Module, text: Tensor, setting: Setting, count: int) -> Callable[[], Any]:
    """ONNX Runtime's way through `count` bytes at once, in one thread."""
    example = text[None, :count].long()
    with tempfile.TemporaryDirectory() as folder:
        given = {"input_ids": example.to(setting.device), "use_cache": False}
        file = fxprune.export_onnx(model, Path(folder) / "model.onnx", given)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    return partial(session.run, None, {"input_ids": example.numpy()})


def per_second(
    calls: Mapping[str, Callable[[], Any]], count: int, runs: int, clock: Callable[[], float]
) -> dict[str, float]:
    """How many of `count` bytes each call does in a second; calls take turns, medians of `runs`."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs + 1):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: count / statistics.median(own[1:]) for name, own in times.items()}


def main() -> None:
    """Train, prune, recover, and print a table."""
    options = arguments().parse_args()
    torch.set_num_threads(1)
    setting = Setting(options.hidden, options.layers, steps=options.steps, device=options.device)
    setting = setting.quick() if options.quick else setting
    text, unseen = corpus()
    count, runs = (16, 1) if options.quick else (128, 5)
    dense = train(llama(setting), text, setting, steps=setting.steps)
    small = pruned(
        dense,
        text,
        setting,
        target={"params": options.target},
        method=options.method,
        uniform=not options.free,
    )
    at_once = bits_per_byte(small, unseen, setting)
    train(small, text, setting, steps=int(RECOVERY * setting.steps), teacher=dense)
    models = {"dense": dense, "pruned": small}
    torch_speed, onnx_speed = (
        per_second(
            {name: way(model, unseen, setting, count) for name, model in models.items()},
            count,
            runs,
            setting.clock,
        )
        for way in (generating, reading)
    )
    table = Table("", "parameters", "bits per byte", "as pruned", "generate", "ONNX Runtime")
    for name, model in models.items():
        table.add_row(
            name,
            f"{sum(p.numel() for p in model.parameters()):,}",
            f"{bits_per_byte(model, unseen, setting):.3f}",
            "" if name == "dense" else f"{at_once:.3f}",
            f"{torch_speed[name]:.0f} bytes/s",
            f"{onnx_speed[name]:.0f} bytes/s",
        )
    Console().print(table)
    print(fxprune.report(small, latency=False))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--hidden", type=int, default=128, help="width, a multiple of 8")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--target", type=float, default=0.5, help="share of the parameters to keep")
    parser.add_argument("--method", default="taylor", help="how positions are ranked")
    parser.add_argument("--free", action="store_true", help="layers may differ in their numbers")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few steps")
    return parser


if __name__ == "__main__":
    main()
