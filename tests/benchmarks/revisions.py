"""How long do prepare and fold take, beside an earlier revision of this project?

    python -m tests.benchmarks.revisions a50b2c7 --json revisions.json

Both revisions take turns, each run in a process of its own, on one thread; a figure is the ratio of
the shortest CPU times. The revision is checked out beside the working tree, and removed at the end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.results import save

ROOT = Path(__file__).parents[2]
MODELS = ("llama", "gpt2", "bert", "vit_b_16", "resnet50", "mobilenet_v3_large", "convnext_tiny")

CHILD = """
import copy, json, logging, sys, time, warnings
import torch
from tests.vision import torchvision
import transformers as hf
import fxprune

warnings.simplefilter("ignore"), logging.disable(logging.WARNING), torch.set_num_threads(1)
root, name, runs = sys.argv[1:]
assert fxprune.__file__.startswith(root), fxprune.__file__
tokens, small = torch.randint(128, (1, 16)), {"vocab_size": 128, "use_cache": False}
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
transformers = {
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(num_hidden_layers=24, num_key_value_heads=2, **sizes, **small)
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=64, n_layer=12, n_head=4, **small)),
    "bert": lambda: hf.BertModel(hf.BertConfig(num_hidden_layers=12, vocab_size=128, **sizes)),
}
image = torch.zeros(1, 3, 224, 224)
model = transformers[name]() if name in transformers else torchvision.models.get_model(name)
example = tokens if name in transformers else image
found = []
for _ in range(int(runs) + 1):  # the first imports what it needs
    fresh = copy.deepcopy(model.eval())
    start = time.process_time()
    gated = fxprune.prepare(fresh, example, target=0.5)
    prepared = time.process_time()
    fxprune.reach_target(gated)
    reached = time.process_time()
    fxprune.fold(gated)
    found.append((prepared - start, time.process_time() - reached))
print(json.dumps([min(column) for column in zip(*found[1:])]))
"""
"""Prepares and folds a model with the code that it finds; prints the seconds of both."""


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A revision in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "revision").resolve()
        git = ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def seconds(root: Path, model: str, runs: int) -> tuple[float, float]:
    """Of prepare and of fold, with the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:  # `passes` lies beside the package
        package = Path(folder, "fxprune")
        package.mkdir()
        items = {item.name: item for item in (root / "passes", *(root / "fxprune").iterdir())}
        for name, item in items.items():
            (package / name).symlink_to(item)
        Path(folder, "tests").symlink_to(root / "tests")
        ran = subprocess.run(
            [sys.executable, "-c", CHILD, folder, model, str(runs)],
            env={"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PATH": ""},
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if ran.returncode:
        raise RuntimeError(f"{model} with the code in {root}:\n{ran.stderr}")
    prepare, fold = json.loads(ran.stdout.splitlines()[-1])
    return prepare, fold


def row(name: str, before: Path, rounds: int) -> dict[str, float | str]:
    """One model: the shortest times of both, in turn."""
    times: dict[Path, list[tuple[float, float]]] = {before: [], ROOT: []}
    for _ in range(rounds):
        for root, found in times.items():
            found.append(seconds(root, name, 2))
    old, new = ([min(column) for column in zip(*found, strict=True)] for found in times.values())
    ratios = {"prepare": new[0] / old[0], "fold": new[1] / old[1], "both": sum(new) / sum(old)}
    print(
        f"{name:20} prepare {new[0]:5.2f} s ({ratios['prepare']:.2f})   fold {new[1]:5.2f} s "
        f"({ratios['fold']:.2f})   both {ratios['both']:.2f} of what they took",
        flush=True,
    )
    return {"model": name, "prepare_s": new[0], "fold_s": new[1], **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with checkout(arguments.revision) as before:
        rows = [row(name, before, arguments.rounds) for name in arguments.models]
    save(arguments.json, rows)


if __name__ == "__main__":
    main()
