"""A model on disk made smaller, piece by piece, so that it need not fit into memory.

It is planned on the meta device. Norms of weights are computed while files are read; then every
tensor is read once more, sliced, and written into a file of the same name.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.arguments import choice
from fxprune.errors import CheckpointError, InputError
from fxprune.files import check_folder, check_new_folder, draft_folder_of
from fxprune.passes.fold import Slice
from fxprune.ranking import NORMS, Part, Scores, group_norm, ranks
from fxprune.stages import track
from fxprune.targets import Least, Target
from fxprune.torch import keep_sets
from fxprune.torch.backend.depth import renamed
from fxprune.torch.backend.fold import by_parameter
from fxprune.torch.checks import check_values
from fxprune.torch.criteria import importance
from fxprune.torch.fold import fold, plan_of
from fxprune.torch.frontend.forward import named_arguments
from fxprune.torch.prepare import prepare
from fxprune.torch.pretrained import copy_companions, empty_model, why_not_from_configuration
from fxprune.torch.record import gated_record, record_of
from fxprune.torch.shards import INDEX, WEIGHTS, Shards, Stored, index_text, write_shard
from fxprune.torch.storage import DESCRIPTION, description_of
from fxprune.uniform import Uniform

_log = logging.getLogger("fxprune")


def prune_checkpoint(
    folder: str | Path,
    out: str | Path,
    *,
    example_inputs: Any = None,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    keep_set: Mapping[str, Any] | None = None,
    target: Target = 0.5,
    method: str = "group_norm",
    round_to: int = 1,
    least: Least = 0.0,
    ignore: Iterable[str] = (),
    leaf: Iterable[str] = (),
    uniform: Uniform = True,
) -> Path:
    """Prune a model that lies in safetensors files, without having it in memory.

    >>> fxprune.prune_checkpoint("TinyLlama-1.1B", "TinyLlama-0.6B", target={"params": 0.5})
    ... # doctest: +SKIP
    PosixPath('TinyLlama-0.6B')

    What is written is what `fold` gives in memory, bit by bit: weights under the names of their
    files, the configuration, tokenizer and settings of generation, so that `from_pretrained` gives
    the smaller model. `fxprune.load(out, model)` does so too, and is the way where a configuration
    cannot say the sizes; a warning tells.

    Args:
        folder: `model.safetensors`, or shards with `model.safetensors.index.json`, and a
            `config.json` of transformers.
        out: the folder to write, which must not be there; it appears when all is done.
        example_inputs: as for `prepare`; if missing, token ids where the model takes such.
        model: what the weights are of, where `config.json` does not tell: a module, best on the
            meta device, or what makes it, such as its class; that is called on the meta device.
        keep_set: the flags to keep, as for `set_keep_set`, instead of a target and a method.
        target: as for `prepare`, like the arguments that are not named here.
        method: "group_norm", "magnitude", "bn_scale" or "random", see `importance`.
        uniform: as for `prepare`, but all by default, so that the configuration can follow.

    Returns:
        The path of `out`.

    Raises:
        InputError: an argument does not fit, or there is something at `out`.
        CheckpointError: a file is damaged, or the tensors are not those of the model.
        TraceError, NothingToPruneError: as `prepare` does.
    """
    options: dict[str, Any] = {"target": target, "round_to": round_to, "least": least}
    options |= {"ignore": ignore, "leaf": leaf, "uniform": uniform}
    out = check_new_folder("out", out)
    plan = plan_checkpoint(folder, example_inputs, model, keep_set, method, **options)
    return write_checkpoint(plan, out)


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """A model of which files hold the weights, gated and folded without them.

    `sources` has for every name in its state_dict the one that a tensor is stored under,
    `has_configuration` says whether a configuration makes the folded model.
    """

    shards: Shards
    gated: nn.Module
    folded: nn.Module
    sources: Mapping[str, str]
    has_configuration: bool


def plan_checkpoint(
    folder: str | Path,
    example_inputs: Any,
    model: nn.Module | Callable[[], nn.Module] | None,
    keep_set: Mapping[str, Any] | None,
    method: str,
    **options: Any,
) -> CheckpointPlan:
    """What `prune_checkpoint` keeps; nothing is written."""
    choice("method", method, (*NORMS, "random"), "known from weights alone are")
    folder = check_folder("folder", folder)
    if not folder.is_dir():
        raise InputError(f"folder: there is no folder {folder}")
    empty = empty_model(folder) if model is None else _made(model)
    shards = Shards(folder)
    sources = _sources(shards, empty)
    given = _token_ids(empty) if example_inputs is None else example_inputs
    if keep_set is not None:
        options["target"] = 1.0
    gated = prepare(empty, given, **options)
    if keep_set is not None:
        keep_sets.set_keep_set(gated, keep_set)
    else:
        keep_sets.reach_target(gated, _importance(gated, method, shards, sources))
    folded = fold(gated)
    return CheckpointPlan(shards, gated, folded, sources, _follows(folded, options["uniform"]))


def _follows(folded: nn.Module, uniform: Uniform) -> bool:
    """Whether a configuration makes the folded model; it has to if one was asked for."""
    reason = why_not_from_configuration(folded)
    if not reason or getattr(folded, "config", None) is None:
        return not reason
    said = f"no configuration of a {type(folded).__name__} says these sizes: {reason}"
    if uniform is not False:
        raise InputError(
            f"{said}. Give another target or keep_set, or uniform=False, which writes what "
            "fxprune.load reads"
        )
    _log.warning("%s; fxprune.load(out, model) makes it of the model as it was", said)
    return False


def _made(model: Any) -> nn.Module:
    """The user's model, or what their function makes on the meta device."""
    if isinstance(model, nn.Module) or not callable(model):
        made = model
    else:
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                made = model()
        except Exception as error:
            raise InputError(
                f"model: {getattr(model, '__name__', model)}() fails: {type(error).__name__}: "
                f"{error}; give a function without arguments"
            ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, or a function that makes one: {made!r}")
    return made


def _token_ids(model: nn.Module) -> Any:
    """An example for a model of transformers that takes tokens; None for others."""
    example = getattr(model, "dummy_inputs", None)
    names = {parameter.name for parameter in named_arguments(model)}
    return example if isinstance(example, dict) and example and names >= example.keys() else None


def _sources(shards: Shards, model: nn.Module) -> dict[str, str]:
    """For every name of a tensor one that it is stored under.

    Raises:
        CheckpointError: there is none, or its shape is another one.
    """
    state = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    sources: dict[str, str] = {}
    for same in names.values():
        stored = [name for name in same if name in shards.tensors]
        if not stored:
            raise CheckpointError(
                f"{shards.folder} has no tensor {same[0]!r}, which the {type(model).__name__} has; "
                "if its class changes tensors as it loads them, save it anew: "
                "model.save_pretrained(folder, save_original_format=False)"
            )
        for name in stored:
            found, wanted = shards.tensors[name], tuple(state[name].shape)
            if found.shape != wanted:
                raise CheckpointError(
                    f"{name} has the shape {found.shape} in {shards.folder / found.file}, and "
                    f"{wanted} in the {type(model).__name__}: they are not of one model"
                )
        sources |= {name: name if name in stored else stored[0] for name in same}
    if others := [name for name in shards.tensors if name not in state]:
        _log.warning(
            "%d tensors of %s are left out, since the %s has none of these names: %s",
            len(others),
            shards.folder,
            type(model).__name__,
            ", ".join(others[:5]),
        )
    return sources


def _importance(
    gated: nn.Module, method: str, shards: Shards, sources: Mapping[str, str]
) -> Mapping[str, Any]:
    """What the stored weights say of every position."""
    if method == "random":
        return importance(gated, method)
    gates, record = gated_record(gated)

    def weight_of(name: str) -> Callable[[Part], np.ndarray]:
        return lambda part: shards.part(sources[name], part).double().numpy()

    analysis = record.analysis
    scores = Scores(NORMS[method](analysis, weight_of))
    rank = ranks(analysis, gates.layout, scores, method, lambda: group_norm(analysis, weight_of))
    parts = torch.split(torch.from_numpy(rank), list(gates.layout.sizes))
    return dict(zip(gates.layout.names, parts, strict=True))


# Writing --------------------------------------------------------------------------------------


def write_checkpoint(plan: CheckpointPlan, out: Path) -> Path:
    """Write what is kept into a new folder, which appears when all is done."""
    job = _Job(plan)
    weights = job.weights()
    placed = {name: file for file, entries in weights.items() for name in entries}
    sizes = [prod(e.shape) * e.itemsize for entries in weights.values() for e in entries.values()]
    description = job.description(placed)
    is_one = list(weights) == [WEIGHTS]
    metadata = {"format": "pt"} | ({"fxprune": description} if is_one else {})
    with draft_folder_of(out) as draft:
        for file in track(list(weights), "writing weights"):
            write_shard(draft / file, weights[file], metadata, job.pieces)
        if not is_one:
            more = {"total_size": sum(sizes), "fxprune": description}
            (draft / INDEX).write_text(index_text(placed, more))
        (draft / DESCRIPTION).write_text(description)
        copy_companions(plan.shards.folder, draft)
        if plan.has_configuration:
            plan.folded.config.save_pretrained(draft)  # type: ignore[union-attr, operator]
    return out


class _Job:
    """Which tensors are written, and what of each is kept.

    Layers behind one that went out of a list have moved up, so names are other ones than before.
    """

    def __init__(self, plan: CheckpointPlan) -> None:
        _, record = gated_record(plan.gated)
        self._record = record_of(plan.folded) or record
        self._plan = plan
        self._small = plan.folded.state_dict(keep_vars=True)
        taken = self._record.history[-1].taken
        self._was = {renamed(name, plan.gated, taken): name for name in plan.sources}
        self._now = {was: now for now, was in self._was.items() if now in self._small}
        keep = {name: flags.tolist() for name, flags in keep_sets.keep_set(plan.gated).items()}
        self._slices = by_parameter(plan_of(record, keep).slices)
        self._first = {n: first for first, names in record.program.aliases.items() for n in names}
        self._trained = {name for name, _ in plan.gated.named_parameters(remove_duplicate=False)}

    def weights(self) -> dict[str, dict[str, Stored]]:
        """By file what is in it; of a tensor whose stored name is gone that is another name."""
        found: dict[str, dict[str, Stored]] = {}
        for name, tensor in self._small.items():
            source = self._source(name)
            if source == self._was[name] or source not in self._now:
                stored = self._plan.shards.tensors[source]
                entry = replace(stored, shape=tuple(tensor.shape))
                found.setdefault(entry.file, {})[name] = entry
        return dict(sorted(found.items()))

    def description(self, written: Collection[str]) -> str:
        """What `load` needs to know."""
        aliases = {n: self._now[self._source(n)] for n in self._small if n not in written}
        return json.dumps(description_of(self._plan.folded, self._record, aliases), indent=1)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """What is kept of a tensor."""
        source, was = self._source(name), self._was[name]
        slices = self._slices.get(self._first[was], ())
        for start, piece in self._plan.shards.pieces(source):
            check_values(source, piece, endless=was not in self._trained)
            yield _kept(piece, start, slices)

    def _source(self, name: str) -> str:
        """What a tensor of the folded model is stored under."""
        return self._plan.sources[self._was[name]]


def _kept(piece: Tensor, start: int, slices: Iterable[Slice]) -> Tensor:
    """The kept positions of a piece of a tensor that begins at position `start`."""
    for item in slices:
        index = torch.tensor(item.kept)
        if item.dim == 0:
            index = index[(index >= start) & (index < start + piece.shape[0])] - start
        piece = piece.index_select(item.dim, index)
    return piece
