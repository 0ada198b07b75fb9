"""Compressor (Shi et al. 2022): the largest computation that a code model of 3 MB can have.

python -m examples.compressor

Searches the published space of RoBERTa configurations (vocabulary, heads, hidden and intermediate
size, layers) three ways: every one of its 10,944,000 points, by the published fitness, and under a
hard limit of bytes. Parameters and FLOPs are counted by the published formulas, which also count a
pooler that the classifier of transformers does not have; `builder` makes the model itself, whose
exact costs fxprune records on the meta device.
"""

from typing import Any

import fxprune

SPACE = {
    "vocabulary": range(1_000, 50_001, 1_000),
    "heads": (1, 2, 4, 8),
    "hidden": range(16, 769, 16),
    "intermediate": range(32, 3_041, 32),
    "layers": range(1, 13),
}
CODEBERT = {
    "vocabulary": 50_265,
    "heads": 12,
    "hidden": 768,
    "intermediate": 3_072,
    "layers": 12,
}
POSITIONS = 514
MEGABYTES = 3.0


def costs(vocabulary: Any, heads: Any, hidden: Any, intermediate: Any, layers: Any) -> Any:
    """Parameters, GFLOPs of one sample, and fitness: GFLOPs minus the error of the size in MB.

    Works on numbers and on numpy arrays alike.
    """
    v, h, i, s = vocabulary, hidden, intermediate, POSITIONS
    block = 4 * (h * h + h) + 2 * h * i + i + h + 4 * h
    params = v * h + POSITIONS * h + 3 * h + layers * block + 2 * (h * h + h) + 2 * h + 2
    attention = 6 * h * h + 3 * h + 2 * h * s + 10 * s * heads + 2 * h * s + 2 * h * h + 6 * h + 5
    feed_forward = 4 * h * i + 9 * i + 11 * h
    embedding = 2 * h * v + 2 * h * (s + 2) + 11 * h
    classifier = 2 * h * h + 15 * h
    flops = s * (layers * (attention + feed_forward) + embedding + classifier)
    gflops = flops / 1e9
    target = MEGABYTES * 1e6 / 4
    return {
        "params": params,
        "gflops": gflops,
        "fitness": gflops - abs(target - params) * 4 / 1e6,
    }


def builder(vocabulary: int, heads: int, hidden: int, intermediate: int, layers: int) -> Any:
    """The classifier itself, and example inputs of 400 tokens."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=vocabulary,
        num_attention_heads=heads,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
    )
    tokens = {"input_ids": torch.ones(1, 400, dtype=torch.long)}
    return RobertaForSequenceClassification(config), tokens


def every_point() -> fxprune.Found:
    """The best of all by the published fitness."""
    return fxprune.search(
        builder, "fitness", ranges=SPACE, costs=costs, sampler="exhaustive", trials=5
    )


def by_fitness(seed: int, trials: int = 300, sampler: str = "tpe") -> fxprune.Found:
    """A search for the published fitness; what is 5 % above the size at most is looked at."""
    limit = {"params": 1.05 * MEGABYTES * 1e6 / 4}
    return fxprune.search(
        builder,
        "fitness",
        ranges=SPACE,
        costs=costs,
        target=limit,
        trials=trials,
        sampler=sampler,
        seed=seed,
    )


def under_a_limit(seed: int, trials: int = 300) -> fxprune.Found:
    """The most GFLOPs within 3 MB."""
    limit = {"params": MEGABYTES * 1e6 / 4}
    return fxprune.search(
        builder, "gflops", ranges=SPACE, costs=costs, target=limit, trials=trials, seed=seed
    )


def main() -> None:
    print("CodeBERT", costs(**CODEBERT))
    found = every_point()
    print("best of 10,944,000 by fitness:", found.best, dict(found.best.config))
    for sampler in ("random", "tpe", "nsga2", "cmaes"):
        best = [by_fitness(seed, sampler=sampler).best.scores["fitness"] for seed in range(10)]
        mean = sum(best) / len(best)
        print(f"{sampler}, ten runs of 300: best {max(best):.4f}, mean {mean:.4f}, {min(best):.4f}")
    best_within = under_a_limit(0).best
    print("within 3 MB:", best_within, dict(best_within.config))


if __name__ == "__main__":
    main()
