"""What is written on a command line, read: targets, shapes, keep-sets, points, Python objects."""

import csv
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxprune.arguments import near, sizes
from fxprune.clocks import Clock
from fxprune.errors import InputError, TargetError
from fxprune.files import check_source
from fxprune.keep_sets import flags_of


def target_of(texts: Sequence[str]) -> Any:
    """A target from `.5`, `params=.6` or `layer1:macs=.8`, or several of them.

    >>> target_of([".5"])
    0.5
    >>> target_of(["macs=.5", "layer1:params=.8"])
    {'macs': 0.5, 'layer1': {'params': 0.8}}
    """
    target: dict[str, Any] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        module, _, cost = name.rpartition(":")
        inside = target.setdefault(module, {}) if module else target
        if not isinstance(inside, dict) or (cost or "macs") in inside:
            raise TargetError(f"target gives {name or 'macs'} twice")
        try:
            inside[cost or "macs"] = float(number)
        except ValueError as error:
            raise TargetError(
                f"target {text!r} is no number: give .5, params=.6 or layer1:macs=.8"
            ) from error
    return target["macs"] if list(target) == ["macs"] else target


def clock_of(text: str | None) -> Clock | None:
    """A clock from `onnxruntime`, `torch,threads=4` or `batch=8`.

    >>> clock_of("onnxruntime,threads=4,batch=8")
    Clock(runtime='onnxruntime', threads=4, batch=8, providers=None)
    """
    if text is None:
        return None
    words = text.split(",")
    named = dict(word.split("=", 1) for word in words if "=" in word)
    alone = [word for word in words if "=" not in word]
    if len(alone) > 1 or not named.keys() <= {"threads", "batch", "providers"}:
        raise InputError(
            f"clock {text!r} is none: give onnxruntime or torch, threads=1, batch=1, "
            "providers=CUDAExecutionProvider"
        )
    numbers: dict[str, Any] = {
        name: int(value) if value.isdecimal() else value for name, value in named.items()
    }
    if "providers" in named:
        numbers["providers"] = named["providers"].split("+")
    return Clock(alone[0] if alone else None, **numbers)


def least_of(texts: Sequence[str]) -> Any:
    """What groups keep at least, from `.1` for all or `layer1=.2` for those of a module.

    >>> least_of([".1", "layer1=.2"])
    {'': 0.1, 'layer1': 0.2}
    """
    least: dict[str, float] = {}
    for text in texts:
        module, _, share = text.rpartition("=")
        if module in least:
            raise InputError(f"least gives {module or 'a share for all'} twice")
        try:
            least[module] = float(share)
        except ValueError as error:
            raise InputError(f"least {text!r} is no share: give .1 or layer1=.2") from error
    return least


def shapes_of(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by the name of the input, or by "0", "1", ... where none is given.

    >>> shapes_of(["x=1,3,32,32"])
    {'x': (1, 3, 32, 32)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index, text in enumerate(texts):
        name, _, numbers = text.rpartition("=")
        name = name or str(index)
        if name in shapes:
            raise InputError(f"shape of {name} is given twice")
        try:
            shapes[name] = sizes("shape", map(int, numbers.split(",")))
        except (ValueError, InputError) as error:
            raise InputError(
                f"shape {text!r} is none: give 1,3,224,224 or x=1,3,224,224"
            ) from error
    return shapes


def keep_set_of(path: Path) -> dict[str, tuple[bool, ...]]:
    """A keep-set from JSON: flags by name, or what `fxprune prune --json` printed."""
    check_source("keep_set", path)
    try:
        found = json.loads(path.read_text())
        return flags_of(found.get("keep_set", found))
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} holds no keep-set: JSON with a list of 0 and 1 by group, as "
            "`fxprune prune --json` prints it"
        ) from error


def points_of(path: Path | None) -> list[list[str]]:
    """The lines of a CSV file: target, accuracy and perhaps a label; a line of titles is left out.

    >>> points_of(None)
    []
    """
    if path is None:
        return []
    try:
        with check_source("points", path).open(newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file of target, accuracy, label: {error}") from error
    found = lines[1:] if lines and not _is_number(lines[0][0]) else lines
    if not found:
        raise InputError(f"{path} holds no points: write lines of target, accuracy, label")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def imported(text: str) -> Any:
    """What `module:name` stands for, looked up from the current folder on."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise InputError(
            f"{text!r} is neither an .onnx file nor module:factory of Python, such as "
            "torchvision.models:resnet18"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # the user's code may fail in any way
        raise InputError(
            f"cannot import {module} from here: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = _callables(vars(found))
            told = ", ".join(known[:10]) or "nothing that can be called"
            raise InputError(f"{module} has no {name!r}; it has {told}{near(part, known)}")
        found = getattr(found, part)
    return found


def _callables(names: Mapping[str, Any]) -> list[str]:
    return [name for name, value in names.items() if callable(value) and name[0] != "_"]
