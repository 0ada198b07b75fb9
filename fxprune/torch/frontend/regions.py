"""Regions of a forward under autocast or without gradients, as calls that a graph holds."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import fx

from fxprune.torch.frontend.owners import OwnedGraph


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


EFFECTS = (torch._C._set_grad_enabled, enter_autocast, exit_autocast)
"""Functions that are called for what they do, not for what they return."""


class Notes(Protocol):
    """Writes calls into a graph."""

    device: torch.device
    graph: OwnedGraph

    def note(self, func: Callable[..., Any], *args: Any) -> fx.Node:
        """A node for a call that is no computation."""

    def pause(self) -> AbstractContextManager[None]:
        """Let torch calls through unseen."""


class Silent(Protocol):
    """What can see nothing for a while."""

    silent: bool


class Pause:
    """That while; torch's calls are many, and a generator would take longer than some of them."""

    __slots__ = ("_before", "_recorder")

    def __init__(self, recorder: Silent) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._before, self._recorder.silent = self._recorder.silent, True

    def __exit__(self, *error: object) -> None:
        self._recorder.silent = self._before


class Regions:
    """Notes where regions begin and end while a forward runs."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._grad_modes: list[tuple[bool, fx.Node]] = []

    def set_grad_mode(self, mode: bool) -> None:
        """`set_grad_enabled`: the call that changes the mode back restores that of the caller."""
        written: Any = mode
        if mode != torch.is_grad_enabled():
            if self._grad_modes and self._grad_modes[-1][0] == mode:
                _, written = self._grad_modes.pop()
            else:
                self._grad_modes.append((not mode, self._notes.note(torch.is_grad_enabled)))
        self._notes.note(torch._C._set_grad_enabled, written)
        torch._C._set_grad_enabled(mode)

    @contextmanager
    def grad(self, mode: bool) -> Iterator[None]:
        """A region with or without gradients."""
        before = self._notes.note(torch.is_grad_enabled)
        self._notes.note(torch._C._set_grad_enabled, mode)
        with self._notes.pause():
            outside = torch.is_grad_enabled()
            torch._C._set_grad_enabled(mode)
        try:
            yield
        finally:
            self._notes.note(torch._C._set_grad_enabled, before)
            with self._notes.pause():
                torch._C._set_grad_enabled(outside)

    @contextmanager
    def autocast(self, region: torch.autocast) -> Iterator[None]:
        """A region with autocast."""
        device: Any = region.device
        device = (device == self._notes.device.type and self._notes.graph.device_node()) or device
        settings = (device, region.fast_dtype, region._enabled, region._cache_enabled)
        entered = self._notes.note(enter_autocast, *settings)
        yield
        self._notes.note(exit_autocast, entered)
