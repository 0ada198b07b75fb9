"""Model cards: what a hub reads of them, and what they say of a model."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import LlamaForCausalLM

import fxprune
from fxprune.errors import InputError
from fxprune.pages.model_card import code
from tests.pages.reports import HOSTILE, VERDICT, report
from tests.torch.models import Residual, images, randomise
from tests.torch.test_language_models import llama, tokens


def card(folder: Any, subject: Any, **options: Any) -> str:
    path = fxprune.write_model_card(subject, folder / "model", **options)
    assert path == folder / "model" / "README.md"
    text: str = path.read_text()
    return text


def facts(text: str) -> dict[str, Any]:
    """What a hub reads at the head of a card."""
    found: dict[str, Any] = ModelCard(text).data.to_dict()
    return found


def pruned_llama(**options: Any) -> Any:
    model = llama()
    return fxprune.prune(model, {"input_ids": tokens()}, target={"params": 0.6}, **options).eval()


def loaded(text: str, **names: Any) -> Any:
    """The model that the Python of a card makes."""
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(source, names)
    return names["model"].eval()


def test_a_hugging_face_model_comes_back_as_its_card_says(tmp_path):
    folded = pruned_llama(uniform=True)
    folded.save_pretrained(tmp_path / "model")
    text = card(tmp_path, folded, base_model="somebody/llama")
    assert facts(text) == {
        "base_model": "somebody/llama",
        "library_name": "transformers",
        "tags": ["fxprune", "pruned"],
    }
    again = loaded(text, folder=tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, folded(tokens()).logits)


def test_a_model_without_a_layer_comes_back_as_its_card_says(tmp_path):
    gated = fxprune.prepare(llama(), {"input_ids": tokens()}, target=1.0)
    names = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    gone = {name: [False] for name in names if name.startswith("model.layers.1")}
    fxprune.set_keep_set(gated, gone)
    folded = fxprune.fold(gated).eval()
    folded.save_pretrained(tmp_path / "model")
    again = loaded(card(tmp_path, folded), folder=tmp_path / "model")
    assert again.config.num_hidden_layers == 1
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, folded(tokens()).logits)


class Mine(LlamaForCausalLM):
    """A class that the library does not have."""


def test_a_class_of_the_users_own_is_loaded_as_what_it_is(tmp_path):
    example, options = {"input_ids": tokens()}, {"target": {"params": 0.6}, "uniform": True}
    folded = fxprune.prune(Mine(llama().config), example, **options).eval()
    folded.save_pretrained(tmp_path / "model")
    text = card(tmp_path, folded)
    assert facts(text)["library_name"] == "transformers"
    assert type(loaded(text, folder=tmp_path / "model", Mine=Mine)) is Mine


def test_a_model_that_its_configuration_cannot_say_comes_back_as_its_card_says(tmp_path):
    folded = pruned_llama()
    fxprune.save(folded, tmp_path / "model")
    text = card(tmp_path, folded)
    again = loaded(text.replace("(...)", "()"), folder=tmp_path / "model", LlamaForCausalLM=llama)
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, folded(tokens()).logits)


def test_it_says_what_every_cost_is_and_what_groups_at_one_place_lost(tmp_path):
    folded = pruned_llama(uniform=True)
    text, found = card(tmp_path, folded), fxprune.report(folded, latency=False)
    for name, after in found.after.items():
        assert f"| {name} | {found.before[name]:,} | {after:,} |" in text
    width = folded.config.intermediate_size
    assert f"| `model.layers.*.mlp.gate_proj` | 2 | 24 | {width} |" in text
    assert "q_proj/1" not in text


def test_it_says_how_exact_a_model_is_or_that_nobody_looked(tmp_path):
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.5)
    fxprune.reach_target(gated)
    folded = fxprune.fold(gated)
    verdict = fxprune.verify(gated, folded)
    text = card(tmp_path, folded, verdict=verdict)
    for what, error in verdict.worst.items():
        assert f"- `{what}`: {error:.1e}" in text
    assert "No comparison" in card(tmp_path, folded, overwrite=True)


def test_removed_branches_and_generated_code_are_named(tmp_path):
    found = replace(report(), generated={"backbone": "its sizes are uneven"})
    text = card(tmp_path, found)
    assert "Removed as a whole: `backbone+`." in text
    assert "`backbone` runs generated code: `its sizes are uneven`." in text


def test_where_nothing_was_removed_it_says_so(tmp_path):
    rows = tuple(replace(row, kept=row.size) for row in report().rows)
    assert "\nNothing.\n" in card(tmp_path, replace(report(), rows=rows))


def test_names_stay_names_however_hostile(tmp_path):
    name = f"a|b`\n# {HOSTILE}"
    text = card(tmp_path, report(name=name), verdict=VERDICT)
    assert facts(text)["tags"] == ["fxprune", "pruned"]
    assert "\n# <" not in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        line for line in text.splitlines() if line.startswith(f"# {code(name)}")
    ]
    for line in text.splitlines():
        assert line.count("`") % 2 == 0


def test_an_onnx_file_has_one_too(tmp_path):
    file = fxprune.export_onnx(randomise(Residual()).eval(), tmp_path / "a.onnx", images(1))
    result = fxprune.prune_onnx(file, tmp_path / "b.onnx")
    text = card(tmp_path, result, verdict=result.verdict)
    assert facts(text)["library_name"] == "onnx"
    assert "masked == folded" in text
    assert "## Loading" not in text


def test_a_base_is_what_the_configuration_remembers_but_no_folder(tmp_path):
    folded = pruned_llama(uniform=True)
    folded.config._name_or_path = "somebody/llama"
    assert facts(card(tmp_path, folded))["base_model"] == "somebody/llama"
    folded.config._name_or_path = str(tmp_path)
    assert "base_model" not in facts(card(tmp_path, folded, overwrite=True))


@pytest.mark.parametrize("wrong", ["a b", "../x", "../x/y", "a/b/c", "a\nlicense: x", "", 3])
def test_a_base_that_is_no_name_is_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="base_model"):
        fxprune.write_model_card(report(), tmp_path, base_model=wrong)
    assert not list(tmp_path.iterdir())
