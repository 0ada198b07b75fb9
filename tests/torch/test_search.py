"""Searches over keep-sets and configurations: within limits, repeatable, resumable, shared."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune import scores
from fxprune.testing import assert_unchanged, networks
from tests.test_packaging import ROOT
from tests.torch.models import Residual, images, randomise

SAMPLERS = ("random", "tpe", "nsga2", "cmaes", "qmc")
LABELLED = [(images(8, seed=seed), torch.arange(8) % 5) for seed in range(2)]


@pytest.fixture(scope="module")
def gated() -> nn.Module:
    return fxprune.prepare(randomise(Residual()), images(), target=0.5)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return fxprune.prepare(randomise(Residual(4)), images(), target=0.4)


def chain() -> nn.Module:
    """A gated model of three groups, so that points hardly ever come again."""
    layers = [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Conv2d(24, 5, 1))
    return fxprune.prepare(randomise(model), images(), target=0.4)


@pytest.fixture(scope="module")
def wide() -> nn.Module:
    return chain()


def tried(found: fxprune.Found) -> list[tuple[dict, dict]]:
    return [(dict(trial.config), dict(trial.scores)) for trial in found]


# What is found ----------------------------------------------------------------------------------


def test_a_trial_costs_what_its_folded_model_costs(gated):
    found = fxprune.search(gated, "params", trials=5, sampler="random")
    for trial in found:
        fxprune.set_keep_set(gated, trial.keep_set)
        folded = fxprune.fold(gated)
        assert trial.costs["params"] == sum(p.numel() for p in folded.parameters())
        assert trial.costs["macs"] == fxprune.testing.count_macs(folded, (images(1),))


@settings(max_examples=15)
@given(networks(max_nodes=4), st.floats(0.3, 0.9), st.data())
def test_trials_are_within_the_target_and_nothing_more_fits(network, share, data):
    try:
        gated = fxprune.prepare(network, network.inputs, target=1.0)
        found = fxprune.search(gated, "params", target=share, trials=3, sampler="random")
    except (fxprune.NothingToPruneError, fxprune.InputError):
        return
    full = fxprune.report(gated, latency=False).before["macs"]
    sizes = {g.name: g.size for g in fxprune.groups(gated) if not g.pin}
    tied = {g.name for g in fxprune.groups(gated) if g.tied or g.unit > 1 or g.multiple > 1}
    for trial in found:
        assert trial.costs["macs"] <= share * full
        for name in data.draw(st.permutations(sorted(trial.config.keys() - tied)))[:2]:
            if trial.config[name] < sizes[name]:
                keep = {**trial.keep_set, name: _one_more(trial.keep_set[name])}
                fxprune.set_keep_set(gated, keep)
                assert fxprune.report(gated, latency=False).after["macs"] > share * full


def _one_more(flags: tuple[bool, ...]) -> list[bool]:
    place = flags.index(False)
    return [*flags[:place], True, *flags[place + 1 :]]


def test_without_a_target_that_is_to_be_met_proposals_stay_as_they_are(gated):
    narrow = fxprune.search(gated, ["params", "-macs"], trials=20, sampler="random")
    wide = fxprune.search(gated, "params", trials=20, sampler="random")
    limit = 0.5 * fxprune.report(gated, latency=False).before["macs"]
    assert min(trial.costs["macs"] for trial in narrow) < 0.5 * limit
    assert min(trial.costs["macs"] for trial in wide) > 0.8 * limit
    assert all(trial.costs["macs"] <= limit for trial in (*narrow, *wide))


def test_an_exhaustive_search_finds_the_best_of_all(small):
    found = fxprune.search(small, "params", target=1.0, sampler="exhaustive")
    assert len(found) == 4 * 8 * 2
    assert found.best.config == {"stem.0": 4, "body.0": 8, "body+": 1}
    bounded = fxprune.search(small, "params", target=0.4, sampler="exhaustive")
    known = [trial for trial in found if trial.costs["macs"] <= bounded.best.costs["macs"]]
    assert bounded.best.scores["params"] == max(trial.costs["params"] for trial in known)


def test_positions_stay_in_the_order_of_importance(gated):
    order = {"stem.0": torch.arange(8.0)}
    found = fxprune.search(gated, "params", trials=3, sampler="random", importance=order)
    for trial in found:
        flags = trial.keep_set["stem.0"]
        assert list(flags) == sorted(flags)


def test_widths_go_in_units(gated):
    rounded = fxprune.prepare(randomise(Residual()), images(), target=0.7, round_to=4)
    found = fxprune.search(rounded, "params", trials=5, sampler="random")
    assert {trial.config["stem.0"] % 4 for trial in found} == {0}
    assert {trial.config["body.0"] % 4 for trial in found} == {0}


def test_the_model_stays_as_it_is(gated):
    before = {name: flags.clone() for name, flags in fxprune.keep_set(gated).items()}
    with assert_unchanged(gated):
        accuracy = scores.accuracy(LABELLED, refit=LABELLED)
        fxprune.search(gated, [accuracy, "naswot", "snip"], trials=2, data=LABELLED)
    assert all(torch.equal(flags, before[name]) for name, flags in fxprune.keep_set(gated).items())


def test_functions_are_given_the_folded_model(gated):
    seen = []

    def params(model: nn.Module) -> torch.Tensor:
        seen.append(model)
        return torch.tensor(float(sum(p.numel() for p in model.parameters())))

    found = fxprune.search(gated, params, trials=2, sampler="random")
    assert [trial.scores["params"] for trial in found] == [t.costs["params"] for t in found]
    assert {type(model) for model in seen} == {Residual}


def test_accuracy_and_loss_are_those_of_the_folded_model(gated):
    def right(model: nn.Module) -> float:
        return sum((model.eval()(x).argmax(1) == y).sum().item() for x, y in LABELLED) / 16

    def loss_of(model: nn.Module) -> float:
        losses = [nn.functional.cross_entropy(model.eval()(x), y).item() for x, y in LABELLED]
        return -sum(losses) / len(losses)

    wanted = [scores.accuracy(LABELLED), scores.loss(LABELLED), right, loss_of]
    for trial in fxprune.search(gated, wanted, trials=4, sampler="random"):
        assert trial.scores["accuracy"] == trial.scores["right"]
        assert trial.scores["loss"] == pytest.approx(-trial.scores["loss_of"], rel=1e-5)


def test_a_loss_is_to_be_small(gated):
    found = fxprune.search(gated, scores.loss(LABELLED), trials=6, sampler="random")
    assert found.best.scores["loss"] == min(trial.scores["loss"] for trial in found)


# Linear programming -----------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.3, 0.9))
def test_linear_programming_finds_the_best_of_all(seed, share):
    gated = fxprune.prepare(randomise(Residual(3)), images(), target=1.0)
    generator = torch.Generator().manual_seed(seed)
    effects = {
        group.name: torch.rand(group.size, generator=generator) * (4 if group.size == 1 else 1)
        for group in fxprune.groups(gated)
        if not group.pin
    }
    options = {"target": share, "importance": effects}
    best = fxprune.search(gated, effects, sampler="milp", **options).best
    every = fxprune.search(gated, effects, sampler="exhaustive", **options)
    assert best.scores["importance"] == pytest.approx(every.best.scores["importance"], rel=1e-3)
    limit = share * fxprune.report(gated, latency=False).before["macs"]
    assert best.costs["macs"] <= limit


def test_what_adds_up_counts_nothing_inside_of_a_closed_branch(small):
    effects = {"stem.0": [1, 2, 4, 8], "body.0": [16.0] * 8, "body+": [32]}
    found = fxprune.search(small, effects, target=1.0, sampler="exhaustive")
    lost = {tuple(trial.config.values()): -trial.scores["importance"] for trial in found}
    assert lost[4, 8, 1] == 0
    assert lost[3, 6, 1] == 1 + 2 * 16
    assert lost[3, 6, 0] == 1 + 32


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        ("params", {}, "adds up"),
        (["taylor", "params"], {}, "adds up"),
        (lambda model: 1.0, {}, "adds up"),
    ],
)
def test_linear_programming_refuses_what_does_not_add_up(gated, score, options, message):
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.search(gated, score, sampler="milp", data=LABELLED, **options)


# Again, and after a break -----------------------------------------------------------------------


class Failing:
    """A score that fails when it is called for the nth time."""

    def __init__(self, last: int) -> None:
        self.calls, self.last = 0, last

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        if self.calls > self.last:
            raise RuntimeError("no power")
        return float(sum(p.detach().abs().sum() for p in model.parameters()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_goes_on_tries_what_it_would_have_tried(sampler, wide, tmp_path):
    options = {"trials": 26 if sampler == "nsga2" else 14, "sampler": sampler, "seed": 3}
    whole = fxprune.search(wide, Failing(10**6), **options)
    assert tried(whole) == tried(fxprune.search(wide, Failing(10**6), **options))
    place = tmp_path / "study.log"
    for _ in range(2):
        with pytest.raises(fxprune.SearchError, match="no power") as failed:
            fxprune.search(wide, Failing(2), storage=place, **options)
    assert tried(failed.value.found) == tried(whole)[: len(failed.value.found)]
    assert tried(fxprune.search(wide, Failing(10**6), storage=place, **options)) == tried(whole)


def test_another_seed_tries_something_else(gated):
    first, second = (fxprune.search(gated, "params", trials=5, seed=seed) for seed in (0, 1))
    assert tried(first) != tried(second)


def test_more_trials_go_on_from_those_that_are_done(gated, tmp_path):
    options = {"sampler": "tpe", "storage": str(tmp_path / "study.log")}
    short = fxprune.search(gated, "params", trials=4, **options)
    long = fxprune.search(gated, "params", trials=7, **options)
    assert len(long) == 7 and tried(long)[:4] == tried(short)
    assert tried(fxprune.search(gated, "params", trials=2, **options)) == tried(long)


def test_a_storage_of_another_search_is_refused(gated, tmp_path):
    place = tmp_path / "study.log"
    fxprune.search(gated, "params", trials=2, storage=place)
    for options, word in (({"seed": 1}, "seed"), ({"target": 0.3}, "target")):
        with pytest.raises(fxprune.InputError, match=f"another {word}"):
            fxprune.search(gated, "params", trials=2, storage=place, **options)
    with pytest.raises(fxprune.InputError, match="another s"):
        fxprune.search(gated, ["params", "macs"], trials=2, storage=place)
    (tmp_path / "text").write_text("neither")
    with pytest.raises(fxprune.InputError, match="storage"):
        fxprune.search(gated, "params", trials=2, storage=tmp_path / "text")


CHILD = """
import os, sys, time, torch, fxprune
from tests.torch.test_search import chain
gated = chain()
def score(model):
    time.sleep(float(sys.argv[2]))
    open(sys.argv[3], "a").write(f"{os.getpid()}\\n")
    return float(sum(p.detach().abs().sum() for p in model.parameters()))
found = fxprune.search(gated, score, trials=16, storage=sys.argv[1], sampler="tpe")
print(len(found), [(dict(t.config), dict(t.scores)) for t in found])
"""


def child(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for_lines(path: Path, number: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        if path.exists() and len(path.read_text().splitlines()) >= number:
            return
        assert process.poll() is None
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("nothing happens")


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    place, marks = str(tmp_path / "study.log"), tmp_path / "marks"
    process = child(place, "0.3", str(marks))
    wait_for_lines(marks, 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    after = child(place, "0", str(marks)).communicate(timeout=120)[0]
    whole = child(str(tmp_path / "other.log"), "0", str(marks)).communicate(timeout=120)[0]
    assert after.startswith("16 ") and after == whole


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    place, marks = str(tmp_path / "study.log"), tmp_path / "marks"
    both = [child(place, "0.2", str(marks)) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    workers = marks.read_text().split()
    assert len(set(workers)) == 2 and len(workers) <= 16  # a point that comes again is not scored
    found = child(place, "9", str(marks)).communicate(timeout=120)[0]
    assert found.startswith("16 ")


# What goes wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), "much", None, torch.zeros(2), 1j])
def test_a_score_that_is_no_number_is_told(value, gated):
    with pytest.raises(fxprune.SearchError, match="must be a number") as failed:
        fxprune.search(gated, lambda model: value, trials=2)
    assert len(failed.value.found) == 0


def test_an_endless_score_is_the_worst(gated):
    values = itertools.chain([-torch.inf, 1.0], itertools.repeat(0.0))
    found = fxprune.search(gated, lambda model: next(values), trials=3, sampler="random")
    assert found.best.scores["score"] == 1.0


# Builders ---------------------------------------------------------------------------------------


def network(depth: int, width: int, norm: str = "batch") -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        layers += [nn.BatchNorm2d(width)] * (norm == "batch")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, 5)), torch.zeros(1, 3, 8, 8)


RANGES = {"depth": range(1, 5), "width": [4, 8, 12, 16], "norm": ["batch", "none"]}


@pytest.mark.parametrize("config", [(1, 4, "batch"), (3, 12, "none")])
def test_costs_of_a_builder_are_those_of_what_it_builds(config):
    names = dict(zip(RANGES, config, strict=True))
    ranges = {name: [value] for name, value in names.items()}
    (trial,) = fxprune.search(network, "macs", ranges=ranges, trials=1)
    model, example = network(**names)
    assert trial.config == names
    assert trial.costs == fxprune.report(fxprune.prepare(model, example), latency=False).before


def test_configurations_are_within_limits_and_as_large_as_fits():
    limit = 4_000
    every = fxprune.search(network, "params", ranges=RANGES, sampler="exhaustive")
    assert len(every) == 32
    fitting = [trial for trial in every if trial.costs["params"] <= limit]
    found = fxprune.search(
        network, "params", ranges=RANGES, target={"params": limit}, trials=25, sampler="random"
    )
    assert all(trial.costs["params"] <= limit for trial in found)
    assert found.best.costs["params"] == max(trial.costs["params"] for trial in fitting)


def test_builders_draw_the_same_weights_for_the_same_seed():
    state = torch.get_rng_state()
    options = {"ranges": RANGES, "trials": 3, "sampler": "random"}
    first = fxprune.search(network, "synflow", data=[images()], seed=5, **options)
    again = fxprune.search(network, "synflow", data=[images()], seed=5, **options)
    assert tried(first) == tried(again)
    assert torch.equal(state, torch.get_rng_state())


def test_costs_can_be_given():
    def costs(depth: int, width: int) -> dict[str, float]:
        return {"bytes": depth * width}

    ranges = {"depth": range(1, 5), "width": range(1, 11)}
    found = fxprune.search(
        network, "bytes", costs=costs, ranges=ranges, target={"bytes": 27}, trials=20
    )
    assert found.best.costs == {"bytes": 27}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": None}, "ranges"),
        ({"ranges": {}}, "ranges"),
        ({"ranges": {"depth": []}}, r"ranges\['depth'\] is empty"),
        ({"ranges": {"depth": 3}}, "ranges"),
        ({"ranges": {"nothing": [1]}}, "builder fails"),
        ({"target": 0.5}, "numbers by cost"),
        ({"target": {"weight": 3}}, "known costs"),
        ({"target": {"params": 3}}, "first configuration"),
        ({"score": "taylor"}, "gated model"),
        ({"score": {"0": [1]}}, "no groups"),
        ({"importance": {"0": [1]}}, "gated models"),
        ({"costs": 3}, "costs"),
        ({"costs": lambda **config: 3}, "costs"),
        ({"costs": lambda: {}}, "costs fails"),
    ],
)
def test_what_does_not_fit_a_builder_is_told(arguments, message):
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.search(network, **{"ranges": RANGES, "trials": 2, **arguments})


def test_a_builder_that_returns_no_module_is_told():
    with pytest.raises(fxprune.InputError, match="must return a module"):
        fxprune.search(lambda depth: depth, ranges={"depth": [1]})


def test_what_is_for_builders_is_told(gated):
    for name, value in (("ranges", RANGES), ("costs", len)):
        with pytest.raises(fxprune.InputError, match=f"{name} is for builders"):
            fxprune.search(gated, "macs", **{name: value})
