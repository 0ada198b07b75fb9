"""The gating methods by name."""

from typing import Any

from fxprune.arguments import near, shown
from fxprune.errors import InputError
from fxprune.torch.gates.consensus import Consensus
from fxprune.torch.gates.method import Settings
from fxprune.torch.gates.soft import AutoBot, HardConcrete
from fxprune.torch.gates.static import Static

METHODS: dict[str, type[Any]] = {
    "static": Static,
    "consensus": Consensus,
    "autobot": AutoBot,
    "hard_concrete": HardConcrete,
}
"""A name stands for the method with its default settings."""


def settings_of(method: str | Settings) -> Settings:
    """The settings that a user asked for.

    Raises:
        InputError: no method has this name, or this is no method's settings.
    """
    if isinstance(method, tuple(METHODS.values())):
        return method  # type: ignore[return-value]
    if not isinstance(method, str) or method not in METHODS:
        kinds = ", ".join(kind.__name__ for kind in METHODS.values())
        raise InputError(
            f"unknown method {shown(method)}; known methods are {', '.join(METHODS)}, or one of "
            f"{kinds} with settings{near(method, METHODS)}"
        )
    settings: Settings = METHODS[method]()
    return settings
