"""Gradient accumulation, autocast, GradScaler, clipping and a schedule, in a loop of one's own.

The gates learn when the optimizer steps, from gradients that are accumulated and unscaled.
"""

import torch
from torch import nn

import fxprune

STEPS, PARTS = 40, 2


def main() -> None:
    """Train, fold, verify."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )  # fmt: skip
    images, labels = torch.randn(640, 1, 8, 8), torch.randint(10, (640,))
    gated = fxprune.prepare(model, images[:1], target=0.5, steps=30)

    optimizer = torch.optim.AdamW(gated.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
    scaler = torch.amp.GradScaler("cpu")  # "cuda" on a GPU, for float16
    # Clip the model's own gradients: those of the gates would change the norm.
    own = [p for name, p in gated.named_parameters() if not name.startswith("fxprune_gates")]
    gated.train()
    size = len(images) // STEPS // PARTS
    batches = zip(images.split(size), labels.split(size), strict=True)
    for index, (x, y) in enumerate(batches, 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(gated(x), y) / PARTS
        scaler.scale(loss).backward()
        if index % PARTS == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(own, 1.0)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            optimizer.zero_grad()

    print(fxprune.verify(gated, fxprune.fold(gated)))
    print(fxprune.report(gated, latency=False))


if __name__ == "__main__":
    main()
