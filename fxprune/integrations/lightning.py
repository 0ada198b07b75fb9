"""A Lightning callback that logs what a gated model keeps, and tells it how long it trains."""

from typing import Any

from fxprune.extras import naming_extras

with naming_extras("fxprune.integrations.lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer

    from fxprune.integrations.progress import Announcement, follow


class GatesCallback(Callback):
    """Logs the kept share of every cost as often as the trainer logs, and says when it is final.

    Until then a line says as often how far it is, by Python's logging (see `fxprune.progress`).
    If `prepare` was not told `steps`, the target is reached in time for the steps of the trainer.

    For a LightningModule one of whose parts is what `fxprune.prepare` returned:

    >>> from lightning.pytorch import Trainer
    >>> trainer = Trainer(callbacks=[GatesCallback()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self._announcement = Announcement()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the schedule end in time."""
        follow(pl_module, trainer.estimated_stepping_batches)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log after the optimizer's step."""
        self._announcement.update(pl_module)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log_dict(self._announcement.on_log(pl_module), rank_zero_only=True)
