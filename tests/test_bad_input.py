"""Every way of asking for the impossible ends in one clear error, and the model stays as it was."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.torch.storage import DESCRIPTION, WEIGHTS
from tests.torch.models import Residual, images, plain, randomise


class Convs(nn.Module):
    """Two convolutions; subclasses write their own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)


class ValueDependent(Convs):
    def forward(self, x):
        y = self.first(x)
        if y.sum() > 0:  # the line that the message must show
            y = 2 * y
        return self.second(y)


class LoopsOverValues(Convs):
    def forward(self, x):
        for _ in range(int(x.sum())):
            x = self.first(x)
        return x


class TakesFlag(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = plain()

    def forward(self, x, double=False):
        return self.body(x) * 2 if double else self.body(x)


class TwoInputs(Convs):
    def forward(self, x, y):
        return self.second(self.first(x) + self.first(y))


class Fourier(Convs):
    """An operator that fxprune does not know stands between the only two layers."""

    def forward(self, x):
        return self.second(torch.fft.fft(self.first(x), dim=1).real)


class FourierAside(Convs):
    """The unknown operator sees one of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 3, 3)
        self.between = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.first(self.before(x))
        return self.second(self.between(torch.fft.fft(x, dim=1).real))


class ChannelFlip(Convs):
    def forward(self, x):
        return self.second(self.first(x).flip(1))


@pytest.fixture
def gated() -> Any:
    return fxprune.prepare(randomise(Residual()).eval(), images(1), target=0.5)


def refuses(model: nn.Module, error: type[Exception], match: str, *args: Any, **kwargs: Any) -> str:
    """Calls prepare; the model must come out of it untouched. Returns the message."""
    with assert_unchanged(model), pytest.raises(error, match=match) as caught:
        fxprune.prepare(model, *args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


# What is not a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [torch.relu, nn.Conv2d, None, "resnet18", {}])
def test_what_is_not_a_module_is_refused(thing):
    with pytest.raises(fxprune.InputError, match=r"model must be a torch\.nn\.Module, got \w+"):
        fxprune.prepare(thing, images(1))


@pytest.mark.parametrize("model", [ValueDependent, LoopsOverValues])
def test_untraceable_model_is_refused_with_file_and_line(model):
    message = refuses(model(), fxprune.TraceError, "cannot be traced", images(1))
    line = "if y.sum() > 0:" if model is ValueDependent else "for _ in range(int(x.sum())):"
    number = 1 + next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines()) if line in text
    )
    assert f"{__file__}:{number}: {line}" in message
    assert "move that control flow out of forward" in message


def test_an_argument_that_the_trace_took_for_granted_keeps_its_value():
    model, x = TakesFlag(), images(2)
    gated = fxprune.prepare(model, x)
    assert torch.equal(gated(x, double=False), model(x))
    with pytest.raises(fxprune.InputError, match=r"traced with double=False.*example_inputs"):
        gated(x, double=True)
    doubled = fxprune.prepare(model, (x, True))
    assert torch.equal(doubled(x, True), model(x, double=True))
    with pytest.raises(fxprune.InputError, match="traced with double=True"):
        fxprune.fold(doubled)(x)


def test_lazy_module_is_refused_until_it_has_shapes():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    refuses(model, fxprune.InputError, r"^0\.weight has no shape yet: run the model", images(1))
    model(images(1))
    assert fxprune.groups(fxprune.prepare(model, images(1)))[0].size == 8


def test_model_on_the_meta_device_is_refused():
    model = Residual().to("meta")
    refuses(model, fxprune.InputError, r"weight is on the meta device.*to_empty", images(1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["body.3.weight", "stem.1.bias", "head.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name, value):
    model = randomise(Residual())
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    refuses(model, fxprune.InputError, rf"^{name} holds NaN or infinite", images(1))


def test_statistics_that_are_not_numbers_are_refused_by_name():
    model = randomise(Residual())
    model.stem[1].running_var[2] = math.nan
    refuses(model, fxprune.InputError, r"^stem\.1\.running_var holds NaN", images(1))


def test_weights_that_diverged_in_training_are_refused_when_folding(gated):
    with torch.no_grad():
        gated.get_parameter("head.weight")[0, 0] = math.nan
    with (
        assert_unchanged(gated),
        pytest.raises(fxprune.InputError, match=r"^head\.weight holds NaN"),
    ):
        fxprune.fold(gated)


# Example inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((1, 4, 8, 8), r"fails at stem_0 \(stem\.0\).*shape \(1, 4, 8, 8\)"),
        ((3, 8), r"fails at stem_0.*shape \(3, 8\)"),
        ((1, 3), r"fails at stem_0"),
        ((), r"fails at stem_0"),
    ],
)
def test_example_inputs_of_a_wrong_shape_are_refused_with_the_place(shape, place):
    message = refuses(randomise(Residual()), fxprune.InputError, place, torch.randn(shape))
    assert message.endswith("Pass example_inputs that the model accepts.")


def test_example_inputs_too_small_for_the_kernels_are_refused():
    refuses(plain(), fxprune.InputError, r"fails at .* \(1, 3, 2, 2\)", torch.randn(1, 3, 2, 2))


def test_example_inputs_of_a_wrong_type_are_refused():
    refuses(plain(), fxprune.InputError, "fails at _0", images(1).long())


@pytest.mark.parametrize("examples", [(), "image", 3, [1, 2], {"x": 1}, {}, images(1).numpy()])
def test_example_inputs_without_a_tensor_are_refused(examples):
    refuses(TakesFlag(), fxprune.InputError, r"holds no tensor: pass .* torch\.randn", examples)


@pytest.mark.parametrize(
    ("model", "names", "match"),
    [
        (TwoInputs(), "xz", "^TwoInputs takes x, y, not z: give example_inputs under these names"),
        (TwoInputs(), "y", "^example_inputs lack x$"),
        (TwoInputs(), "x", "^example_inputs lack y$"),
        (plain(), "x", "^Sequential takes input, not x"),
    ],
)
def test_example_inputs_under_wrong_names_are_refused(model, names, match):
    refuses(model, fxprune.InputError, match, dict.fromkeys(names, images(1)))


@pytest.mark.parametrize(
    ("model", "count", "match"),
    [
        (TwoInputs(), 1, "TwoInputs takes x, y, but there are 1 example_inputs"),
        (TwoInputs(), 3, "TwoInputs takes x, y, but there are 3 example_inputs"),
        (Residual(), 2, "Residual takes x, but there are 2 example_inputs"),
    ],
)
def test_wrong_number_of_example_inputs_is_refused(model, count, match):
    refuses(model, fxprune.InputError, match, (images(1),) * count)


# Nothing to prune, or less than there seems ----------------------------------------------------


def test_unknown_operator_pins_what_it_sees_and_nothing_else():
    groups = fxprune.groups(fxprune.prepare(FourierAside(), images(1)))
    pins = {group.name: group.pin for group in groups}
    assert pins["first"].startswith("unknown operator fft_fft at fft_fft")
    assert pins["between.weight:1"].startswith("unknown operator real")
    free = [group.members[-1] for group in groups if not group.pin]
    assert free == ["before.bias:0", "between.bias:0"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Fourier(), r"first \(8\): unknown operator fft_fft at fft_fft"),
        (ChannelFlip(), r"first \(8\): compared or mixed along in flip"),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), r"0 \(8\): network output\n  0\.weight:1 \(3\): netw"),
        (nn.Sequential(nn.ReLU()), "no layer with channels"),
    ],
)
def test_model_without_anything_to_prune_is_refused_with_the_reasons(model, reason):
    message = refuses(model, fxprune.NothingToPruneError, reason, images(1))
    assert message.startswith(f"nothing in {type(model).__name__} can be pruned")


def test_ignoring_everything_leaves_nothing_to_prune():
    message = refuses(
        plain(), fxprune.NothingToPruneError, "can be pruned", images(1), ignore=["0", "2"]
    )
    assert "0 (8): ignored by the caller" in message


# Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, -0.5, math.nan, math.inf, True, "half", None, [0.5]])
def test_target_that_is_no_share_is_refused(target):
    refuses(
        plain(), fxprune.TargetError, r"target of macs is .*in \(0, 1\]", images(1), target=target
    )


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({}, r"^target is empty: give a share of the MACs such as 0\.5"),
        ({"energy": 0.5}, r"'energy'; known costs are macs, params, memory, flops, peak"),
        ({"0": {"energy": 0.5}}, r"target of 0 names 'energy'; known costs are macs, params"),
        ({"0": 0.5, "3": 0.5}, r"names '3'; known costs .* has no module of that name"),
        ({"1": 0.5}, r"target of macs of 1: there is nothing to limit, it is 0 already"),
        ({"0": {"macs": 0.0}}, r"target of macs of 0 is 0.0: give a share in \(0, 1\]"),
        ({"latency": 2.5}, r"target of latency is 2.5: .*milliseconds are called latency_ms"),
        ({"latency_ms": -1}, r"target of latency_ms is -1: give milliseconds above 0"),
        ({"latency_ms": 10**6}, r"target of latency is 1000000, the model has \d"),
        ({"latency_ms": 1e-3, "latency": 0.5}, r"target gives latency twice"),
        ({"macs": 0.5, "params": 0}, r"target of params is 0: give a share in \(0, 1\]"),
        ({"macs": 10**9}, r"is 1000000000, the model has 12384: give a share in \(0, 1\]"),
    ],
)
def test_target_that_names_no_cost_or_a_wrong_number_is_refused(target, match):
    refuses(plain(), fxprune.TargetError, match, images(1), target=target)


# 12384 = 3 * 8 * 9 * 36 + 8 * 4 * 9 * 16 is the cost in full, an eighth of it that of one channel.
@pytest.mark.parametrize(
    ("target", "round_to", "match"),
    [
        (0.1, 1, r"is 1238\.4, but .* 1548 remain of 12384: ask for at least 0\.125"),
        (1.5, 1, r"is 1\.5, but .* 1548 remain of 12384"),
        (0.4, 4, r"is 4953\.6, but .* 6192 remain of 12384: ask for at least 0\.5, lower round_to"),
        ({"params": 10}, 1, r"target of params is 10, but .* 68 remain of 516"),
        ({"0": {"params": 27}}, 1, r"target of params of 0 is 27, but .* 28 remain of 224"),
        ({"peak": 4.0}, 1, r"target of peak is 4, but .* 228 remain of 576"),
    ],
)
def test_unreachable_target_is_refused_with_what_is_reachable(target, round_to, match):
    settings = {"target": target, "round_to": round_to}
    refuses(plain(), fxprune.TargetError, match, images(1), **settings)


def test_smallest_reachable_target_is_reached():
    gated = fxprune.prepare(plain(), images(1), target=0.125)
    fxprune.reach_target(gated)
    assert int(fxprune.keep_set(gated)["0"].sum()) == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": 0}, "steps is 0: give the number of optimizer steps"),
        ({"steps": 2.5}, r"steps is 2\.5"),
        ({"steps": 1.0}, r"steps is 1\.0: give the number of optimizer steps, at least 1, or a"),
        ({"steps": True}, "steps is True: give the number of optimizer steps"),
        ({"steps": 0.5}, r"steps is 0\.5, a fraction: give total_steps"),
        ({"steps": 20, "total_steps": 10}, "steps is 20, more than total_steps=10"),
        ({"steps": 0.5, "total_steps": 0}, "total_steps is 0: give the optimizer steps"),
        ({"least": 1.5}, r"least is 1\.5: give a share in \[0, 1\], or shares by module"),
        ({"least": {"0": -1}}, "least is -1: give a share"),
        ({"least": {"stem": 0.5}}, "least: the model has no module 'stem'"),
        ({"round_to": 0}, "round_to is 0: give a positive integer such as 8"),
        ({"round_to": "8"}, "round_to is '8'"),
        ({"method": "magic"}, "unknown method 'magic'; known methods are static, consensus"),
        ({"ignore": "stem"}, "has no module 'stem'; it has 0, 1, 2"),
        ({"ignore": [nn.Conv2d(1, 1, 1)]}, "this Conv2d is not a part of the model"),
        ({"ignore": [3]}, "this int is not a part of the model"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    refuses(plain(), fxprune.InputError, match, images(1), **settings)


# Keep-sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ({"nope": [True] * 8}, r"no group or branch is called 'nope'; see fxprune\.groups"),
        ({3: [True] * 8}, "no group or branch is called 3"),
        ({"stem.0": [True] * 7}, r"^stem\.0 has 8 positions, the keep-set 7$"),
        ({"stem.0": torch.ones(8, 8)}, r"^stem\.0 has 8 positions, the keep-set 64$"),
        ({"stem.0": [False] * 8}, r"^stem\.0 keeps nothing: keep at least one of 8 positions$"),
        ({"stem.0": []}, r"^stem\.0 has 8 positions, the keep-set 0$"),
        ({"head": [True] * 5}, r"^group head is pinned \(network output\): leave it out$"),
        ({"body+": [True, True]}, r"^body\+ has 1 positions, the keep-set 2$"),
        ({"stem.0": [2] * 8}, r"keep-set of stem\.0 must be bools, got \[2, 2"),
        ({"stem.0": torch.full((8,), 0.5)}, r"keep-set of stem\.0 must be bools, got tensor"),
        ({"stem.0": "all"}, r"keep-set of stem\.0 must be bools, got 'all'"),
        ({"stem.0": None}, r"keep-set of stem\.0 must be bools, got None"),
        ([True] * 8, "a keep-set maps names to bools, got list"),
    ],
)
def test_keep_set_that_does_not_fit_is_refused(gated, keep, match):
    with assert_unchanged(gated), pytest.raises(fxprune.KeepSetError, match=match):
        fxprune.set_keep_set(gated, keep)


def test_keep_set_is_applied_whole_or_not_at_all(gated):
    good = [True, False] * 4
    with assert_unchanged(gated), pytest.raises(fxprune.KeepSetError, match="keeps nothing"):
        fxprune.set_keep_set(gated, {"stem.0": good, "body.0": [False] * 12})
    assert all(flags.all() for flags in fxprune.keep_set(gated).values())


# The wrong kind of module ----------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_gated_model_is_not_prepared_again(gated, inside):
    model = nn.Sequential(gated, nn.Linear(5, 5)) if inside else gated
    refuses(model, fxprune.InputError, "the model is gated already", images(1))


def test_gated_model_is_not_exported(gated, tmp_path):
    with (
        assert_unchanged(gated),
        pytest.raises(fxprune.InputError, match=r"export fxprune\.fold\(gated\)"),
    ):
        fxprune.export_onnx(gated, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_only_folded_models_are_saved(gated, tmp_path, kind):
    model = gated if kind == "gated" else plain()
    with (
        assert_unchanged(model),
        pytest.raises(fxprune.InputError, match="fold the gated module first"),
    ):
        fxprune.save(model, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [fxprune.fold, fxprune.keep_set, fxprune.reach_target])
def test_verbs_of_gated_models_refuse_others(gated, verb):
    with pytest.raises(fxprune.InputError, match=r"fxprune\.prepare returns, got a plain Sequen"):
        verb(plain())
    with pytest.raises(fxprune.InputError, match=r"fxprune\.prepare returns, got a folded module"):
        verb(fxprune.fold(gated))


@pytest.mark.parametrize("verb", [fxprune.groups, fxprune.report])
def test_descriptions_refuse_plain_models(verb):
    with pytest.raises(fxprune.InputError, match="a gated or folded module, got Sequential"):
        verb(plain())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda gated: torch.optim.RMSprop(gated.parameters()), "RMSprop; known are SGD, Adam, Ad"),
        (lambda gated: torch.optim.SGD(plain().parameters(), lr=0.1), "does not have: build it f"),
        (lambda gated: "adam", "state of str; known are"),
    ],
)
def test_optimizer_that_cannot_be_folded_is_refused(gated, make, match):
    optimizer = make(gated)
    with assert_unchanged(gated), pytest.raises(fxprune.InputError, match=match):
        fxprune.fold(gated, optimizer=optimizer)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (["image"], "tensors or tuples of them, got str"),
        ([torch.randn(1, 5, 8, 8)], r"first model fails on inputs of shape \(1, 5, 8, 8\)"),
    ],
)
def test_verify_refuses_inputs_that_the_model_does_not_take(gated, inputs, match):
    folded = fxprune.fold(gated)
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.verify(gated, folded, inputs=inputs)


def test_export_into_a_missing_folder_is_refused(gated, tmp_path):
    with pytest.raises(fxprune.InputError, match=r"there is no folder .*missing"):
        fxprune.export_onnx(fxprune.fold(gated), tmp_path / "missing" / "model.onnx")


def test_export_over_a_folder_is_refused(gated, tmp_path):
    with pytest.raises(fxprune.InputError, match="it is a folder"):
        fxprune.export_onnx(fxprune.fold(gated), tmp_path)
    assert not list(tmp_path.iterdir())


# Checkpoints -----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(gated, tmp_path) -> Path:
    fxprune.set_keep_set(gated, {"stem.0": [True, False] * 4})
    return fxprune.save(fxprune.fold(gated), tmp_path / "checkpoint")


def does_not_load(checkpoint: Path, match: str, model: nn.Module | None = None) -> None:
    model = randomise(Residual(), seed=7) if model is None else model
    with assert_unchanged(model), pytest.raises(fxprune.CheckpointError, match=match):
        fxprune.load(checkpoint, model)


def rewrite(checkpoint: Path, change: Any) -> None:
    """Write the checkpoint anew after `change(description, tensors)`."""
    with safe_open(checkpoint / WEIGHTS, framework="pt") as file:
        description = json.loads(file.metadata()["fxprune"])
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description, tensors)
    save_file(tensors, checkpoint / WEIGHTS, {"fxprune": json.dumps(description)})


def test_rewritten_checkpoint_loads_if_nothing_changed(checkpoint):
    rewrite(checkpoint, lambda description, tensors: None)
    assert fxprune.load(checkpoint, Residual())(images()).shape == (2, 5)


def test_missing_checkpoint_is_refused(tmp_path):
    does_not_load(tmp_path / "nowhere", r"there is no checkpoint at .*nowhere.model\.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_checkpoint_is_refused(checkpoint, share):
    file = checkpoint / WEIGHTS
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    does_not_load(checkpoint, "is damaged or not a safetensors file")


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip file", b"\x00" * 64, b"{}" * 100])
def test_foreign_file_is_refused(checkpoint, content):
    (checkpoint / WEIGHTS).write_bytes(content)
    does_not_load(checkpoint, "is damaged or not a safetensors file")


def test_safetensors_file_of_another_program_is_refused(checkpoint):
    save_file({"weight": torch.ones(3)}, checkpoint / WEIGHTS)
    does_not_load(checkpoint, r"was not written by fxprune\.save")


def test_description_that_is_not_json_is_refused(checkpoint):
    save_file({"weight": torch.ones(3)}, checkpoint / WEIGHTS, {"fxprune": "{"})
    does_not_load(checkpoint, "is not JSON")


def _without(name):
    def change(description, tensors):
        del description[name]

    return change


EDITS = {
    "format": (lambda d, t: d.update(format=99), "a format that this fxprune does not know"),
    "list": (lambda d, t: d.update(history="none"), "lacks 'history'"),
    "no history": (_without("history"), "lacks 'history'"),
    "no examples": (_without("examples"), "lacks 'examples'"),
    "empty history": (lambda d, t: d.update(history=[]), "has an empty history"),
    "step": (lambda d, t: d.update(history=[3]), "malformed keep-set"),
    "text": (lambda d, t: d["history"][0]["kept"].update(head="all"), "malformed keep-set"),
    "shape": (lambda d, t: d["examples"][0].update(shape="big"), "malformed example input"),
    "dtype": (lambda d, t: d["examples"][0].update(dtype="float99"), "malformed example input"),
    "name": (
        lambda d, t: d["history"][0]["kept"].update(nope=[0]),
        "belongs to another model than this Residual .* no group 'nope'",
    ),
    "index": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [99]}), "no group 'stem.0'"),
    "negative": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [-1]}), "stem.0"),
    "empty": (lambda d, t: d["history"][0]["kept"].update({"stem.0": []}), "stem.0 keeps nothing"),
    "fewer": (lambda d, t: d["history"][0]["kept"].update({"stem.0": [0]}), "does not fit"),
    "alias": (lambda d, t: d.update(aliases={"head.bias": "nope"}), "lacks the tensor nope"),
    "tensor": (lambda d, t: t.pop("head.bias"), "does not fit this Residual"),
    "extra": (lambda d, t: t.update(nope=torch.ones(2)), "does not fit this Residual"),
    "size": (lambda d, t: t.update({"head.bias": torch.ones(6)}), "does not fit this Residual"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_checkpoint_is_refused(checkpoint, edit):
    change, match = EDITS[edit]
    rewrite(checkpoint, change)
    does_not_load(checkpoint, match)


def test_description_for_people_is_not_needed(checkpoint):
    (checkpoint / DESCRIPTION).write_text("edited by hand")
    assert fxprune.load(checkpoint, Residual())(images()).shape == (2, 5)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (plain(), r"another model than this Sequential \(it was made from Residual\)"),
        (Residual(width=6), r"another model than this Residual .*'stem\.0'"),
        (Residual(width=9), r"made from a Residual with \d+ macs, this one has \d+"),
    ],
)
def test_checkpoint_of_another_constructor_is_refused(checkpoint, model, match):
    does_not_load(checkpoint, match, model)


def test_checkpoint_is_not_loaded_onto_what_has_no_values(checkpoint, gated):
    with pytest.raises(fxprune.InputError, match="is on the meta device"):
        fxprune.load(checkpoint, Residual().to("meta"))
    with pytest.raises(fxprune.InputError, match="is gated already"):
        fxprune.load(checkpoint, gated)
    with pytest.raises(fxprune.InputError, match=r"must be a torch\.nn\.Module, got dict"):
        fxprune.load(checkpoint, {})
