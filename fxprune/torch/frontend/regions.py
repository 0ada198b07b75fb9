"""Regions of a forward that run under autocast, as calls that a graph can hold."""

from typing import Any

import torch


def enter_autocast(
    device: torch.device | str, dtype: torch.dtype, enabled: bool, cache_enabled: bool
) -> Any:
    """Begin a region; the result ends it."""
    kind = device.type if isinstance(device, torch.device) else device
    region = torch.autocast(kind, dtype, enabled, cache_enabled)
    region.__enter__()  # type: ignore[no-untyped-call]
    return region


def exit_autocast(region: Any) -> None:
    """End a region."""
    region.__exit__(None, None, None)
