"""Equal numbers at equal places in repeated blocks, and configurations that follow."""

import functools
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fxprune
from fxprune.passes.ties import is_at, place_in_block, uniform_ties
from fxprune.testing import keep_sets
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.record import record_of
from tests.torch.test_language_models import (
    assert_goes_on,
    generated,
    gpt2,
    llama,
    telling,
    tokens,
)

ROOT = Path(__file__).parents[2]
COMMON = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    **COMMON,
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40},
}
OPT = {"ffn_dim": 24, "word_embed_proj_dim": 16}
NEO = {"hidden_size": 16, "num_layers": 2, "num_heads": 4}
EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LATENT = {
    **{"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 12, "v_head_dim": 4},
    **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "first_k_dense_replace": 1},
}
MIXTURES = {
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 20},
    "qwen3_moe": {**EXPERTS, "head_dim": 4},
    "olmoe": EXPERTS,
    "deepseek_v3": {**EXPERTS, **LATENT, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
}
"""Decoders whose experts are stacked; a router chooses two of them for each token."""
DECODERS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 4},
    "gemma": {**LLAMA, "head_dim": 4},
    "gemma2": {**LLAMA, "head_dim": 4},
    "cohere": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "stablelm": LLAMA,
    "phi3": LLAMA,
    "granite": LLAMA,
    "gpt2": {**COMMON, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 40},
    "opt": {**LLAMA, **OPT},
    "gpt_neo": {**COMMON, **NEO, "attention_types": [[["global", "local"], 1]]},
    "falcon": {**LLAMA, "new_decoder_architecture": False},
    **MIXTURES,
    "deepseek_v2": {**EXPERTS, **LATENT, "n_routed_experts": 4, "topk_method": "greedy"},
    "phimoe": {**LLAMA, "num_local_experts": 4},
    "gpt_oss": {**LLAMA, "head_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {**LLAMA, "num_local_experts": 4},
    "glm4_moe": {**EXPERTS, "head_dim": 4, "n_routed_experts": 4, "first_k_dense_replace": 1},
}
SEQ2SEQ = {
    **COMMON,
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 40},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 1},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "forced_eos_token_id": None},
}
T5 = {**COMMON, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
SOUND = {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 40}
ENCODER_DECODERS = {
    "t5": {**T5, "decoder_start_token_id": 1},
    "mt5": {**T5, "decoder_start_token_id": 1},
    "bart": SEQ2SEQ,
    "pegasus": SEQ2SEQ,
    "marian": SEQ2SEQ,
    "whisper": {**SEQ2SEQ, **SOUND, "suppress_tokens": None, "begin_suppress_tokens": None},
}
QUICK = ("llama", "gpt2", "mixtral")
"""Heads of their own, a width that is divided, experts; the others are slow tests."""


def decoder(name: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **DECODERS[name])
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def uniform(model: Any, share: float = 0.6, **options: Any) -> Any:
    """Pruned by norms of weights to a share of the parameters."""
    settings = {"target": {"params": share}, "uniform": True, **options}
    return fxprune.prune(model, {"input_ids": tokens()}, **settings).eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DECODERS]
)
def test_a_decoder_comes_back_from_its_configuration(name, tmp_path):
    model = decoder(name)
    before = json.dumps(model.config.to_dict(), default=str)
    folded = uniform(model)
    assert generated_code(folded) == {}
    assert json.dumps(model.config.to_dict(), default=str) == before
    share = sum(p.numel() for p in folded.parameters()) / sum(p.numel() for p in model.parameters())
    assert share <= 0.6
    folded.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    for length in (5, 11):
        ids = tokens(length)
        assert torch.equal(logits(folded, ids), logits(again, ids))
        said = generated(folded, ids, use_cache=True)
        assert torch.equal(said, generated(folded, ids, use_cache=False))
        assert torch.equal(said, generated(again, ids, use_cache=True))


def encoder_decoder(name: str) -> tuple[Any, dict[str, Tensor]]:
    """A model, and what its encoder reads: tokens, or a spectrum."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **ENCODER_DECODERS[name])
    if name == "whisper":
        model = transformers.WhisperForConditionalGeneration(config)
        return model.eval(), {"input_features": torch.randn(2, 8, 20)}
    return transformers.AutoModelForSeq2SeqLM.from_config(config).eval(), {"input_ids": tokens(9)}


def telling_nothing_of_its_encoder(model: Any) -> Any:
    """The same model by a class that returns no states of the encoder."""
    kind: Any = type(model)

    class Quiet(kind):
        @functools.wraps(kind.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            told = super().forward(*args, **kwargs)
            return type(told)({k: v for k, v in told.items() if k != "encoder_last_hidden_state"})

    model.__class__ = Quiet
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Whisper's generate, about its own arguments
@pytest.mark.parametrize(
    ("name", "follows"), [("mt5", True), ("pegasus", True), ("whisper", True), ("marian", False)]
)
def test_the_stream_of_an_encoder_decoder_goes_where_nobody_is_told_of_it(name, follows, tmp_path):
    model, source = encoder_decoder(name)
    kind = type(model)
    example = {**source, "decoder_input_ids": tokens()}
    kept = fxprune.groups(fxprune.prepare(model, example, target=1.0, uniform=True))
    assert "network output" in {group.pin for group in kept if group.kind == "hidden"}
    gated = fxprune.prepare(
        telling_nothing_of_its_encoder(model), example, target=1.0, uniform=True
    )
    free = [g for g in fxprune.groups(gated) if g.kind == "hidden" and not g.pin]
    assert bool(free) == follows  # what Marian's tables of positions are filled by is no checkpoint
    halves = {
        group.name: [index < group.size // 2 for index in range(group.size)]
        for group in fxprune.groups(gated)
        if not group.pin and group.size > 1
    }
    fxprune.set_keep_set(gated, halves)
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    assert folded.config.d_model == (8 if follows else 16)
    folded.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(folded(**example).logits, again(**example).logits)
    said = answers(folded, source, 5, use_cache=True)
    assert torch.equal(said, answers(again, source, 5, use_cache=False))


def answers(model: Any, source: dict[str, Tensor], length: int, use_cache: bool) -> Tensor:
    """Six tokens after the first ones of an answer, by greedy decoding."""
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    start = {"decoder_input_ids": tokens(length)}
    found: Tensor = model.generate(**source, **start, **options, use_cache=use_cache)
    assert found.shape[1] >= 6
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Whisper's generate, about its own arguments
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_decoder_comes_back_from_its_configuration(name, tmp_path):
    model, source = encoder_decoder(name)
    example = {**source, "decoder_input_ids": tokens()}
    folded = fxprune.prune(model, example, target={"params": 0.6}, uniform=True).eval()
    assert generated_code(folded) == {}
    share = sum(p.numel() for p in folded.parameters()) / sum(p.numel() for p in model.parameters())
    assert share <= 0.6
    folded.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    for length in (5, 11):
        ids = {"decoder_input_ids": tokens(length)}
        with torch.no_grad():
            assert torch.equal(folded(**source, **ids).logits, again(**source, **ids).logits)
        said = answers(folded, source, length, use_cache=True)
        assert torch.equal(said, answers(folded, source, length, use_cache=False))
        assert torch.equal(said, answers(again, source, length, use_cache=True))
    example = {**source, "decoder_input_ids": tokens(11)}
    assert_loads_without_fxprune(folded, example, tmp_path)


def assert_loads_without_fxprune(folded: Any, example: dict[str, Tensor], folder: Path) -> None:
    """What `save_pretrained` wrote is the same, but for rounding, where there is no fxprune."""
    with torch.no_grad():
        expected = folded(**example).logits
    torch.save((example, expected), folder / "expected.pt")
    code = f"""
import sys
sys.modules["fxprune"] = None
import torch
import tests.vision
from transformers import {type(folded).__name__} as Model
example, expected = torch.load({str(folder / "expected.pt")!r})
found = Model.from_pretrained({str(folder)!r}).eval()(**example).logits
print(((found - expected).abs().max() / expected.abs().max()).item())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert float(run.stdout or "nan") < 1e-6, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", *MIXTURES])
def test_what_was_saved_loads_where_fxprune_is_not_installed(name, tmp_path):
    folded = uniform(decoder(name))
    folded.save_pretrained(tmp_path)
    assert_loads_without_fxprune(folded, {"input_ids": tokens()}, tmp_path)


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in DECODERS if n != "llama")]
)
def test_every_keep_set_has_a_configuration_that_can_be_read(name):
    gated = fxprune.prepare(decoder(name), {"input_ids": tokens()}, target=1.0, uniform=True)

    @settings(max_examples=5, deadline=None)
    @given(keep=keep_sets(gated))
    def check(keep):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        again = type(folded.config).from_dict(folded.config.to_dict())
        made = type(folded)(again).state_dict()
        assert {n: t.shape for n, t in made.items()} == {
            n: t.shape for n, t in folded.state_dict().items()
        }

    check()


def test_a_stream_keeps_multiples_of_heads_where_the_configuration_wants_them():
    gated = fxprune.prepare(llama(), {"input_ids": tokens()}, target=1.0, uniform=True)
    units = {group.name: group.unit for group in fxprune.groups(gated) if not group.pin}
    stream = "model.layers.0.self_attn.o_proj"
    assert (units[stream], units["model.layers.0.mlp.gate_proj"]) == (4, 1)
    with pytest.raises(fxprune.KeepSetError, match="keeps 15 of 16, but only multiples of 4 do"):
        fxprune.set_keep_set(gated, {stream: [True] * 15 + [False]})
    qwen = fxprune.prepare(decoder("qwen3"), {"input_ids": tokens()}, target=1.0, uniform=True)
    assert [group.unit for group in fxprune.groups(qwen) if group.name == stream] == [1]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.75, 0.9])
def test_what_is_kept_at_any_target_can_be_saved(share, tmp_path):
    folded = uniform(llama(), share)
    folded.save_pretrained(tmp_path)
    again = type(folded).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(folded, tokens()), logits(again, tokens()))


def test_every_number_of_a_configuration_follows():
    gated = fxprune.prepare(llama(), {"input_ids": tokens()}, target=1.0, uniform=True)
    halves = {
        group.name: [index < group.size // 2 for index in range(group.size)]
        for group in fxprune.groups(gated)
        if not group.pin and group.size > 1
    }
    fxprune.set_keep_set(gated, halves)
    config = fxprune.fold(gated).config
    assert (config.hidden_size, config.intermediate_size) == (8, 12)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (1, 1, 4)
    assert gated.config.hidden_size == 16


def test_numbers_that_a_configuration_leaves_open_are_written():
    folded = uniform(gpt2(), 0.7)
    assert folded.config.n_inner == folded.transformer.h[1].mlp.c_fc.nf < 64
    assert gpt2().config.n_inner is None


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_no_decoder_has_layers_of_numbers_of_their_own(name):
    """Where one has, configurations could follow without `uniform`."""
    known = transformers.AutoConfig.for_model(name, **DECODERS[name])
    for attribute, value in list(vars(known).items()):
        if type(value) is not int or value < 4 or attribute.startswith("_"):
            continue
        config = transformers.AutoConfig.for_model(name, **DECODERS[name])
        try:
            config.per_layer_config = {1: {attribute: value // 2}}
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
        except Exception:  # they refuse it, each in its own way
            continue
        layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
        named = [dict(layer.named_parameters()) for layer in layers]
        same = named[0].keys() & named[1].keys()
        assert all(named[0][n].shape == named[1][n].shape for n in same), attribute


def test_words_of_a_configuration_are_not_its_sizes():
    model = llama()
    model.config.name_or_path = "somebody/llama"  # which its modules keep as it was
    folded = uniform(model)
    assert folded.config.intermediate_size < 24
    assert fxprune.report(folded, latency=False).configured


def test_the_stream_follows_heads_where_a_configuration_divides_one_by_the_other():
    gated = fxprune.prepare(gpt2(), {"input_ids": tokens()}, uniform=True)
    tied = {group.name: group.tied for group in fxprune.groups(gated)}
    heads = {"transformer.h.0.attn.c_proj/0", "transformer.h.1.attn.c_proj/0"}
    assert heads <= set(tied["transformer.h.0.ln_1"])


@pytest.mark.parametrize("shrunk", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_load_brings_back_has_the_configuration(shrunk, tmp_path):
    folded = uniform(llama())
    if shrunk:
        folded = uniform(folded, 0.8)
    again: Any = fxprune.load(fxprune.save(folded, tmp_path), llama()).eval()
    assert again.config.to_dict() == folded.config.to_dict() != llama().config.to_dict()
    again.save_pretrained(tmp_path / "own")
    third = type(again).from_pretrained(tmp_path / "own").eval()
    assert torch.equal(logits(third, tokens()), logits(folded, tokens()))
    assert fxprune.report(again, latency=False).configured


@pytest.mark.parametrize("name", ["num_hidden_layers", "nowhere", "__class__.x", "vocab_size"])
def test_numbers_of_a_file_that_would_make_another_model_are_not_written(name, tmp_path):
    folder = fxprune.save(uniform(llama()), tmp_path / "saved")
    text, tensors = folder / "model.safetensors", None
    with safe_open(text, "pt") as file:
        description = json.loads(file.metadata()["fxprune"])
        tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
    description["history"][0]["configuration"][name] = 10**9
    save_file(tensors, text, {"fxprune": json.dumps(description)})
    loaded: Any = fxprune.load(folder, llama())
    assert loaded.config.to_dict() == llama().config.to_dict()


def test_a_configuration_that_does_not_say_so_is_told_from_one_that_does():
    folded = uniform(llama())
    assert fxprune.report(folded, latency=False).configured
    folded.config.intermediate_size += 1
    assert not fxprune.report(folded, latency=False).configured
    free = uniform(llama(), uniform=False)
    assert not fxprune.report(free, latency=False).configured


@pytest.mark.slow
def test_shrinking_keeps_the_configuration_true(tmp_path):
    gated = fxprune.prepare(
        llama(), {"input_ids": tokens()}, target={"params": 0.5}, steps=8, uniform=True
    ).train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    for step in range(10):
        gated(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 5:
            assert fxprune.shrink(gated, optimizer)
    folded = fxprune.fold(gated).eval()
    folded.save_pretrained(tmp_path)
    again = type(folded).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(folded, tokens()), logits(again, tokens()))


@pytest.mark.slow
def test_shrinking_takes_whole_layers_along(tmp_path):
    options: dict[str, Any] = {"target": {"params": 0.9}, "steps": 5, "uniform": True}
    gated = fxprune.prepare(deeper("llama"), {"input_ids": tokens()}, **options)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    gated(input_ids=tokens(), labels=tokens()).loss.backward()
    optimizer.step()
    fxprune.set_keep_set(gated.eval(), {"model.layers.1": [False]})
    before = logits(gated, tokens())
    assert fxprune.shrink(gated, optimizer)
    assert whole(gated) == ["model.layers.0: layer", "model.layers.2: layer"]
    folded = fxprune.fold(gated).eval()
    assert folded.config.num_hidden_layers == 2
    for model in (gated, folded):
        assert (logits(model, tokens()) - before).abs().max() < 1e-5
    folded.save_pretrained(tmp_path)
    again = type(folded).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, tokens()), logits(folded, tokens()))


class Blocks(nn.Module):
    """Three blocks of one kind, without a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 12)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(12, 16), "down": nn.Linear(16, 12)}) for _ in range(3)
        )
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer["down"](layer["up"](x).relu())
        return self.head(x)


def pruned_blocks(uniform: Any) -> list[int]:
    torch.manual_seed(0)
    folded = fxprune.prune(Blocks(), torch.randn(2, 5), target=0.5, uniform=uniform)
    return [layer["up"].out_features for layer in folded.layers]


@pytest.mark.parametrize("uniform", [True, "*", "layers", "layers.*.up", ["layers.*"], "*.up"])
def test_blocks_keep_equal_numbers(uniform):
    assert len(set(pruned_blocks(uniform))) == 1


def test_without_it_they_do_not():
    torch.manual_seed(0)
    model = Blocks()
    with torch.no_grad():
        model.layers[1]["up"].weight[:12].mul_(0.01)
    folded = fxprune.prune(model, torch.randn(2, 5), target=0.7)
    assert len({layer["up"].out_features for layer in folded.layers}) > 1


def whole(gated: Any) -> list[str]:
    """The labels of what is there or not."""
    return [group.label for group in fxprune.groups(gated) if group.kind in ("branch", "layer")]


OF_OTHER_LAYERS = (
    *("gpt2", "gemma2", "falcon", "olmo2", "phi3"),
    *("cohere", "gpt_neo", "opt", "deepseek_v3", "gpt_oss", "qwen2_moe"),
)
"""Decoders whose layers are made, named and numbered in other ways than those of a Llama."""


def deeper(name: str) -> Any:
    """A decoder of three layers."""
    torch.manual_seed(0)
    more: dict[str, Any] = {"num_hidden_layers": 3}
    if name == "gpt2":
        more = {"n_layer": 3}
    if name == "gpt_neo":
        more = {"num_layers": 3, "attention_types": [[["global"], 3]]}
    config = transformers.AutoConfig.for_model(name, **{**DECODERS[name], **more})
    return telling(transformers.AutoModelForCausalLM.from_config(config))


def without_a_layer(gated: Any, number: int) -> Any:
    """Folded without a layer, and with half of all else where equal shares allow that."""
    keep = {group.label: [False] for group in fxprune.groups(gated) if group.kind == "layer"}
    keep = {label: [not label.endswith(f".{number}: layer")] for label in keep}
    free = {group.name: group for group in fxprune.groups(gated) if not group.pin}
    halved = {n for n, g in free.items() if g.size > 1 and not g.size % (2 * g.unit * g.multiple)}
    for name in halved:
        group = free[name]
        if halved.issuperset(group.tied) and group.least <= group.size // 2:
            keep[name] = [index < group.size // 2 for index in range(group.size)]
    assert any(len(flags) > 1 for flags in keep.values())
    fxprune.set_keep_set(gated, keep)
    return fxprune.fold(gated).eval()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("llama", 0),
        pytest.param("llama", 2, marks=pytest.mark.slow),
        *(pytest.param(n, 1, marks=pytest.mark.slow) for n in OF_OTHER_LAYERS),
    ],
)
def test_a_decoder_of_fewer_layers_comes_back_from_its_configuration(name, number, tmp_path):
    model = deeper(name)
    gated = fxprune.prepare(model, {"input_ids": tokens()}, target=1.0, uniform=True).eval()
    if (name, number) not in STAYING:
        assert any(label.endswith(f".{number}: layer") for label in whole(gated))
    folded = without_a_layer(gated, number)
    assert generated_code(folded) == {}
    assert fxprune.report(folded, latency=False).configured
    assert (logits(gated, tokens()) - logits(folded, tokens())).abs().max() < 1e-5
    for length in (5, 9):
        assert_goes_on(folded, length)
    loaded: Any = fxprune.load(fxprune.save(folded, tmp_path / "own"), deeper(name)).eval()
    assert loaded.config.to_dict() == folded.config.to_dict()
    folded.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    said = generated(folded, tokens(9), use_cache=True)
    assert torch.equal(said, generated(folded, tokens(9), use_cache=False))
    for other in (loaded, again):
        assert torch.equal(logits(folded, tokens()), logits(other, tokens()))
        assert torch.equal(said, generated(other, tokens(9), use_cache=True))


STAYING = {("opt", 1)}
"""Layers that stay (limits.md of the site says why)."""


def test_layers_go_by_their_influence_and_widths_with_them():
    model = deeper("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e-3)
        model.model.layers[1].self_attn.o_proj.weight.mul_(1e-3)
    data = [{"input_ids": tokens()}]
    folded = uniform(model, 0.5, method="block_influence", data=data)
    assert folded.config.num_hidden_layers == len(folded.model.layers) < 3
    assert folded.config.intermediate_size < 24 or folded.config.num_hidden_layers == 1
    kept = fxprune.report(folded, latency=False)
    assert [row.kept for row in kept.rows if row.title == "model.layers.1: layer"] == [0]
    assert kept.after["params"] <= 0.5 * kept.before["params"]


def test_layers_are_named_like_other_kinds():
    options: dict[str, Any] = {"target": 1.0}
    layers = [f"layers.{number}: layer" for number in range(3)]
    both = ["layers.*.up", "*: layer"]
    assert whole(fxprune.prepare(Blocks(), torch.randn(2, 5), uniform=both, **options)) == layers
    depth = fxprune.prepare(Blocks(), torch.randn(2, 5), uniform="*: layer", **options)
    assert whole(depth) == layers
    assert all(not group.tied for group in fxprune.groups(depth))
    options |= {"uniform": True, "ignore": ["*: layer"]}
    assert whole(fxprune.prepare(Blocks(), torch.randn(2, 5), **options)) == []


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1), (0.3, 1), (0.6, 2), (1.0, 3)])
@pytest.mark.parametrize("shrunk", [False, True])
def test_lists_keep_the_share_of_layers_that_is_asked_for(share, kept, shrunk):
    options: dict[str, Any] = {"target": {"params": 0.2}, "uniform": "*: layer"}
    gated = fxprune.prepare(Blocks(), torch.randn(2, 5), least={"*: layer": share}, **options)
    if shrunk:
        fxprune.set_keep_set(gated, {"layers.0.up": [True] * 8 + [False] * 8})
        fxprune.shrink(gated, torch.optim.SGD(gated.parameters(), lr=0.1))
    layers = [group.name for group in fxprune.groups(gated) if group.kind == "layer"]
    fxprune.reach_target(gated, {name: [0.0] for name in layers})
    assert sum(int(fxprune.keep_set(gated)[name]) for name in layers) == kept


def test_a_list_keeps_one_of_its_layers():
    gated = fxprune.prepare(Blocks(), torch.randn(2, 5), target=1.0, uniform=True)
    with pytest.raises(fxprune.KeepSetError, match="layers keeps none of 3 layers"):
        fxprune.set_keep_set(gated, {label: [False] for label in whole(gated)})
    small = fxprune.prepare(Blocks(), torch.randn(2, 5), target=0.2, uniform=True)
    ranks = {f"layers.{number}": [float(number)] for number in range(3)}
    fxprune.reach_target(small, ranks)
    kept = [fxprune.keep_set(small)[name].item() for name in ranks]
    assert kept == [False, False, True]


def test_a_keep_set_with_layers_says_the_same_where_their_branches_are_alone():
    x, blocks = torch.randn(2, 5), Blocks()
    gated, alone = (fxprune.prepare(blocks, x, target=1.0, uniform=each) for each in (True, False))
    half = {f"layers.{number}.up": [True, False] * 8 for number in range(3)}
    fxprune.set_keep_set(gated, {**half, "layers.1: layer": [False]})
    keep = fxprune.keep_set(gated)
    fxprune.set_keep_set(alone, keep)
    assert torch.equal(fxprune.fold(gated)(x), fxprune.fold(alone)(x))
    twice = {**keep, whole(alone)[0]: [True]}
    with pytest.raises(fxprune.KeepSetError, match="twice"):
        fxprune.set_keep_set(alone, twice)


def test_a_pattern_that_matches_nothing_is_refused_with_the_places():
    with pytest.raises(fxprune.InputError, match=r"uniform: nothing at 'layer'.*layers\.\*\.up"):
        fxprune.prepare(Blocks(), torch.randn(2, 5), uniform="layer")


def test_a_configuration_that_cannot_follow_is_told(caplog):
    caplog.set_level(logging.WARNING, "fxprune")
    config = transformers.BloomConfig(hidden_size=16, n_layer=2, n_head=4, vocab_size=50)
    model = transformers.BloomForCausalLM(config).eval()
    fxprune.prepare(model, {"input_ids": tokens()}, uniform=True)
    assert "no number of the configuration of BloomForCausalLM" in caplog.text


def test_places_are_names_without_numbers_of_blocks():
    assert place_in_block("model.layers.3.mlp.gate_proj") == "model.layers.*.mlp.gate_proj"
    assert place_in_block("features.0.1.conv") == "features.*.*.conv"
    assert place_in_block("0") == "0"
    assert place_in_block("layer1.conv2") == "layer1.conv2"
    assert is_at("layers.0.q/1", "layers.*.q")
    assert is_at("layers.0.q.weight:1", "layers.*.q")
    assert not is_at("layers.0.query", "layers.*.q")


def test_groups_of_other_sizes_are_not_at_one_place():
    model = Blocks()
    model.layers[1] = nn.ModuleDict({"up": nn.Linear(12, 8), "down": nn.Linear(8, 12)})
    record = record_of(fxprune.prepare(nn.Sequential(model), torch.randn(2, 5)))
    assert record is not None
    (tie,) = uniform_ties(record.analysis.groups)
    assert tie.groups == ("0.layers.0.up", "0.layers.2.up")


@pytest.mark.parametrize("uniform", [True, "layers.*.up"])
def test_files_keep_equal_numbers_too(uniform, tmp_path):
    torch.manual_seed(0)
    model = Blocks()
    with torch.no_grad():
        model.layers[1]["up"].weight[:12].mul_(0.01)
    file = fxprune.export_onnx(model.eval(), tmp_path / "blocks.onnx", torch.randn(2, 5))
    numbers = []
    for options in ({}, {"uniform": uniform}):
        keep = fxprune.prune_onnx(file, target=0.6, **options).keep_set
        numbers.append({sum(flags) for name, flags in keep.items() if ".up" in name})
    assert len(numbers[0]) > 1
    assert len(numbers[1]) == 1


def test_files_lose_whole_layers_too(tmp_path):
    torch.manual_seed(0)
    file = fxprune.export_onnx(Blocks().eval(), tmp_path / "blocks.onnx", torch.randn(2, 5))
    data = [torch.randn(8, 5).numpy()]
    options: dict[str, Any] = {"uniform": True, "method": "block_influence", "data": data}
    found = fxprune.prune_onnx(file, target=0.6, **options)
    layers = {name: flags[0] for name, flags in found.keep_set.items() if name[:-1] == "layers."}
    assert sorted(layers) == ["layers.0", "layers.1", "layers.2"]
    assert 0 < sum(layers.values()) < 3
