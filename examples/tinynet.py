"""TinyNet (Han et al. 2020): small networks by resolution, depth and width, at given MACs.

python -m examples.tinynet

Records the five published networks, finds them again by `fxprune.resize`, and lets a search choose
the three multipliers freely for a score before training, at the MACs of TinyNet-D.
"""

from typing import Any

import torch

import fxprune

PUBLISHED = {  # resolution, width, depth, size of the image
    "A": (0.86, 1.0, 1.2, 192),
    "B": (0.84, 0.75, 1.1, 188),
    "C": (0.825, 0.54, 0.85, 184),
    "D": (0.68, 0.54, 0.695, 152),
    "E": (0.475, 0.51, 0.6, 106),
}


def builder(resolution: float, depth: float, width: float) -> tuple[Any, torch.Tensor]:
    """An EfficientNet-B0 as TinyNet scales it: the stem and the head hardly shrink."""
    from timm.models.efficientnet import _gen_tinynet

    size = int(224 * resolution)
    return _gen_tinynet("tinynet_a", width, depth), torch.zeros(1, 3, size, size)


def published() -> dict[str, fxprune.Found]:
    """The published networks, recorded on the meta device."""
    return {
        name: fxprune.search(
            builder,
            "macs",
            ranges={"resolution": [resolution], "depth": [depth], "width": [width]},
            trials=1,
        )
        for name, (resolution, width, depth, _) in PUBLISHED.items()
    }


def searched(macs: float, trials: int = 20) -> fxprune.Found:
    """The most parameters at given MACs, over all three multipliers."""
    ranges = {
        "resolution": [round(0.4 + 0.05 * step, 2) for step in range(13)],
        "depth": [round(0.5 + 0.1 * step, 1) for step in range(9)],
        "width": [round(0.3 + 0.05 * step, 2) for step in range(15)],
    }
    return fxprune.search(
        builder, "params", ranges=ranges, target={"macs": macs}, trials=trials, sampler="tpe"
    )


def main() -> None:
    print("network  size        MACs  by the rule: resolution, depth, width, MACs")
    for name, found in published().items():
        macs = found.best.costs["macs"]
        print(f"{name:7}  {PUBLISHED[name][3]}  {macs:>11,}  {fxprune.resize(builder, macs)}")
    print("searched at the MACs of D:", searched(51_580_656).best.config)


if __name__ == "__main__":
    main()
