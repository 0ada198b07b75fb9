"""Trainers of other libraries: gates learn in them what they learn in a plain loop."""

import copy
import json
import logging
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import fxprune
from fxprune.integrations import lightning, progress, transformers
from tests.recipes.training import (
    BATCH,
    SETTINGS,
    Plain,
    assert_prunes,
    assert_same_bits,
    begin,
    loss_of,
    sgd,
)
from tests.torch.models import assert_equal, images, randomise

STEPS = 14


def batches() -> DataLoader[Any]:
    """The same ones in every run."""
    data = TensorDataset(torch.cat([images(BATCH, seed) for seed in range(STEPS)]))
    return DataLoader(data, batch_size=BATCH)


def plainly_trained(method: str, steps: int) -> nn.Module:
    """What the trainers are compared with."""
    gated = begin(method, steps=steps)
    optimizer = sgd(gated)
    torch.manual_seed(1)
    for (x,) in batches():
        optimizer.zero_grad()
        loss_of(gated, 0, x).backward()
        optimizer.step()
    return gated


# Lightning ------------------------------------------------------------------------------------


class Squares(LightningModule):
    """Any LightningModule around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return loss_of(self.model, 0, batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


def lightning_trainer(folder: Path, **options: Any) -> LightningTrainer:
    return LightningTrainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # where the weights are frozen
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("steps", [10, 600])
def test_lightning_teaches_what_the_plain_loop_does(method, steps, tmp_path):
    gated = begin(method, steps=steps)
    trainer = lightning_trainer(tmp_path, max_steps=STEPS)
    torch.manual_seed(1)
    trainer.fit(Squares(gated), batches())
    assert_same_bits(plainly_trained(method, steps), gated)
    if steps == 10:
        assert_prunes(gated)


@pytest.mark.parametrize("method", ["static", "autobot, weights learn"])
def test_lightning_goes_on_bit_by_bit(method, tmp_path):
    straight, broken, resumed = (begin(method, Plain(), steps=20) for _ in range(3))
    lightning_trainer(tmp_path, max_epochs=2).fit(Squares(straight), batches())
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(Squares(broken), batches())
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    assert int(broken.fxprune_gates.method.steps_done) == STEPS < 20
    trainer = lightning_trainer(tmp_path, max_epochs=2)
    trainer.fit(Squares(resumed), batches(), ckpt_path=tmp_path / "middle.ckpt")
    assert_same_bits(straight, resumed)
    assert_prunes(resumed)


def test_lightning_callback_logs_shares_and_the_end(tmp_path, caplog):
    gated = begin()
    callback = lightning.GatesCallback()
    trainer = lightning_trainer(
        tmp_path, max_steps=STEPS, callbacks=[callback], log_every_n_steps=7
    )
    with caplog.at_level(logging.INFO, "fxprune"):
        trainer.fit(Squares(gated), batches())
    report = fxprune.report(gated, latency=False)
    for name, value in report.after.items():
        logged = float(trainer.callback_metrics[f"fxprune/{name}"])
        assert logged == pytest.approx(value / report.before[name])
    assert caplog.text.count("the target is reached after 10 steps") == 1
    assert "% of macs" in caplog.text
    assert "step 7 of 10: " in caplog.text and "(target " in caplog.text


def without_steps() -> nn.Module:
    """A gated model of whose training nobody has said how long it is."""
    torch.manual_seed(0)
    return fxprune.prepare(randomise(Plain()), images(1), target=0.4).train()


class Break(Callback):
    """Ends a training after its first epoch."""

    def on_train_epoch_end(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def test_lightning_says_how_long_the_schedule_is_also_where_it_goes_on(tmp_path):
    straight, broken, resumed = (without_steps() for _ in range(3))
    middle = str(tmp_path / "middle.ckpt")
    for gated, more in ((straight, []), (broken, [Break()]), (resumed, [])):
        trainer = lightning_trainer(
            tmp_path, max_epochs=4, callbacks=[lightning.GatesCallback(), *more]
        )
        trainer.fit(Squares(gated), batches(), ckpt_path=middle if gated is resumed else None)
        if gated is broken:
            trainer.save_checkpoint(middle)
            assert int(gated.fxprune_gates.method.steps_done) == STEPS
        assert gated.fxprune_gates.method.steps == round(0.3 * 4 * STEPS) > STEPS
    assert_same_bits(straight, resumed)
    assert_prunes(resumed)


@pytest.mark.parametrize("total", [math.inf, -1])
def test_trainers_that_know_no_end_leave_the_schedule_alone(total):
    gated = without_steps()
    progress.follow(gated, total)
    assert gated.fxprune_gates.method.steps == 1000


# Hugging Face ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_accelerator() -> Iterator[None]:
    """accelerate keeps the settings of the first Accelerator of a process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


TOKENS = torch.arange(64 * 8).reshape(64, 8) * 7 % 50


def classifier() -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A tiny BERT and its data."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    mask = torch.ones(8, dtype=torch.long)
    data = [{"input_ids": t, "attention_mask": mask, "labels": t.sum() % 3} for t in TOKENS]
    return BertForSequenceClassification(config), data


def language_model() -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A tiny GPT-2, whose embedding and head are one array, and its data."""
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(
        **sizes, use_cache=False, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLMLoss"
    )
    return GPT2LMHeadModel(config), [{"input_ids": t, "labels": t} for t in TOKENS]


def gated_of_transformers(
    kind: Any, steps: int | None = 10
) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """The same at every call."""
    torch.manual_seed(0)
    model, data = kind()
    example = {name: torch.stack([row[name] for row in data[:2]]) for name in data[0]}
    return fxprune.prepare(model, example, target=0.6, steps=steps), data


def hf_trainer(
    kind: Any, folder: Path, steps: int | None = 10, **options: Any
) -> tuple[nn.Module, Trainer]:
    gated, data = gated_of_transformers(kind, steps)
    arguments = TrainingArguments(
        str(folder),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_steps=6,
        logging_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    callbacks = [transformers.GatesCallback()]
    return gated, Trainer(gated, arguments, train_dataset=data, callbacks=callbacks)


@pytest.mark.parametrize("kind", [classifier, pytest.param(language_model, marks=pytest.mark.slow)])
def test_hugging_face_trainer_prunes_saves_and_goes_on_bit_by_bit(kind, tmp_path, caplog):
    gated, trainer = hf_trainer(kind, tmp_path)
    hooks = dict(gated._state_dict_hooks)
    with caplog.at_level(logging.INFO, "fxprune"):
        trainer.train()
    report = fxprune.report(gated, latency=False)
    share = report.after["macs"] / report.before["macs"]
    assert share <= 0.6
    assert not all(bool(flags.all()) for flags in fxprune.keep_set(gated).values())
    fxprune.verify(gated, fxprune.fold(gated))
    assert dict(gated._state_dict_hooks) == hooks
    assert caplog.text.count("the target is reached after 10 steps") == 1
    resumed, trainer = hf_trainer(kind, tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_bits(gated, resumed)
    history = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    logged = [entry["fxprune/macs"] for entry in history["log_history"] if "loss" in entry]
    assert len(logged) == 3
    assert 1 > logged[0] >= logged[-1] == pytest.approx(share)


def test_hugging_face_trainer_prunes_in_bfloat16_with_accumulation(tmp_path):
    gated, trainer = hf_trainer(classifier, tmp_path, bf16=True, gradient_accumulation_steps=2)
    trainer.train()
    report = fxprune.report(gated, latency=False)
    assert report.after["macs"] <= 0.6 * report.before["macs"]
    assert int(gated.fxprune_gates.method.steps_done) == 10
    fxprune.verify(gated, fxprune.fold(gated))


def test_hugging_face_trainer_says_how_long_the_schedule_is(tmp_path):
    gated, trainer = hf_trainer(classifier, tmp_path, steps=None)
    trainer.train()
    assert gated.fxprune_gates.method.steps == round(0.3 * 12)
    report = fxprune.report(gated, latency=False)
    assert report.after["macs"] <= 0.6 * report.before["macs"]


# accelerate -----------------------------------------------------------------------------------


def accelerated(precision: str, accumulate: int) -> tuple[nn.Module, nn.Module, Accelerator]:
    """A gated model, the same as accelerate wraps it, trained."""
    gated = begin()
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate
    )
    wrapped, optimizer, loader = accelerator.prepare(gated, sgd(gated), batches())
    torch.manual_seed(1)
    for _ in range(accumulate):
        for (x,) in loader:
            with accelerator.accumulate(wrapped):
                optimizer.zero_grad()
                accelerator.backward(loss_of(wrapped, 0, x))
                optimizer.step()
    return gated, wrapped, accelerator


def test_accelerate_teaches_what_the_plain_loop_does():
    gated, _, _ = accelerated("no", 1)
    assert_same_bits(plainly_trained("static", 10), gated)
    assert_prunes(gated)


AUTOCAST = {"no": {}, "bf16": {"rtol": 0.05, "atol": 0.05}}
"""How far what accelerate runs in a precision is from what is made of it, which runs as it is."""


@pytest.mark.parametrize("precision", AUTOCAST)
def test_accelerate_accumulates_and_folds(precision, tmp_path):
    gated, wrapped, accelerator = accelerated(precision, 2)
    assert_prunes(gated)
    assert_prunes(accelerator.unwrap_model(wrapped))
    x = images()
    with torch.no_grad():
        expected = gated.eval()(x)
        folded = fxprune.fold(gated).eval()
        torch.testing.assert_close(folded(x), expected, **AUTOCAST[precision])
        torch.testing.assert_close(copy.deepcopy(gated)(x), expected)
        torch.testing.assert_close(pickle.loads(pickle.dumps(gated))(x), folded(x))
    before = copy.deepcopy(gated.state_dict())
    accelerator.save_state(str(tmp_path))
    with torch.no_grad():
        for tensor in gated.state_dict().values():
            tensor.zero_()
    accelerator.load_state(str(tmp_path))
    assert_equal(gated.state_dict(), before)
