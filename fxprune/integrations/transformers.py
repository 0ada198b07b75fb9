"""A callback of the Hugging Face Trainer: logs of a gated model, and a schedule that fits it."""

from typing import Any

from fxprune.extras import naming_extras

with naming_extras("fxprune.integrations.transformers"):
    from torch import Tensor, nn
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from fxprune.integrations.progress import Announcement, follow


class GatesCallback(TrainerCallback):
    """Adds the kept share of every cost to what is logged, and says when it is final.

    Until then a line says as often how far it is, by Python's logging (see `fxprune.progress`).
    If `prepare` was not told `steps`, the target is reached in time for the steps of the Trainer.
    The callback also lets the Trainer save models with tied weights: to safetensors, a gated model
    is one whose tensors must not share memory.

    The shares stand in `trainer.state.log_history`. Trackers see them if this callback is called
    before theirs: `trainer.callback_handler.callbacks.insert(0, GatesCallback())`.

    >>> from transformers import Trainer
    >>> trainer = Trainer(gated, callbacks=[GatesCallback()])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._announcement = Announcement()
        self._untying: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the schedule end in time, and untie what is saved."""
        follow(kwargs["model"], state.max_steps)
        self._untying = kwargs["model"].register_state_dict_post_hook(_untie)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the gates."""
        self._announcement.update(kwargs["model"])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the shares to the entry."""
        shares = self._announcement.on_log(kwargs["model"])
        kwargs["logs"].update(shares)
        state.log_history[-1].update(shares)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        self._untying.remove()


def _untie(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Give every tensor of a state_dict memory of its own."""
    seen = set()
    for name, tensor in state.items():
        memory = tensor.untyped_storage().data_ptr()
        if memory in seen:
            state[name] = tensor.clone()
        seen.add(memory)
