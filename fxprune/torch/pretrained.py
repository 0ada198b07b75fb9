"""What is in a folder of a transformers model beside its weights?

Its class and configuration, from which the model is made without weights, and files for its users,
which a smaller model needs as well.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.torch.backend.derived import base_of, is_derived
from fxprune.torch.backend.generated import generated_code

CONFIGURATION = "config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
_OF_THE_MODEL = (CONFIGURATION, "fxprune.json", "README.md")
"""What says something of the model as it was: its sizes, and a card with its results."""


def empty_model(folder: Path) -> Any:
    """The model of a folder on the meta device, of the class that its configuration names.

    Raises:
        InputError: the folder does not tell, or transformers has no such class.
    """
    text = _configuration(folder)
    if "quantization_config" in text:
        raise InputError(f"the weights in {folder} are quantised: prune the model they came from")
    names = text.get("architectures") or ["without a name"]
    try:
        import transformers

        kind = getattr(transformers, str(names[0]))
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return kind(config).eval()
    except Exception as error:  # it is missing, or has no such class, or refuses the configuration
        raise InputError(
            f"transformers makes no {names[0]} of {folder / CONFIGURATION}: {error}; give model=, "
            "a function that makes the model"
        ) from error


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / CONFIGURATION
    if not path.is_file():
        raise InputError(
            f"there is no {path}, which would tell the class of the model: give model=, a function "
            "that makes it"
        )
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no configuration")
    return found


def why_not_from_configuration(model: nn.Module) -> str:
    """Why the configuration of a model does not make one of the same code and sizes; "" if it does.

    That it is written and read in between is part of the question.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return "it has none"
    if code := generated_code(model):
        return f"the code of {next(iter(code)) or 'the model'} is generated"
    kind = base_of(type(model)) if is_derived(type(model)) else type(model)
    try:
        again = type(config).from_dict(config.to_dict())
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            other = kind(again)
    except Exception as error:  # whatever libraries check, and whatever a constructor takes
        return f"{error.__cause__ or error}".strip().rstrip(".")
    shapes = [{n: t.shape for n, t in each.state_dict().items()} for each in (model, other)]
    return "" if shapes[0] == shapes[1] else "it makes a model of other sizes"


def copy_companions(folder: Path, out: Path) -> None:
    """Copy what goes with a model of any size: tokenizer, settings of generation, licence."""
    for file in sorted(folder.iterdir()):
        is_weights = file.suffix in _WEIGHTS or file.name.endswith(".index.json")
        if file.is_file() and not is_weights and file.name not in _OF_THE_MODEL:
            shutil.copyfile(file, out / file.name)
