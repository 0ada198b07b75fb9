"""Reports that the tests of pages look at; no model is needed for one."""

from fxprune.passes.layers import LayerSizes
from fxprune.passes.outline import INPUT, Stop
from fxprune.reports import Report, Row
from fxprune.torch.verify import Comparison, Verdict

HOSTILE = "<script>alert('&')</script>$x_{$"
POINTS = [(0.3, 84.0, "small"), (0.5, 86.0, HOSTILE), (0.5, 85.0), (0.7, 85.5)]
VERDICT = Verdict((Comparison(HOSTILE, 2, "float64", 3e-15, 1e-10),))


def layer(index: int) -> LayerSizes:
    """One layer of a deep network; every seventh was removed, every sixth loses nothing."""
    before = 16 * (1 + index // 20)
    after = 0 if index % 7 == 3 else before // (1 if index % 6 == 0 else 2)
    name = f"backbone.stages.{index // 20}.blocks.{index % 20}.convolution"
    return LayerSizes(
        name,
        "conv",
        before,
        after,
        before * 90_000,
        after * 90_000,
        before * 9,
        after * 9,
        not after,
    )


def report(layers: int = 200, name: str = "Deep") -> Report:
    """A report of a network with that many layers, whose names are as hostile as the given one."""
    found = (LayerSizes(f"{name}.stem", "conv", 8, 4, 1_000_000, 500_000, 216, 108),)
    found += tuple(map(layer, range(layers)))
    costs = {
        when: {
            "macs": sum(getattr(item, f"macs_{when}") for item in found),
            "params": sum(getattr(item, f"params_{when}") for item in found),
        }
        for when in ("before", "after")
    }
    rows = (
        Row(f"{name}.stem", "channel", 8, 4, 3, ""),
        Row("backbone+", "branch", 1, 0, 5, ""),
        *(Row(f"pinned.{i}.{name}", "channel", 10, 10, 1, f"read by {name}") for i in range(40)),
    )
    stops = [Stop(f"{name}.x", INPUT)]
    for number, item in enumerate(found):
        stops.append(Stop(item.name, item.op, (len(stops) - 1,), number, item.removed))
        if number % 4 == 3:
            last = len(stops) - 1
            stops.append(Stop(f"add_{number}", "add", (last - 4 - (number > 4), last)))
    return Report(
        outline=tuple(stops),
        source=name,
        rows=rows,
        layers=found,
        before=costs["before"],
        after=costs["after"],
        latency_ms={"before": 0.8, "after": 0.5},
        file_bytes={"before": 4_000_000, "after": 2_000_000},
    )
