"""The verbs for models that Python makes with torch: SOURCE is `module:factory`."""

import random
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fxprune
from fxprune.agreement import Verdict
from fxprune.arguments import batches
from fxprune.certificates import Certificate, errors_of, keep_set_text
from fxprune.clocks import ONNX_RUNTIME, Clock, clock_for
from fxprune.commands.answers import Answer, about
from fxprune.commands.arguments import imported
from fxprune.commands.bars import Announce
from fxprune.commands.jobs import Destination, Pruned, Ranking, Source
from fxprune.errors import InputError
from fxprune.files import ONNX, check_new_folder, check_output, check_source
from fxprune.mixing import forms_named
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.pages.environment import versions
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.fold import KeepSet
from fxprune.passes.whole_layers import taken_apart
from fxprune.targets import Limits, times_in, with_whole_time
from fxprune.torch.batches import running_on
from fxprune.torch.certified import (
    BATCHES,
    batches_of,
    certify,
    check_certified,
    hash_of_weights,
)
from fxprune.torch.certified import certificate_in as certified_by
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
from fxprune.torch.reach_latency import reach_times
from fxprune.torch.record import gated_record, record_of
from fxprune.torch.shards import WEIGHTS
from fxprune.torch.storage import check_checkpoint
from fxprune.torch.verify import compare_modules

_BATCH = 32
_STATES = (".safetensors", ".pt", ".pth")


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
    limits, times = ranking.limits, times_in(ranking.limits.target)
    clock = clock_for(times, ranking.clock, "factorise" if ranking.factorise else "")
    announce("finding groups", 0)
    if ranking.factorise:
        gated = _mixed(source, ranking, data)
        certified = None  # its groups are those of pairs, which the source has not
    else:
        limits = replace(limits, target=with_whole_time(limits.target)) if clock else limits
        gated = gated_of(source, limits)
        certified = _Certified(source, hash_of_weights(gated), ranking.correct)
        announce("ranking", 0.4)
        importance = fxprune.importance(gated, ranking.method, data)
        if clock:
            to_file = ranking.clock is None and out.path is not None and out.path.suffix in ONNX
            reach_times(gated, importance, times, Clock(ONNX_RUNTIME) if to_file else clock)
        else:
            fxprune.reach_target(gated, importance)
    if ranking.correct and data is not None:
        fxprune.refit(gated, data)
    return _finished(gated, out, announce, latency, certified)


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
    certified = _Certified(source, hash_of_weights(gated))
    return _finished(gated, out, announce, False, certified)


def certificate_in(path: Path) -> Certificate:
    """The certificate in a file or checkpoint, none of whose bytes has changed since."""
    return certified_by(path)


def check_certificate(path: Path, certificate: Certificate, source: Source) -> Verdict:
    """Make a file or checkpoint anew from its source, and compare."""
    shapes = source.shapes or certificate.shapes
    model, examples = _model(replace(source, shapes=shapes))
    return check_certified(path, certificate, source.text, model, examples)


def verify(first: Source, second: Source, seed: int, announce: Announce) -> Verdict:
    """Whether two models compute the same, one of which may be an ONNX file."""
    if first.is_onnx:
        first, second = second, first
    model, examples = _model(first)
    batches = inputs_like(check_examples(model, examples), BATCHES, seed)
    announce("comparing", 0.2)
    if second.is_onnx:
        load_onnx(second.text)  # a file that is no model is no model that differs
        shape = tuple(map(_shape, batches[0]))
        with running_on(f"inputs of shape {shape}"), in_evaluation(model):
            outputs_of(model, batches[0])
        return compare_onnx(model, second.text, batches, seed)
    other, _ = _model(second)
    return compare_modules(model, other, batches, seed)


def export(source: Source, out: Destination, opset: int, announce: Announce) -> Path:
    """Write a model, or what was saved of it, as ONNX."""
    path = check_output(
        "OUT", out.path, overwrite=out.overwrite, sources=out.sources, suffixes=ONNX
    )
    model, examples = _model(source)
    announce("exporting", 0.2)
    own = None if record_of(model) else examples
    written = fxprune.export_onnx(model, path, own, opset=opset, overwrite=out.overwrite)
    announce("certifying", 0.8)
    verdict = compare_onnx(model, written, batches_of(model, examples))
    certify(written, _Certified(source, hash_of_weights(model)).by({}, verdict))
    return written


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


@dataclass(frozen=True, slots=True)
class _Certified:
    """What is known of a certificate before anything is measured."""

    source: Source
    source_hash: str
    corrected: bool = False

    def by(self, keep_set: Mapping[str, Any], verdict: Verdict) -> Certificate:
        """The certificate."""
        return Certificate(
            source=self.source.text,
            source_hash=self.source_hash,
            keep_set=keep_set_text(keep_set),
            errors=errors_of(verdict),
            versions=versions(),
            shapes=self.source.shapes,
            corrected=self.corrected,
        )


def _finished(
    gated: nn.Module,
    out: Destination,
    announce: Announce,
    latency: bool,
    certified: _Certified | None,
) -> Pruned:
    announce("verifying", 0.5)
    folded = fxprune.fold(gated)
    verdict = fxprune.verify(gated, folded)
    keep_set = {name: flags.tolist() for name, flags in fxprune.keep_set(gated).items()}
    written = None
    if out.path is not None:
        announce("writing", 0.7)
        verdict, written = _written(gated, folded, verdict, out.path, out.overwrite)
        if certified is not None:
            branches = gated_record(gated)[1].analysis.branches
            certify(written, certified.by(taken_apart(keep_set, branches), verdict))
    announce("measuring", 0.9)
    return Pruned(fxprune.report(gated, latency=latency), verdict, keep_set, written)


def _written(
    gated: nn.Module, folded: nn.Module, verdict: Verdict, out: Path, overwrite: bool
) -> tuple[Verdict, Path]:
    """What was checked including the file, and where that is."""
    if out.suffix != ".onnx":
        return verdict, fxprune.save(folded, _folder(out), overwrite=overwrite)
    path = fxprune.export_onnx(folded, out, overwrite=overwrite)
    return verdict.joined(compare_onnx(folded, path, batches_of(gated, None))), path


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
            _seed_all(source.seed)
            made = made()
        except Exception as error:
            raise InputError(f"{source.text}() fails: {type(error).__name__}: {error}") from error
    model, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source.text} gives {type(model).__name__}: it must give a torch module, or a pair "
            "of a module and its example inputs"
        )
    if source.checkpoint is not None:
        model = _with_weights(model, source.checkpoint)
    return model, _examples(source) if source.shapes else examples


def _seed_all(seed: int) -> None:
    """A factory may draw weights from any of these."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _with_weights(model: nn.Module, path: Path) -> nn.Module:
    """A model with the weights of a folder that `save` wrote, or of a state_dict in a file."""
    if path.suffix not in _STATES:
        return fxprune.load(path, model)
    check_source("checkpoint", path)
    try:
        is_plain = path.suffix == _STATES[0]
        model.load_state_dict(load_file(path) if is_plain else torch.load(path, weights_only=True))
    except Exception as error:  # neither library says which there are
        reason = " ".join(str(error).split())
        raise InputError(
            f"checkpoint {path} is no state_dict of this {type(model).__name__}: {reason}"
        ) from error
    return model


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
