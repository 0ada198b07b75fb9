"""The Hugging Face Trainer: example inputs name what a batch has, labels included.

The callback logs what is kept, lets the target be reached in time for the Trainer's steps, and lets
it save models with tied weights.
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import fxprune
from fxprune.integrations.transformers import GatesCallback


def main() -> None:
    """Train, fold, verify."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    config = BertConfig(
        vocab_size=50, num_hidden_layers=2, num_attention_heads=2, num_labels=3, **sizes
    )
    tokens = torch.randint(50, (64, 8))
    data = [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row.sum() % 3}
        for row in tokens
    ]
    example = {name: torch.stack([row[name] for row in data[:2]]) for name in data[0]}
    gated = fxprune.prepare(BertForSequenceClassification(config), example, target=0.5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=24, per_device_train_batch_size=8, logging_steps=8, save_steps=12,
            report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(gated, arguments, train_dataset=data, callbacks=[GatesCallback()])
        trainer.train()  # resume_from_checkpoint=True goes on after a break

    print(trainer.state.log_history[-1])
    folded = fxprune.fold(gated)
    print(fxprune.verify(gated, folded))


if __name__ == "__main__":
    main()
