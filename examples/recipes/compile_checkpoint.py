"""torch.compile and activation checkpointing: both go around the gated model.

Compiled code is made twice in training, with and without gradients of the gates. Checkpoints inside
of a model's own forward are not kept by `prepare`; a checkpoint around the gated model is.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxprune


def main() -> None:
    """Train, fold, verify."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 10)
    )
    images, labels = torch.randn(640, 1, 8, 8), torch.randint(10, (640,))
    gated = fxprune.prepare(model, images[:1], target=0.5, steps=30)
    compiled = torch.compile(gated, backend="aot_eager")  # without backend=, it generates code

    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9)
    for index, (x, y) in enumerate(zip(images.split(16), labels.split(16), strict=True)):
        optimizer.zero_grad()
        scores = compiled(x) if index < 20 else checkpoint(gated, x, use_reentrant=False)
        nn.functional.cross_entropy(scores, y).backward()
        optimizer.step()

    folded = fxprune.fold(gated)  # or fold(compiled); compile the folded model for inference
    print(fxprune.verify(gated, folded))
    print(fxprune.report(folded, latency=False))


if __name__ == "__main__":
    main()
