"""From words on the command line to what the verbs of a route take."""

import importlib
from pathlib import Path
from typing import Any

from fxprune.arguments import seed as check_seed
from fxprune.commands.arguments import least_of, shapes_of, target_of
from fxprune.commands.jobs import Source
from fxprune.errors import InputError
from fxprune.targets import Limits


def source_of(
    text: str,
    shape: list[str] | None = None,
    ignore: list[str] | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> Source:
    """A model, as far as words tell."""
    shapes = shapes_of(shape or ())
    source = Source(text, shapes, tuple(ignore or ()), checkpoint, check_seed(seed))
    if source.is_onnx and not Path(text).is_file():
        raise InputError(f"there is no file {text}")
    if source.is_onnx and checkpoint is not None:
        raise InputError(f"checkpoint goes with module:factory: {text} has weights of its own")
    return source


def files_of(checkpoint: Path | None) -> tuple[Path, ...]:
    """What is read of a checkpoint: a file, or those in a folder."""
    if checkpoint is None:
        return ()
    return (checkpoint, *sorted(checkpoint.glob("*")))


def limits_of(
    target: list[str] | None, round_to: int, least: list[str] | None, uniform: list[str] | None
) -> Limits:
    """How far pruning goes."""
    wanted = target_of(target or [".5"])
    return Limits(wanted, round_to, least_of(least or [".0"]), uniform or False)


def route_of(*sources: Source) -> Any:
    """The module with the verbs for a kind of sources; only it loads a framework."""
    kind = "onnx" if all(source.is_onnx for source in sources) else "torch"
    return importlib.import_module(f"fxprune.commands.{kind}_route")
