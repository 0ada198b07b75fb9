"""Groups, and keep-sets as data."""

import pytest
import torch

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.gated import EXACT, folded_at_half, gate, train
from tests.torch.models import Residual, half, images, randomise, relative_error


def test_groups_name_size_members_and_pins():
    lines = {group.name: group for group in fxprune.groups(gate())}
    assert {name: (g.kind, g.size, g.pin) for name, g in lines.items()} == {
        "stem.0": ("hidden", 8, ""),
        "stem.0.weight:1": ("channel", 3, "network input"),
        "body.0": ("channel", 12, ""),
        "head": ("channel", 5, "network output"),
        "body+": ("branch", 1, ""),
    }
    assert lines["stem.0"].members == (
        "stem.0.weight:0", "stem.0.bias:0", "stem.1.weight:0", "stem.1.bias:0",
        "stem.1.running_mean:0", "stem.1.running_var:0", "body.0.weight:1", "body.3.weight:0",
        "body.3.bias:0", "head.weight:1",
    )  # fmt: skip


def test_groups_of_a_folded_model_are_those_of_its_fold():
    gated, folded = folded_at_half()
    assert fxprune.groups(folded) == fxprune.groups(gated)


def test_keep_set_reads_back_what_was_set():
    gated = gate()
    keep = half(gated)
    fxprune.set_keep_set(gated, keep)
    got = fxprune.keep_set(gated)
    assert list(got) == list(keep)
    for name, flags in keep.items():
        assert got[name].dtype is torch.bool
        assert torch.equal(got[name], flags)


@pytest.mark.parametrize(
    "flags", [[1, 0] * 4, (True, False) * 4, torch.tensor([1.0, 0.0] * 4), [[True, False]] * 4]
)
def test_keep_set_takes_any_sequence_of_bools(flags):
    gated = gate()
    fxprune.set_keep_set(gated, {"stem.0": flags})
    assert fxprune.keep_set(gated)["stem.0"].tolist() == [True, False] * 4
    assert fxprune.keep_set(gated)["body.0"].all()


def test_keep_set_that_is_returned_is_a_copy():
    gated = gate()
    fxprune.keep_set(gated)["stem.0"].zero_()
    assert fxprune.keep_set(gated)["stem.0"].all()


def test_keep_set_that_was_set_is_not_learned_away():
    gated = gate(target=0.3, steps=4)
    keep = half(gated)
    fxprune.set_keep_set(gated, keep)
    resumed = gate(target=0.3, steps=4)
    resumed.load_state_dict(gated.state_dict())
    for model in (gated, resumed):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), steps=6)
        for name, flags in fxprune.keep_set(model).items():
            assert torch.equal(flags, keep[name])


def test_closed_positions_do_not_matter():
    gated = gate()
    fxprune.set_keep_set(gated, {"stem.0": [True] * 4 + [False] * 4})
    x = images(2).double()
    expected = gated.eval()(x)
    with torch.no_grad():
        gated.get_parameter("stem.0.weight")[4:] = 9.0
        gated.get_parameter("stem.1.bias")[4:] = -5.0
    assert torch.equal(gated(x), expected)
    with torch.no_grad():
        gated.get_parameter("stem.0.weight")[3] += 1.0
    assert not torch.equal(gated(x), expected)


def test_closed_branch_is_removed_with_its_layers():
    gated = gate()
    fxprune.set_keep_set(gated, {"body+": [False]})
    folded = fxprune.fold(gated)
    assert not any(name.startswith("body") for name in folded.state_dict())
    x = images(2).double()
    assert relative_error(gated.eval()(x), folded.eval()(x)) <= EXACT


def test_ignored_modules_keep_their_outputs():
    by_name = fxprune.groups(gate(ignore=["stem"]))
    assert {g.name: g.pin for g in by_name}["stem.0"] == "ignored by the caller"
    model = randomise(Residual()).double()
    by_module = gate(model, ignore=[model.body[0], "head"])
    pins = {g.name: g.pin for g in fxprune.groups(by_module)}
    assert (pins["stem.0"], pins["body.0"]) == ("", "ignored by the caller")
    assert "body+" not in pins, "a branch with an ignored layer may not be removed"
    fxprune.reach_target(by_module)
    assert fxprune.fold(by_module).get_parameter("body.0.weight").shape[0] == 12


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
