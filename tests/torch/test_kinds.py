"""What the groups of real models are for, asserted by hand, and that names do not matter."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models import VisionTransformer, resnet18

import fxprune
from fxprune.ir import Graph, Node, Value
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.roles import Kind
from fxprune.testing import OPS, networks
from fxprune.torch.frontend.examples import check_examples
from fxprune.torch.frontend.program import read_model
from tests.torch.decoders import SCRAMBLED, decoder, tokens

pytestmark = pytest.mark.filterwarnings("ignore:.*fall")  # kernels of Mamba that are not there

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
COMMON = {**SIZES, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1}
COMMON |= {"eos_token_id": 2, "max_position_embeddings": 40}
IDS = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def made(name: str, **options: Any) -> tuple[Any, Any]:
    """A causal model of transformers."""
    config = transformers.AutoConfig.for_model(name, **{**COMMON, **options})
    return transformers.AutoModelForCausalLM.from_config(config), {"input_ids": IDS}


def llama() -> tuple[Any, Any]:
    return made("llama", num_key_value_heads=2)


def gemma() -> tuple[Any, Any]:
    return made("gemma2", num_key_value_heads=2, head_dim=4)


def gpt2() -> tuple[Any, Any]:
    return made("gpt2", n_embd=16, n_head=4, n_layer=2, n_positions=40)


def mamba() -> tuple[Any, Any]:
    return made("mamba", state_size=4, time_step_rank=3)


def bert() -> tuple[Any, Any]:
    config = transformers.BertConfig(**COMMON)
    return transformers.BertForSequenceClassification(config), {"input_ids": IDS}


def t5() -> tuple[Any, Any]:
    config = transformers.T5Config(
        **{"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    )
    model = transformers.T5ForConditionalGeneration(config)
    return model, {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}


def vit() -> tuple[Any, Any]:
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 24, "num_classes": 5}
    return VisionTransformer(image_size=16, patch_size=8, **sizes), torch.randn(2, 3, 16, 16)


def resnet() -> tuple[Any, Any]:
    return resnet18(num_classes=5), torch.randn(2, 3, 32, 32)


LLAMA = """
    hidden 16
    model.layers.*.self_attn: kv heads 2
    model.layers.*.self_attn: heads per kv head 2
    model.layers.*.self_attn: head dimension 2
    model.layers.*.self_attn: head dimension 4
    model.layers.*.mlp: MLP width 24
    model.layers.*.self_attn: branch 1
    model.layers.*.mlp: branch 1
"""
FREE: dict[Callable[[], tuple[Any, Any]], str] = {
    llama: LLAMA,
    gemma: LLAMA.replace("hidden", "model: hidden"),
    gpt2: """
        transformer: hidden 16
        transformer.h.*.attn: heads 4
        transformer.h.*.attn.c_attn: head dimension 4
        transformer.h.*.attn: head dimension 4
        transformer.h.*.mlp: MLP width 64
        transformer.h.*.attn: branch 1
        transformer.h.*.mlp: branch 1
    """,
    bert: """
        bert: hidden 16
        bert.encoder.layer.*.attention: heads 4
        bert.encoder.layer.*.attention.self: head dimension 4
        bert.encoder.layer.*.attention: head dimension 4
        bert.encoder.layer.*: MLP width 24
        bert.pooler.dense: channel 16
        bert.encoder.layer.*.attention: branch 1
        bert.encoder.layer.*: branch 1
    """,
    t5: """
        encoder.block.*.layer.*.SelfAttention: heads 4
        encoder.block.*.layer.*.SelfAttention: head dimension 4
        encoder.block.*.layer.*.SelfAttention.v: head dimension 4
        encoder.block.*.layer.*.DenseReluDense: MLP width 24
        decoder.block.*.layer.*.SelfAttention: heads 4
        decoder.block.*.layer.*.SelfAttention: head dimension 4
        decoder.block.*.layer.*.SelfAttention.v: head dimension 4
        decoder.block.*.layer.*.EncDecAttention: heads 4
        decoder.block.*.layer.*.EncDecAttention: head dimension 4
        decoder.block.*.layer.*.EncDecAttention.v: head dimension 4
        decoder.block.*.layer.*.DenseReluDense: MLP width 24
        encoder.block.*.layer.*.DenseReluDense: branch 1
        encoder.block.*.layer.*.SelfAttention: branch 1
        decoder.block.*.layer.*.DenseReluDense: branch 1
        decoder.block.*.layer.*.SelfAttention: branch 1
        decoder.block.*.layer.*.EncDecAttention: branch 1
    """,
    mamba: """
        backbone: hidden 16
        backbone.layers.*.mixer.conv1d: channel 24
        backbone.layers.*.mixer.x_proj[3:7]: channel 4
        backbone.layers.*.mixer.x_proj[0:3]: channel 3
        backbone.layers.*+: branch 1
        backbone.layers.*++: branch 1
    """,
    vit: """
        hidden 16
        encoder.layers.*.self_attention: heads 4
        encoder.layers.*.self_attention: head dimension 4
        encoder.layers.*.mlp: MLP width 24
        encoder.layers.*.self_attention: branch 1
        encoder.layers.*.mlp: branch 1
    """,
    resnet: """
        conv1: hidden 64
        layer1.*.conv1: channel 64
        layer2.*.conv1: channel 128
        layer2: hidden 128
        layer3.*.conv1: channel 256
        layer3: hidden 256
        layer4.*.conv1: channel 512
        layer4: hidden 512
        layer1.*: branch 1
        layer2.*: branch 1
        layer3.*: branch 1
        layer4.*: branch 1
    """,
}


@cache
def analysed(make: Callable[[], tuple[Any, Any]]) -> Analysis:
    """The facts about a model, where what its code cannot say is free, too."""
    torch.manual_seed(0)
    model, example = make()
    return analyse(read_model(model.eval(), check_examples(model, example)).ir)


def places(analysis: Analysis) -> list[str]:
    """Label and size of what is free, equal places of blocks once."""
    labels = [f"{g.label} {g.size}" for g in analysis.free_groups]
    labels += [f"{branch.label} 1" for branch in analysis.branches]
    return list(
        dict.fromkeys(re.sub(r"(?<=[._])(encoder_layer_)?\d+(?=[.:+])", "*", x) for x in labels)
    )


@pytest.mark.parametrize("make", FREE, ids=lambda make: make.__name__)
def test_groups_of_real_models(make):
    expected = [line.strip() for line in FREE[make].strip().splitlines()]
    assert places(analysed(make)) == expected


@pytest.mark.parametrize("make", [llama, gemma, t5, mamba], ids=lambda make: make.__name__)
def test_branches_hold_weights(make):
    analysis = analysed(make)
    nodes = {node.name: node for node in analysis.graph.nodes}
    weights = {value.name for value in analysis.graph.parameters if value.trained}
    for branch in analysis.branches:
        read = {v.name for name in branch.nodes for v in nodes[name].inputs if v is not None}
        assert any(name.rpartition(".")[0] for name in read & weights), branch.name


@pytest.mark.parametrize("make", [vit, pytest.param(llama, marks=pytest.mark.slow)])
def test_files_have_the_same_groups(make, tmp_path):
    torch.manual_seed(0)
    model, example = make()
    if make is llama:
        model.config.use_cache = False
    else:
        torch.nn.init.normal_(model.heads.head.weight)  # it begins with zeros
    found = fxprune.inspect_onnx(fxprune.export_onnx(model.eval(), tmp_path / "m.onnx", example))
    assert sorted(places(found)) == sorted(line.strip() for line in FREE[make].strip().splitlines())


def test_tables_that_inputs_look_up_hold_the_vocabulary():
    pinned = [g for g in analysed(gpt2).groups if g.kind == "vocabulary"]
    assert [(g.label, g.size) for g in pinned] == [("transformer.wte: vocabulary", 50)]


# Names do not matter --------------------------------------------------------------------------


def renamed(graph: Graph) -> Graph:
    """The same graph, where all that has a name has one that says nothing."""
    values: dict[str, Value] = {}
    names = {node.name: f"m{number}" for number, node in enumerate(graph.nodes)}

    def other(value: Value | None) -> Value | None:
        if value is None:
            return None
        ending = "weight" if value.name.endswith("weight") else "other"
        return values.setdefault(value.name, replace(value, name=f"n{len(values)}.{ending}"))

    def others(found: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(new for value in found if (new := other(value)))

    def node(old: Node) -> Node:
        attributes = dict(old.attributes)
        if "feeds" in attributes:
            attributes["feeds"] = tuple(names[name] for name in old.attributes["feeds"])  # type: ignore[attr-defined]
        inputs = tuple(map(other, old.inputs))
        return Node(names[old.name], old.op, inputs, others(old.outputs), attributes)

    nodes = tuple(map(node, graph.nodes))
    return replace(
        graph,
        nodes=nodes,
        **{part: others(getattr(graph, part)) for part in ("inputs", "outputs", "results")},
        parameters=others(graph.parameters),
        others=tuple(map(others, graph.others)),
    )


@pytest.mark.parametrize("make", [llama, bert, vit, resnet], ids=lambda make: make.__name__)
def test_kinds_are_the_same_under_other_names(make):
    before = analysed(make)
    after = analyse(renamed(before.graph))
    sizes = [[(group.kind, group.size) for group in each.free_groups] for each in (before, after)]
    assert sizes[0] == sizes[1]


@given(st.one_of(networks(list(OPS[2]), dims=2), networks(list(OPS["sequence"]), dims="sequence")))
@settings(max_examples=40, deadline=None)
def test_random_networks_have_a_kind_for_every_group_whatever_they_are_called(network):
    before = analyse(read_model(network, [network.inputs]).ir)
    after = analyse(renamed(before.graph))
    for each in (before, after):
        assert all(isinstance(item.kind, Kind) for item in each.items)
        assert len({item.label for item in each.items}) == len(each.items)
    kinds = [[(group.kind, group.size) for group in each.groups] for each in (before, after)]
    assert kinds[0] == kinds[1]


def test_kinds_are_the_same_where_modules_have_other_names():
    kinds = []
    for names in ((), (SCRAMBLED,)):
        gated = fxprune.prepare(decoder(*names), tokens())
        kinds.append([(g.kind, g.size, bool(g.pin)) for g in fxprune.groups(gated)])
    assert kinds[0] == kinds[1]
    assert {"hidden", "kv heads", "heads", "MLP width", "branch"} <= {kind for kind, *_ in kinds[0]}


def test_attention_written_by_hand_has_heads():
    gated = fxprune.prepare(decoder(), tokens())
    labels = {group.label: group.size for group in fxprune.groups(gated)}
    assert labels["layers.1.attn: kv heads"] == 2
    assert labels["layers.1.mlp: MLP width"] == 24
