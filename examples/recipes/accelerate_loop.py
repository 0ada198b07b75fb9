"""accelerate: prepare with fxprune first, then with the Accelerator."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune


def main() -> None:
    """Train, fold, verify."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    images, labels = torch.randn(640, 1, 8, 8), torch.randint(10, (640,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    gated = fxprune.prepare(model, images[:1], target=0.5, total_steps=len(loader) // 2)

    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9)
    wrapped, optimizer, loader = accelerator.prepare(gated, optimizer, loader)
    wrapped.train()
    for x, y in loader:
        with accelerator.accumulate(wrapped):
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(wrapped(x), y))
            optimizer.step()

    gated = accelerator.unwrap_model(wrapped)
    folded = fxprune.fold(gated)
    print(fxprune.verify(gated, folded))
    print(fxprune.report(folded, latency=False))


if __name__ == "__main__":
    main()
