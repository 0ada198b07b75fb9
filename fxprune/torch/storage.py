"""A folded model on disk: weights and keep-set, no code, no pickle.

    folder/model.safetensors   the weights; its header holds the description as well
    folder/fxprune.json        the description for people: keep-set, versions, costs

`load` also reads shards, whose index holds the description.

The weights file alone is a complete checkpoint, and it is put in place in one step, so a folder
holds the old checkpoint or the new one, never a half.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fxprune.arguments import flag, shown
from fxprune.clocks import Timed
from fxprune.errors import CheckpointError, InputError, KeepSetError
from fxprune.files import check_folder, check_output, draft_of, made_folder
from fxprune.passes.factorisation import form_of
from fxprune.torch.checks import Model, check_model, check_weights
from fxprune.torch.fold import apply_step
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import FoldStep, Record, attach, is_gated, record_of, traced_part
from fxprune.torch.shards import INDEX, WEIGHTS, Shards
from fxprune.torch.wrapping import check_module
from fxprune.version import __version__

DESCRIPTION = "fxprune.json"
_FORMAT = 2
_COMPARED = ("macs", "params")
_SCALARS = (bool, int, float, str, type(None))


def save(folded: nn.Module, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Save a folded module; `load` brings it back onto the original constructor.

    Args:
        folded: what `fold` returned (trained further or not).
        folder: where to write; it is made if it does not exist.
        overwrite: whether a checkpoint that is there already may be replaced.

    Raises:
        InputError: the module is not folded, its example inputs cannot be written as JSON, or the
            folder cannot be written, or holds a checkpoint; what stood there before stays.
    """
    check_module("folded", folded)
    record = record_of(folded)
    if record is None or not record.history or is_gated(folded):
        part, _ = traced_part(folded)
        raise InputError(
            f"save takes the part that was folded: model.get_submodule({part!r})"
            if part
            else "save takes what fxprune.fold returned; fold the gated module first"
        )
    check_weights(folded)
    folder = made_folder(check_checkpoint(folder, overwrite=overwrite))
    tensors, aliases = _unique(folded.state_dict())
    text = json.dumps(description_of(folded, record, aliases), indent=1)
    try:
        with draft_of(folder / WEIGHTS, overwrite=overwrite) as draft:
            save_file(tensors, draft, {"fxprune": text})
        with draft_of(folder / DESCRIPTION, overwrite=overwrite) as draft:
            draft.write_text(text)
    except SafetensorError as error:
        raise InputError(f"cannot write {folder / WEIGHTS}: {error}") from error
    return folder


def check_checkpoint(
    folder: str | Path, *, overwrite: bool = False, sources: Iterable[Any] = ()
) -> Path:
    """The folder, if a checkpoint can be written there.

    Raises:
        InputError: it is a file, or holds a checkpoint, or one of the sources of the work.
    """
    folder = check_folder("folder", folder)
    flag("overwrite", overwrite)
    for name in (WEIGHTS, DESCRIPTION) if folder.is_dir() else ():
        check_output("folder", folder / name, overwrite=overwrite, sources=sources)
    return folder


def load(folder: str | Path, model: Model) -> Model:
    """A saved folded module, rebuilt from the original constructor.

    Args:
        folder: what `save` wrote.
        model: the model as its original constructor makes it; its weights do not matter, so it
            may be on the meta device. It stays as it is.

    Raises:
        CheckpointError: the files are missing, truncated or foreign, or belong to another model.
        InputError: `model` is no module, is gated, has no shapes yet, or is on the meta device and
            has buffers that no checkpoint holds.
    """
    check_model(model, empty=True)
    folder = check_folder("folder", folder)
    is_sharded = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
    path = folder / (INDEX if is_sharded else WEIGHTS)
    description, tensors = _read(path)
    folded: Any = model
    examples = tuple(_example(each) for each in _field(description, "examples", list))
    source = _field(description, "source", str)
    for item in _field(description, "history", list):
        step = _step(item)
        try:
            folded = apply_step(folded, step, examples, source)
        except (KeepSetError, InputError) as error:
            raise CheckpointError(
                f"{path} belongs to another model than this {type(model).__name__} (it was made "
                f"from {source}): {error}"
            ) from error
    record = _check_same_model(path, description, folded, source)
    targets, reached = (_numbers(description, name) for name in ("targets", "reached"))
    method = str(description.get("method", ""))
    record = replace(record, targets=targets, reached=reached, method=method)
    attach(folded, replace(record, timed=_timed(description)))
    aliases = _field(description, "aliases", dict)
    for alias, name in aliases.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks the tensor {name}, which {alias} shares")
        tensors[alias] = tensors[name]
    is_empty = any(tensor.is_meta for tensor in model.state_dict(keep_vars=True).values())
    try:
        folded.load_state_dict(tensors, assign=is_empty)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit this {type(model).__name__}: {error}"
        ) from error
    if is_empty:
        for alias, name in aliases.items():
            _share(folded, alias, name)
    if left := [name for name, buffer in folded.named_buffers() if buffer.is_meta]:
        raise InputError(
            f"{left[0]} is on the meta device, and its module does not save it: make the model on "
            "a device that has values"
        )
    return folded  # type: ignore[no-any-return]


def _share(model: nn.Module, alias: str, name: str) -> None:
    """Let a parameter go by another name, too; each of these was loaded alone."""
    (owner, leaf), (other, own) = (_holder(model, each) for each in (alias, name))
    if leaf in owner._parameters and own in other._parameters:
        owner._parameters[leaf] = other._parameters[own]


def _holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _check_same_model(
    path: Path, description: Mapping[str, Any], folded: nn.Module, source: str
) -> Record:
    """The original had the size it had when the checkpoint was made; what is known of the model.

    Where layers are two, what the original had is what the checkpoint says.
    """
    record = record_of(folded)
    if record is None:
        raise CheckpointError(f"the description in {path} has an empty history")
    before = record.costs_before or {}
    if any(step.pairs for step in record.history):
        said = {n: int(cost) for n, cost in _numbers(description, "costs_before").items()}
        return replace(record, costs_before={**before, **said})
    for name, value in _field(description, "costs_before", dict).items():
        if name in _COMPARED and before.get(name) != value:
            raise CheckpointError(
                f"{path} belongs to another model: it was made from a {source} with {value} "
                f"{name}, this one has {before.get(name)}"
            )
    return record


def _unique(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors stored once, and the names that share one."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    known: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in known:
            aliases[name] = known[key]
            continue
        known[key] = name
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors, aliases


def description_of(folded: nn.Module, record: Record, aliases: Mapping[str, str]) -> dict[str, Any]:
    """What a checkpoint says beside its tensors; `aliases` are other names of stored ones."""
    return {
        "format": _FORMAT,
        "fxprune": __version__,
        "torch": torch.__version__,
        "source": record.source,
        "examples": [[_described(value) for value in example] for example in record.examples],
        "history": [
            {
                "ignored": list(step.ignored),
                "leaves": list(step.leaves),
                "scatter": step.scatter,
                "taken": list(step.taken),
                "kept": {k: list(v) for k, v in step.kept.items()},
                "configuration": dict(step.configuration),
                "pairs": dict(step.pairs),
            }
            for step in record.history
        ],
        "aliases": dict(aliases),
        "costs": costs_of(folded),
        "costs_before": dict(record.costs_before or {}),
        "targets": dict(record.targets or {}),
        "reached": dict(record.reached or {}),
        "method": record.method,
        "timed": None if record.timed is None else asdict(record.timed),
    }


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, _SCALARS):
        return {"value": value}
    raise InputError(f"an example input of type {type(value).__name__} cannot be saved as JSON")


def _example(items: Any) -> Arguments:
    if not isinstance(items, list):
        raise CheckpointError(f"malformed example in the checkpoint: {items!r}")
    return tuple(map(_input, items))


def _input(item: Any) -> Any:
    if isinstance(item, dict) and "value" in item:
        return item["value"]
    try:
        dtype = getattr(torch, item["dtype"])
        return torch.empty([int(n) for n in item["shape"]], dtype=dtype, device="meta")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"malformed example input in the checkpoint: {item!r}") from error


def _step(item: Any) -> FoldStep:
    try:
        kept = {str(k): tuple(int(i) for i in v) for k, v in item["kept"].items()}
        ignored, leaves = (tuple(map(str, item[name])) for name in ("ignored", "leaves"))
        numbers = {str(k): int(v) for k, v in item.get("configuration", {}).items()}
        taken = tuple(map(str, item["taken"]))
        pairs = {str(k): form_of(v).name for k, v in item.get("pairs", {}).items()}
        return FoldStep(kept, ignored, leaves, bool(item["scatter"]), taken, numbers, pairs)
    except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
        raise CheckpointError(f"malformed keep-set in the checkpoint: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}: save makes {WEIGHTS} in a folder")
    metadata, tensors = _read_shards(path) if path.name == INDEX else _read_file(path)
    if "fxprune" not in metadata:
        raise CheckpointError(f"{path} was not written by fxprune.save: it has no keep-set")
    try:
        description = json.loads(metadata["fxprune"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"the description in {path} is not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has a format that this fxprune does not know: update fxprune"
        )
    return description, tensors


def _read_shards(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """What `prune_checkpoint` writes of several files; the folder appeared whole."""
    shards = Shards(path.parent)
    return shards.metadata, {name: shards.whole(name) for name in shards.tensors}


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        return _read_whole(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error


def _read_whole(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of one file, while others may put another in its place.

    safetensors opens a path twice: once for the header, once for the numbers.
    """
    while True:
        before = _identity(path)
        try:
            with safe_open(path, framework="pt") as file:
                if _identity(path) == before:
                    names = list(file.keys())
                    return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError, RuntimeError):
            if _identity(path) == before:
                raise


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when another file takes the place of this one."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _numbers(description: Mapping[str, Any], name: str) -> dict[str, float]:
    """Numbers by name, none where the file has none."""
    found = description.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(n, int | float) for n in found.values()):
        raise CheckpointError(f"the checkpoint's description has no numbers in {name!r}")
    return found


def _timed(description: Mapping[str, Any]) -> Timed | None:
    """What was measured of a target on time."""
    found = description.get("timed")
    try:
        return None if found is None else Timed(**found)
    except TypeError as error:
        raise CheckpointError(f"malformed times in the checkpoint: {shown(found)}") from error


def _field(description: Mapping[str, Any], name: str, kind: type) -> Any:
    value = description.get(name)
    if not isinstance(value, kind):
        raise CheckpointError(f"the checkpoint's description lacks {name!r}")
    return value
