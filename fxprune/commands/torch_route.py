"""The verbs for models that Python makes with torch: SOURCE is `module:factory`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fxprune
from fxprune.agreement import Verdict
from fxprune.arguments import batches
from fxprune.arguments import seed as check_seed
from fxprune.commands.answers import Answer, about
from fxprune.commands.arguments import imported
from fxprune.commands.bars import Announce
from fxprune.commands.jobs import Destination, Pruned, Ranking, Source
from fxprune.errors import InputError
from fxprune.files import ONNX, check_new_folder, check_output
from fxprune.mixing import forms_named
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.fold import KeepSet
from fxprune.targets import Limits
from fxprune.torch.batches import running_on
from fxprune.torch.checks import check_model
from fxprune.torch.criteria import check_method
from fxprune.torch.exported import compare_onnx
from fxprune.torch.frontend.examples import check_examples, inputs_like
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.program import read_model
from fxprune.torch.mixture import mixed
from fxprune.torch.precision import outputs_of
from fxprune.torch.prepare import ignored_in
from fxprune.torch.prune_checkpoint import plan_checkpoint, write_checkpoint
from fxprune.torch.record import gated_record
from fxprune.torch.shards import WEIGHTS
from fxprune.torch.storage import check_checkpoint
from fxprune.torch.verify import compare_modules

_BATCHES = (1, 2, 5)
_BATCH = 32


def inspect(source: Source) -> tuple[str, Analysis]:
    """The name of the model and the facts about it."""
    model, examples = _model(source)
    check_model(model)
    left_alone = ignored_in(model, source.ignore)
    program = read_model(model, check_examples(model, examples))
    analysis = analyse(program.ir, left_alone.parameters)
    modules = [path for path, _ in model.named_modules()]
    return type(model).__name__, left_alone.pinned(analysis, modules)


def prune(
    source: Source, ranking: Ranking, out: Destination, announce: Announce, *, latency: bool
) -> Pruned:
    """Rank positions, close them, fold, verify and write."""
    if ranking.correct and ranking.data is None:
        raise InputError("--correct needs --data: some hundred samples")
    check_out(out)
    data = None if ranking.data is None else data_of(ranking.data)
    check_method(ranking.method, data, None)
    announce("finding groups", 0)
    if ranking.factorise:
        gated = _mixed(source, ranking, data)
    else:
        gated = gated_of(source, ranking.limits)
        announce("ranking", 0.4)
        fxprune.reach_target(gated, fxprune.importance(gated, ranking.method, data))
    if ranking.correct and data is not None:
        fxprune.refit(gated, data)
    return _finished(gated, out, announce, latency)


def prune_checkpoint(
    folder: Path,
    source: Source,
    ranking: Ranking,
    keep_set: KeepSet | None,
    out: Destination,
    announce: Announce,
) -> Answer:
    """Plan a model of which files hold the weights, and write what is kept."""
    place = check_new_folder("OUT", out.path)
    announce("finding groups", 0)
    model, examples = _model(source) if source.text else (None, _examples(source) or None)
    options = ranking.limits.arguments()
    options |= {"ignore": source.ignore}
    plan = plan_checkpoint(folder, examples, model, keep_set, ranking.method, **options)
    announce("writing", 0.5)
    written = str(write_checkpoint(plan, place))
    kept = {n: list(map(int, flags)) for n, flags in fxprune.keep_set(plan.gated).items()}
    report = fxprune.report(plan.gated, latency=False)
    return Answer(
        f"{report.summary()}\nwritten: {written}", about(report, keep_set=kept, written=written)
    )


def fold(source: Source, keep_set: KeepSet, out: Destination, announce: Announce) -> Pruned:
    """Fold under a keep-set, verify and write."""
    check_out(out)
    announce("finding groups", 0)
    gated = gated_of(source, Limits(1.0))
    fxprune.set_keep_set(gated, keep_set)
    return _finished(gated, out, announce, latency=False)


def verify(first: Source, second: Source, seed: int, announce: Announce) -> Verdict:
    """Whether two models compute the same, one of which may be an ONNX file."""
    if first.is_onnx:
        first, second = second, first
    check_seed(seed)
    model, examples = _model(first)
    batches = inputs_like(check_examples(model, examples), _BATCHES, seed)
    announce("comparing", 0.2)
    if second.is_onnx:
        load_onnx(second.text)  # a file that is no model is no model that differs
        shape = tuple(map(_shape, batches[0]))
        with running_on(f"inputs of shape {shape}"), in_evaluation(model):
            outputs_of(model, batches[0])
        return compare_onnx(model, second.text, batches, seed)
    other, _ = _model(second)
    return compare_modules(model, other, batches, seed)


def export(
    source: Source, out: Destination, checkpoint: Path | None, opset: int, announce: Announce
) -> Path:
    """Write a model, or what was saved of it, as ONNX."""
    path = check_output(
        "OUT", out.path, overwrite=out.overwrite, sources=out.sources, suffixes=ONNX
    )
    options: dict[str, Any] = {"opset": opset, "overwrite": out.overwrite}
    model, examples = _model(source)
    announce("exporting", 0.2)
    if checkpoint is not None:
        return fxprune.export_onnx(fxprune.load(checkpoint, model), path, **options)
    return fxprune.export_onnx(model, path, examples, **options)


def check_out(out: Destination) -> None:
    """Raise InputError unless the suffix says what to write, and that can be written there."""
    path = out.path
    options: dict[str, Any] = {"overwrite": out.overwrite, "sources": out.sources}
    if path is None:
        return
    if path.suffix == ".onnx":
        check_output("OUT", path, **options)
    elif not path.suffix or path.name == WEIGHTS:
        check_checkpoint(_folder(path), **options)
    else:
        raise InputError(
            f"cannot write {path}: give NAME.onnx, or a folder (or FOLDER/{WEIGHTS}) for weights "
            "and keep-set"
        )


def _folder(path: Path) -> Path:
    return path.parent if path.suffix else path


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else value


def _finished(gated: nn.Module, out: Destination, announce: Announce, latency: bool) -> Pruned:
    announce("verifying", 0.5)
    folded = fxprune.fold(gated)
    verdict = fxprune.verify(gated, folded)
    written = None
    if out.path is not None:
        announce("writing", 0.7)
        verdict, written = _written(gated, folded, verdict, out.path, out.overwrite)
    announce("measuring", 0.9)
    keep_set = {name: flags.tolist() for name, flags in fxprune.keep_set(gated).items()}
    return Pruned(fxprune.report(gated, latency=latency), verdict, keep_set, written)


def _written(
    gated: nn.Module, folded: nn.Module, verdict: Verdict, out: Path, overwrite: bool
) -> tuple[Verdict, Path]:
    """What was checked including the file, and where that is."""
    if out.suffix != ".onnx":
        return verdict, fxprune.save(folded, _folder(out), overwrite=overwrite)
    path = fxprune.export_onnx(folded, out, overwrite=overwrite)
    batches = inputs_like(gated_record(gated)[1].examples, _BATCHES, seed=0)
    return verdict.joined(compare_onnx(folded, path, batches)), path


def gated_of(source: Source, limits: Limits) -> Any:
    model, examples = _model(source)
    options = limits.arguments()
    return fxprune.prepare(model, examples, ignore=source.ignore, **options)


def _mixed(source: Source, ranking: Ranking, data: list[Any] | None) -> Any:
    model, examples = _model(source)
    forms = forms_named(ranking.factorise)
    options = ranking.limits.arguments()
    options["ignore"], target = source.ignore, options.pop("target")

    def gates(module: nn.Module, target: Any) -> Any:
        return fxprune.prepare(module, examples, target=target, **options)

    return mixed(model, target, forms, gates, data)


def _model(source: Source) -> tuple[nn.Module, Any]:
    """The model that a factory makes, and its example inputs, if they are known."""
    made = imported(source.text)
    if callable(made) and not isinstance(made, nn.Module):
        try:
            made = made()
        except Exception as error:
            raise InputError(f"{source.text}() fails: {type(error).__name__}: {error}") from error
    model, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source.text} gives {type(model).__name__}: it must give a torch module, or a pair "
            "of a module and its example inputs"
        )
    return model, _examples(source) if source.shapes else examples


def _examples(source: Source) -> Any:
    """Inputs of the given shapes, by name where names were given; those of ids are whole."""
    types = {name: torch.long if name.endswith("_ids") else torch.float for name in source.shapes}
    arrays = {name: torch.zeros(n, dtype=types[name]) for name, n in source.shapes.items()}
    return tuple(arrays.values()) if all(map(str.isdigit, arrays)) else arrays


def data_of(text: str) -> list[Any]:
    """Batches from an .npz file of inputs (and labels), or from `module:name`."""
    if not text.endswith(".npz"):
        return _made_data(text, imported(text))
    if not zipfile.is_zipfile(text):
        raise InputError(f"{text} is no .npz file of plain arrays; numpy.savez writes one")
    try:
        with np.load(text, allow_pickle=False) as file:
            arrays = [_tensor(file[name]) for name in file.files]
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{text} is no .npz file of plain arrays: {error}") from error
    lengths = {array.shape[:1] for array in arrays}
    if len(lengths) != 1 or () in lengths:
        raise InputError(f"{text} must hold arrays whose first axes run over the same samples")
    parts = [torch.split(array, _BATCH) for array in arrays]
    return list(parts[0]) if len(parts) == 1 else list(zip(*parts, strict=True))


def _made_data(text: str, made: Any) -> list[Any]:
    """Batches that Python makes."""
    try:
        return list(batches("data", made() if callable(made) else made))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{text} fails: {type(error).__name__}: {error}") from error


def _tensor(array: np.ndarray) -> Tensor:
    """Inputs and labels in the types that models usually take."""
    tensor = torch.from_numpy(array)
    return tensor.float() if tensor.is_floating_point() else tensor.long()
