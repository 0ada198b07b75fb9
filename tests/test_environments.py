"""The environment keeps gymnasium's contract, and its trials are those of the search space."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import fxprune
from fxprune.environments import PruningEnv
from fxprune.testing import assert_unchanged
from tests.torch.models import Residual, images, randomise


@pytest.fixture(scope="module")
def gated():
    return fxprune.prepare(randomise(Residual()), images(), target=0.6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_checker_finds_nothing(gated):
    check_env(PruningEnv(gated, "params"), skip_render_check=True)


def test_steps_are_trials_within_the_target(gated):
    env = PruningEnv(gated, "params", target=0.4, aim=700.0)
    env.action_space.seed(0)
    first, _ = env.reset(seed=0)
    assert first.tolist() == [1, 1, 1, 1, 1, 1, 0]
    full = fxprune.report(gated, latency=False).before
    with assert_unchanged(gated):
        for number in range(6):
            seen, reward, over, cut, information = env.step(env.action_space.sample())
            trial = env.found.trials[-1]
            assert {n: tuple(f) for n, f in information["keep_set"].items()} == trial.keep_set
            assert over and not cut and trial.number == number
            assert trial.costs["macs"] <= 0.4 * full["macs"]
            shares = [trial.costs[name] / full[name] for name in full]
            assert seen.tolist() == pytest.approx([*shares, trial.costs["params"]])
            assert reward == pytest.approx(700 / max(abs(700 - trial.costs["params"]), 1e-12))
    assert len(env.found) == 6 and len(env.found.table) == 6


def test_levels_go_from_the_least_to_all(gated):
    env = PruningEnv(gated, "-macs", target=1.0, levels=3)
    assert env.action_space.nvec.tolist() == [3, 3, 2]
    _, reward, *_ = env.step(np.array([2, 2, 1]))
    assert env.found.trials[-1].config == {"stem.0": 8, "body.0": 12, "body+": 1}
    assert reward == -fxprune.report(gated, latency=False).before["macs"]
    env.step(np.array([0, 0, 0]))
    assert env.found.trials[-1].config == {"stem.0": 1, "body.0": 1, "body+": 0}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"levels": 1}, "levels"), ({"aim": 0}, "aim"), ({"score": ["macs", "params"]}, "score")],
)
def test_what_does_not_fit_is_told(arguments, word, gated):
    with pytest.raises(fxprune.InputError, match=word):
        PruningEnv(gated, **{"score": "macs", **arguments})
