"""What did a training cost? Samples, multiply-accumulates, time; energy as an estimate."""

import copy
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fxprune.arguments import refusal
from fxprune.errors import InputError
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import Record, is_gated, record_of
from fxprune.torch.wrapping import check_module


@dataclass(slots=True)
class TrainingCost:
    """Filled while the training runs.

    Attributes:
        samples: that training forwards have seen.
        forward_macs: multiply-accumulates of these forwards, for the layers as large as they are at
            the time (closed positions cost until they are removed); backwards cost about twice as
            much again.
        seconds: of wall time.
        energy_kwh: an estimate by codecarbon, None if it was not asked for.
        emissions_kg: of CO2 equivalent, estimated likewise.
        energy_method: how codecarbon came to its estimate, for instance from measured power or
            from the load of a processor of this kind.
    """

    samples: int = 0
    forward_macs: int = 0
    seconds: float = 0.0
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    energy_method: str = ""

    def as_dict(self) -> dict[str, float]:
        """Every number that is known, for a tracker."""
        names = ("samples", "forward_macs", "seconds", "energy_kwh", "emissions_kg")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        lines = [
            f"{self.samples:,} samples, {self.forward_macs:,} MACs forward, {self.seconds:.1f} s"
        ]
        if self.energy_kwh is not None:
            lines.append(
                f"estimated {self.energy_kwh:.3g} kWh, {self.emissions_kg:.3g} kg CO2e "
                f"({self.energy_method})"
            )
        return "\n".join(lines)


@contextmanager
def training_cost(model: nn.Module, *, country: str = "") -> Iterator[TrainingCost]:
    """Count what the training inside costs.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with fxprune.training_cost(model) as cost:
    ...     _ = model(torch.zeros(10, 4))
    >>> cost.samples, cost.forward_macs
    (10, 480)

    Args:
        model: gated, folded or plain; its forwards in training mode are counted.
        country: three letters of ISO 3166 such as "DEU"; with it, energy and emissions are
            estimated by codecarbon, which needs no network for that.

    Raises:
        InputError: `country` is given, but codecarbon is not installed.
    """
    check_module("model", model)
    if not isinstance(country, str) or not re.fullmatch("([A-Z]{3})?", country):
        raise refusal("country", country, 'three capital letters of ISO 3166, such as "DEU"')
    cost = TrainingCost()
    per_sample: dict[Any, int] = {}
    records: list[Record] = []  # alive, so that their ids stay theirs

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if not module.training or first is None or not first.dim():
            return
        record = record_of(module)
        key = id(record) if record else tuple(first.shape[1:])
        if key not in per_sample:
            records.extend([record] if record else [])
            known = _known(module, record) if record else 0
            per_sample[key] = known or _counted(module, args, kwargs, len(first))
        cost.samples += len(first)
        cost.forward_macs += per_sample[key] * len(first)

    tracker = _tracker(country) if country else None
    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        handle.remove()
        if tracker is not None:
            _finish(tracker, cost)


def _known(module: nn.Module, record: Record) -> int:
    """MACs per sample of a gated module with its closed positions, or of a folded one."""
    costs = record.analysis.costs
    if is_gated(module):
        return int(costs.at(costs.full)["macs"])
    return costs_of(module)["macs"]


def _counted(module: nn.Module, args: Any, kwargs: Any, samples: int) -> int:
    """MACs per sample of a forward as it is; counted on a copy, so that nothing moves."""
    clone = copy.deepcopy(module).eval()
    clone._forward_pre_hooks.clear()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        clone(*args, **kwargs)
    return int(counter.get_total_flops()) // 2 // samples


def _tracker(country: str) -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        raise InputError(
            'energy estimates need codecarbon: pip install "fxprune[energy]", or leave out country'
        ) from error
    tracker = OfflineEmissionsTracker(
        country_iso_code=country, save_to_file=False, log_level="critical", allow_multiple_runs=True
    )
    tracker.start()
    return tracker


def _finish(tracker: Any, cost: TrainingCost) -> None:
    tracker.stop()
    data = tracker.final_emissions_data
    cost.energy_kwh = float(data.energy_consumed)
    cost.emissions_kg = float(data.emissions)
    cost.energy_method = f"codecarbon {data.codecarbon_version}, mode {data.tracking_mode}"
