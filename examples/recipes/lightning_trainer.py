"""Lightning: the gated model is a part of the LightningModule.

The callback logs what is kept, and lets the target be reached in time for the trainer's steps.
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.integrations.lightning import GatesCallback


class Classifier(LightningModule):
    """As for any other model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Over all parameters, those of the gates included."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    """Train, fold, verify."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    images, labels = torch.randn(640, 1, 8, 8), torch.randint(10, (640,))
    gated = fxprune.prepare(model, images[:1], target=0.5)
    trainer = Trainer(
        max_steps=40, accelerator="cpu", callbacks=[GatesCallback()], log_every_n_steps=10,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(gated), DataLoader(TensorDataset(images, labels), batch_size=16))

    print({name: float(value) for name, value in trainer.callback_metrics.items()})
    print(fxprune.verify(gated, fxprune.fold(gated)))


if __name__ == "__main__":
    main()
