"""Go on in the middle: the state_dict of the gated model holds the gates and where they stand."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import fxprune


def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same calls in every process: model, prepare, optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    gated = fxprune.prepare(model, torch.randn(1, 1, 8, 8), target=0.5, steps=30)
    return gated, torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9)


def train(gated: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    """An ordinary loop."""
    for x in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(gated(x), torch.arange(len(x)) % 10).backward()
        optimizer.step()


def main() -> None:
    """Train straight through and with a break; both end with the same bits."""
    batches = list(torch.randn(640, 1, 8, 8).split(16))
    straight, optimizer = begin()
    train(straight, optimizer, batches)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.pt"
        gated, optimizer = begin()
        train(gated, optimizer, batches[:15])
        # Methods that draw random numbers (hard_concrete) also need torch.get_rng_state().
        torch.save({"model": gated.state_dict(), "optimizer": optimizer.state_dict()}, file)

        gated, optimizer = begin()
        state = torch.load(file, weights_only=True)
    gated.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    train(gated, optimizer, batches[15:])
    same = all(
        torch.equal(a, b)
        for a, b in zip(gated.state_dict().values(), straight.state_dict().values(), strict=True)
    )
    print(f"bit-identical: {same}")
    print(fxprune.verify(gated, fxprune.fold(gated)))


if __name__ == "__main__":
    main()
