"""ArchGym's comparison (Krishnan et al. 2023): agents on one environment, one log, and a proxy.

python -m examples.archgym

Five agents (random walk, genetic, TPE, ant colony, PPO of stable-baselines3) try keep-sets of a
small network, all through `PruningEnv`, so that all their steps are trials of one table. With
several hyper-parameters each, the spread of what they reach shows how much of a comparison is their
lottery. A proxy that is fitted on the table predicts the costs of what was held out.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import torch
from torch import nn

import fxprune
from fxprune.environments import PruningEnv

AIM = 0.3
"""The share of the parameters to come near, with MACs at half or less."""


def network(width: int = 32) -> nn.Module:
    """A small residual network with random weights: agents see costs alone."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(width, 2 * width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(2 * width, width, 3, padding=1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    blocks = [Block() for _ in range(4)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, *head)


def environment() -> PruningEnv:
    """Parameters near the aim, MACs at most half."""
    gated = fxprune.prepare(network(), torch.zeros(1, 3, 16, 16))
    full = fxprune.report(gated, latency=False).before["params"]
    return PruningEnv(gated, "params", target=0.5, aim=AIM * full, levels=8)


def rewards(env: PruningEnv, actions: Any) -> float:
    """The best reward of some actions."""
    return max(float(env.step(np.asarray(action))[1]) for action in actions)


def random_walk(env: PruningEnv, steps: int, seed: int, stride: int) -> float:
    """From one action to a neighbour, whatever the reward."""
    generator = np.random.default_rng(seed)
    levels = env.action_space.nvec  # type: ignore[attr-defined]

    def walk() -> Iterator[np.ndarray]:
        place = generator.integers(levels)
        for _ in range(steps):
            yield place
            place = (place + generator.integers(-stride, stride + 1, len(levels))) % levels

    return rewards(env, walk())


def by_optuna(env: PruningEnv, steps: int, sampler: optuna.samplers.BaseSampler) -> float:
    """A sampler of optuna as an agent: genetic, or TPE."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    levels = env.action_space.nvec  # type: ignore[attr-defined]

    def reward(trial: optuna.Trial) -> float:
        action = [trial.suggest_int(str(i), 0, int(n) - 1) for i, n in enumerate(levels)]
        return rewards(env, [action])

    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(reward, steps)
    return float(study.best_value)


def ants(env: PruningEnv, steps: int, seed: int, evaporation: float, colony: int) -> float:
    """Ant colony: levels are drawn by pheromone, which the best ant of a colony adds to."""
    generator = np.random.default_rng(seed)
    levels = env.action_space.nvec  # type: ignore[attr-defined]
    pheromone = [np.ones(n) / n for n in levels]
    best = 0.0
    for _ in range(steps // colony):
        colony_of = [
            [generator.choice(len(p), p=p / p.sum()) for p in pheromone] for _ in range(colony)
        ]
        found = [rewards(env, [ant]) for ant in colony_of]
        leader = colony_of[int(np.argmax(found))]
        best = max(best, *found)
        for trail, level in zip(pheromone, leader, strict=True):
            trail *= 1 - evaporation
            trail[level] += evaporation
    return best


def ppo(env: PruningEnv, steps: int, seed: int, lr: float, batch: int) -> float:
    """Proximal policy optimisation, of stable-baselines3."""
    from stable_baselines3 import PPO

    before = len(env.found)
    agent = PPO("MlpPolicy", env, learning_rate=lr, n_steps=batch, batch_size=batch, seed=seed)
    agent.learn(steps)
    values = [trial.scores["params"] for trial in env.found.trials[before:]]
    return max(env.reward_of(value) for value in values)


def agents(env: PruningEnv, steps: int) -> dict[str, list[float]]:
    """The best reward of every agent with each of its hyper-parameters."""
    samplers = optuna.samplers
    return {
        "random walk": [random_walk(env, steps, 0, stride) for stride in (1, 2, 4)],
        "genetic": [
            by_optuna(env, steps, samplers.NSGAIISampler(population_size=size, seed=0))
            for size in (4, 16, 64)
        ],
        "TPE": [
            by_optuna(env, steps, samplers.TPESampler(n_startup_trials=start, seed=0))
            for start in (5, 10, 40)
        ],
        "ant colony": [ants(env, steps, 0, rate, 8) for rate in (0.05, 0.2, 0.6)],
        "PPO": [ppo(env, steps, 0, lr, 32) for lr in (1e-4, 3e-3, 3e-2)],
    }


def proxy(found: fxprune.Found) -> tuple[float, float]:
    """Ridge regression on products of up to three widths, fitted on four fifths of the trials.

    Returns the root mean square error of what it says of the MACs of the rest, as a share of their
    range, and the seconds for a prediction.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, PolynomialFeatures

    unique = {tuple(trial.config.values()): trial.costs["macs"] for trial in found}
    x, y = np.array(list(unique)), np.array(list(unique.values()), dtype=float)
    order = np.random.default_rng(0).permutation(len(x))
    held, known = order[: len(x) // 5], order[len(x) // 5 :]
    model = make_pipeline(MaxAbsScaler(), PolynomialFeatures(3), Ridge(1e-4))
    model.fit(x[known], y[known])
    begin = time.perf_counter()
    guessed = model.predict(x[held])
    seconds = (time.perf_counter() - begin) / len(held)
    return float(np.sqrt(np.mean((guessed - y[held]) ** 2)) / np.ptp(y)), seconds


def measured(found: fxprune.Found, number: int = 5) -> float:
    """The seconds it takes to fold some trials and to run each once, to see what they take."""
    gated = fxprune.prepare(network(), torch.zeros(1, 3, 16, 16))
    begin = time.perf_counter()
    for trial in found.trials[:number]:
        fxprune.set_keep_set(gated, trial.keep_set)
        fxprune.fold(gated)(torch.zeros(1, 3, 16, 16))
    return (time.perf_counter() - begin) / number


def main(steps: int = 160) -> None:
    env = environment()
    for name, reached in agents(env, steps).items():
        spread = ", ".join(f"{each:.1f}" for each in reached)
        print(f"{name:12} best reward by hyper-parameter: {spread}")
    print(env.found.table)
    error, seconds = proxy(env.found)
    times = measured(env.found) / seconds
    print(f"proxy: error {error:.2%} of the range, {times:,.0f} times faster than a measurement")


if __name__ == "__main__":
    main()
