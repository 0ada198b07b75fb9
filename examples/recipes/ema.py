"""A moving average of the weights (EMA): train the gated model, fold its average."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune


def main() -> None:
    """Train, average, fold, verify."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)
    )
    images, labels = torch.randn(640, 1, 8, 8), torch.randint(10, (640,))
    gated = fxprune.prepare(model, images[:1], target=0.5, steps=30)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)

    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9)
    gated.train()
    for x, y in zip(images.split(16), labels.split(16), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(gated(x), y).backward()
        optimizer.step()
        average.update_parameters(gated)

    # With use_buffers=True the flags of open positions are averaged too and lag behind.
    fxprune.set_keep_set(average.module, fxprune.keep_set(gated))
    folded = fxprune.fold(average.module)
    print(fxprune.verify(average.module, folded))
    print(fxprune.report(folded, latency=False))


if __name__ == "__main__":
    main()
