"""Patterns and kinds mean the same to every argument, on both routes and on the command line."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

import fxprune
from fxprune.commands.app import app
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Space
from fxprune.passes.groups import Group
from fxprune.selectors import outermost, selector_of
from fxprune.torch.record import record_of
from tests.torch.decoders import decoder, tokens

TORCH = "tests.cli_models:decoder_of_two_blocks"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    return fxprune.export_onnx(decoder(), path, tokens())


@pytest.fixture(params=["torch", "onnx"])
def route(request: pytest.FixtureRequest) -> Any:
    """Prunes the decoder, and says which share of every free group is left, by label."""

    def by_torch(**options: Any) -> dict[str, float]:
        gated = fxprune.prepare(decoder(), tokens(), **options)
        fxprune.reach_target(gated, fxprune.importance(gated, "magnitude"))
        labels = {group.name: group.label for group in fxprune.groups(gated)}
        kept = fxprune.keep_set(gated)
        return {labels[name]: flags.double().mean().item() for name, flags in kept.items()}

    def by_onnx(**options: Any) -> dict[str, float]:
        file = request.getfixturevalue("file")
        result = fxprune.prune_onnx(file, method="magnitude", **options)
        items = (*result.analysis.groups, *result.analysis.branches)
        labels = {item.name: item.label for item in items}
        return {labels[n]: sum(flags) / len(flags) for n, flags in result.keep_set.items()}

    return {"torch": by_torch, "onnx": by_onnx}[request.param]


WIDTHS = [f"layers.{block}.mlp: MLP width" for block in range(2)]
SHARED = [f"layers.{block}.attn: kv heads" for block in range(2)]
HEADS = [f"layers.{block}.attn: heads per kv head" for block in range(2)]
BRANCHES = [f"layers.{block}.{part}: branch" for block in range(2) for part in ("attn", "mlp")]


def test_both_routes_call_groups_alike(file):
    record = record_of(fxprune.prepare(decoder(), tokens(), in_kind=False))
    assert record is not None
    routes: list[Analysis] = [record.analysis, fxprune.inspect_onnx(file)]
    labels = [sorted(group.label for group in each.free_groups) for each in routes]
    assert labels[0] == labels[1]
    branches = [[branch.label for branch in each.branches] for each in routes]
    assert sorted(branches[0]) == sorted(branches[1]) == sorted(BRANCHES)


# Ignored --------------------------------------------------------------------------------------


def test_without_options_all_are_free(route):
    assert {*WIDTHS, *SHARED, *HEADS, *BRANCHES, "hidden"} <= set(route(target=0.9))


@pytest.mark.parametrize(
    ("ignore", "whole", "free"),
    [
        (["*: heads"], {*SHARED, *HEADS, BRANCHES[0], BRANCHES[2]}, {*WIDTHS, "hidden"}),
        (["*: kv heads"], {*SHARED, BRANCHES[0]}, {*HEADS, *WIDTHS, "hidden"}),
        (["*: MLP width"], {*WIDTHS, BRANCHES[1]}, {*SHARED, BRANCHES[0], "hidden"}),
        (["layers.1.mlp: MLP width"], {WIDTHS[1], BRANCHES[3]}, {WIDTHS[0], BRANCHES[1]}),
        (["layers.1.*: heads"], {SHARED[1], HEADS[1]}, {SHARED[0], HEADS[0], *WIDTHS}),
        ([HEADS[0]], {HEADS[0]}, {HEADS[1], *SHARED}),
        (["hidden"], {"hidden"}, {*WIDTHS, *BRANCHES}),
        (["*: branch"], set(BRANCHES), {*WIDTHS, "hidden"}),
        (["*.mlp"], {*WIDTHS, "hidden"}, {*SHARED, *HEADS}),
        ("layers.0.attn", {SHARED[0], HEADS[0], BRANCHES[0], "hidden"}, {SHARED[1], *WIDTHS}),
    ],
)
def test_what_is_ignored_is_not_closed(route, ignore, whole, free):
    left = set(route(target=0.9, ignore=ignore))
    assert whole.isdisjoint(left)
    assert free <= left


def test_all_heads_are_there_after_heads_are_ignored():
    folded = fxprune.prune(decoder(), tokens(), target={"params": 0.4}, ignore="*: heads")
    for block in folded.layers:
        assert block["attn"].q.out_features == 16
        assert block["attn"].k.out_features == 8
    assert folded.layers[0]["mlp"].up.out_features < 24


# The least, targets, equal numbers ------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "shares"),
    [
        ({"*: MLP width": 0.75}, dict.fromkeys(WIDTHS, 0.75)),
        ({"*.mlp": 0.75}, dict.fromkeys(WIDTHS, 0.75)),
        ({"layers.*.mlp": 0.75, "layers.1.mlp: MLP width": 0.9}, {WIDTHS[0]: 0.75, WIDTHS[1]: 0.9}),
        ({"": 0.1, "*: kv heads": 1.0}, dict.fromkeys(SHARED, 1.0)),
        ({"*: heads": 1.0}, dict.fromkeys([*SHARED, *HEADS], 1.0)),
        ({"hidden": 0.8}, {"hidden": 0.8}),
    ],
)
def test_the_least_is_kept(route, least, shares):
    kept = route(target=0.45, least=least, ignore=["*: branch"])
    for label, share in shares.items():
        assert kept[label] >= share - 1e-9


@pytest.mark.parametrize(
    "least",
    [
        {"layers.*.mlp": 0.9, "layers.0.mlp.up": 0.0},
        {"*: MLP width": 0.9, "layers.0.*: MLP width": 0.0, "layers.0.mlp.up": 0.9},
    ],
)
def test_of_several_that_fit_kinds_decide_then_the_longest(route, least):
    kept = route(target=0.5, least=least, ignore=["*: branch", "*: hidden", "*: heads"])
    assert kept[WIDTHS[1]] >= 0.9
    assert kept[WIDTHS[0]] < 0.5


def test_a_pattern_in_a_target_limits_each_module_by_itself():
    target = {"params": 0.9, "layers.*.mlp": {"params": 0.5}, "layers.0.mlp": {"params": 1.0}}
    gated = fxprune.prepare(decoder(), tokens(), target=target, ignore=["*: branch"])
    record = record_of(gated)
    assert record is not None and record.targets is not None
    assert record.targets["params of layers.0.mlp"] == 2 * record.targets["params of layers.1.mlp"]
    folded = fxprune.fold(gated)
    parameters = [sum(p.numel() for p in block["mlp"].parameters()) for block in folded.layers]
    assert parameters[1] <= record.targets["params of layers.1.mlp"]


def test_a_pattern_in_a_target_of_a_file(file):
    target = {"macs": 0.95, "*.mlp": {"macs": 0.5, "params": 0.6}}
    result = fxprune.prune_onnx(file, target=target, ignore=["*: branch", "*: hidden"])
    kept = {n: sum(flags) for n, flags in result.keep_set.items()}
    for block in range(2):
        costs = result.analysis.costs_inside(f"layers.{block}.mlp")
        for name, share in (("macs", 0.5), ("params", 0.6)):
            cost = costs.polynomials[name]
            assert 0 < cost(kept) <= share * cost(costs.full)


@pytest.mark.parametrize("uniform", ["*: MLP width", "layers.*.mlp", "*.mlp.up", ["*.mlp"]])
def test_equal_numbers_by_pattern_and_kind(route, uniform):
    kept = route(target=0.6, uniform=uniform)
    assert kept[WIDTHS[0]] == kept[WIDTHS[1]]
    assert {BRANCHES[1], BRANCHES[3]}.isdisjoint(kept)
    assert {BRANCHES[0], BRANCHES[2]} <= set(kept)


# Keep-sets ------------------------------------------------------------------------------------


def test_a_keep_set_takes_labels(file):
    keep = {WIDTHS[0]: [True] * 12 + [False] * 12, BRANCHES[3]: [False]}
    gated = fxprune.prepare(decoder(), tokens())
    fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated, settle=False)
    assert folded.layers[0]["mlp"].up.out_features == 12
    result = fxprune.fold_onnx(file, keep)
    kept = {sum(flags) for flags in result.keep_set.values()}
    assert kept == {12, 0}


def test_a_group_is_given_once():
    gated = fxprune.prepare(decoder(), tokens())
    flags = [True] * 24
    with pytest.raises(fxprune.KeepSetError, match=r"twice, by its name layers\.0"):
        fxprune.set_keep_set(gated, {"layers.0.mlp.up": flags, WIDTHS[0]: flags})


# What means nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": "*: MLP widths"}, r"did you mean '\*: MLP width'"),
        ({"ignore": "*.mpl"}, r"ignore: the model has no module '\*.mpl'.*did you mean '\*.mlp"),
        ({"ignore": "*: vocabularies"}, r"groups \*: .*\*: heads, .*did you mean '\*: vocabulary"),
        ({"least": {"*: experts of": 0.5}}, "least: the model has no module"),
        ({"least": {"layer.*": 0.5}}, r"did you mean 'layers\.\*"),
        ({"uniform": "*: hidden"}, r"uniform: nothing at '\*: hidden'.*known places are .*mlp.up"),
        ({"target": {"macs": 0.5, "*.mpl": {"macs": 0.5}}}, r"did you mean '\*\.mlp"),
        ({"target": {"*: heads": {"macs": 0.5}}}, "only modules have costs"),
    ],
)
def test_what_means_nothing_is_refused(route, options, message):
    with pytest.raises(fxprune.InputError, match=message):
        route(**options)


# The language itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern", "kind"),
    [
        ("layers.0.mlp", "layers.0.mlp", ""),
        ("*: heads", "*", "heads"),
        (":heads", "*", "heads"),
        ("*.mlp:MLP width", "*.mlp", "MLP width"),
        ("heads", "heads", ""),
        ("conv.weight:1", "conv.weight:1", ""),
        ("", "*", ""),
    ],
)
def test_texts_are_read(text, pattern, kind):
    found = selector_of(text)
    assert (found.pattern, found.kind) == (pattern, kind)


def test_brackets_in_names_are_no_patterns():
    group = Group("a.q/2[0:4]", 4, (), Space(1, 4), path="a.q/2[0:4]")
    assert selector_of("a.q/2[0:4]").fits(group)
    assert selector_of("a.q").fits(group)
    assert not selector_of("a.q/2[1:4]").fits(group)


def test_modules_inside_of_a_match_are_none():
    paths = ["layers", "layers.0", "layers.0.mlp", "layers.0.mlp.up", "head.mlp"]
    assert outermost(selector_of("*.mlp"), paths) == ["head.mlp", "layers.0.mlp"]
    assert outermost(selector_of("layers.*"), paths) == ["layers.0"]


# The command line -----------------------------------------------------------------------------


def answered(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json"], prog_name="fxprune")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(params=["torch", "onnx"])
def source(request: pytest.FixtureRequest, file: Path) -> str:
    return {"torch": TORCH, "onnx": str(file)}[request.param]


def test_commands_take_patterns_and_kinds(source, tmp_path):
    words = ["--target", "macs=.9", "--target", "*.mlp:macs=.6", "--uniform", "*: MLP width"]
    words += ["--least", "*: kv heads=1", "--least", ".1", "--ignore", "hidden"]
    found = answered("prune", source, str(tmp_path / "small.onnx"), *words)
    kept = {row["label"]: row["kept"] for row in found["rows"]}
    assert kept["hidden"] == 16
    assert [kept[label] for label in SHARED] == [2, 2]
    assert kept[WIDTHS[0]] == kept[WIDTHS[1]] <= 0.6 * 24
    assert onnx.load(tmp_path / "small.onnx").graph.node


def test_commands_say_what_groups_are(source):
    result = CliRunner().invoke(app, ["inspect", source], prog_name="fxprune")
    assert "layers.1.mlp: MLP width" in result.output
    assert "kept: 8 of 16 hidden, 2 of 4 kv heads" in result.output


def test_commands_refuse_what_means_nothing(source):
    found = answered("inspect", source, "--ignore", "*: head", code=2)
    assert "did you mean '*: heads'" in found["error"]
