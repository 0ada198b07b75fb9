"""The verbs for ONNX files; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fxprune
from fxprune.agreement import Verdict
from fxprune.certificates import Certificate, errors_of, keep_set_text
from fxprune.commands.answers import Answer
from fxprune.commands.arguments import imported
from fxprune.commands.bars import Announce
from fxprune.commands.jobs import Destination, Pruned, Ranking, Source
from fxprune.errors import InputError
from fxprune.files import ONNX, check_output
from fxprune.onnx.certified import (
    certificate_in_onnx,
    certify_onnx,
    check_certified_onnx,
    hash_of_onnx,
)
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.prune import OnnxResult
from fxprune.pages.environment import versions
from fxprune.passes.analyse import Analysis
from fxprune.passes.fold import KeepSet
from fxprune.passes.whole_layers import taken_apart


def inspect(source: Source) -> tuple[str, Analysis]:
    """The name of the model and the facts about it."""
    found = fxprune.inspect_onnx(source.text, shapes=_shapes(source), ignore=source.ignore)
    return Path(source.text).name, found


def prune(
    source: Source, ranking: Ranking, out: Destination, announce: Announce, *, latency: bool
) -> Pruned:
    """Rank positions, close them, fold, verify and write."""
    check_out(out)
    announce("pruning and verifying", 0.1)
    options = ranking.limits.arguments()
    result = fxprune.prune_onnx(
        source.text,
        out.path,
        method=ranking.method,
        data=_data(ranking.data),
        correct=ranking.correct,
        factorise=ranking.factorise,
        clock=ranking.clock,
        ignore=source.ignore,
        shapes=_shapes(source),
        overwrite=out.overwrite,
        seed=source.seed,
        **options,
    )
    is_random = ranking.data is None
    return _finished(source, result, out, announce, latency, ranking.correct, is_random)


def fold(source: Source, keep_set: KeepSet, out: Destination, announce: Announce) -> Pruned:
    """Fold under a keep-set, verify and write."""
    check_out(out)
    announce("folding and verifying", 0.1)
    result = fxprune.fold_onnx(
        source.text, keep_set, out.path, shapes=_shapes(source), overwrite=out.overwrite
    )
    return _finished(source, result, out, announce, latency=False)


def certificate_in(path: Path) -> Certificate:
    """The certificate in a file, none of whose bytes has changed since."""
    return certificate_in_onnx(path)


def check_certificate(path: Path, certificate: Certificate, source: Source) -> Verdict:
    """Make a file anew from its source, and compare."""
    return check_certified_onnx(path, certificate, Path(source.text), _shapes(source))


def verify(first: Source, second: Source, seed: int, announce: Announce) -> Verdict:
    """Whether two files compute the same."""
    announce("comparing", 0.1)
    return fxprune.verify_onnx(first.text, second.text, shapes=_shapes(first), seed=seed)


def quantize(
    source: Source,
    out: Destination,
    calibration: str | None,
    seed: int,
    announce: Announce,
    **how: Any,
) -> Answer:
    """Write the file in few bits."""
    path = check_out(out)
    assert path is not None
    announce("quantising and comparing", 0.1)
    found = fxprune.quantize(
        source.text,
        path,
        calibration=_data(calibration),
        shapes=_shapes(source),
        seed=seed,
        overwrite=out.overwrite,
        **how,
    )
    facts = {**asdict(found), "path": str(found.path), "size_ratio": found.size_ratio}
    return Answer(str(found), facts)


def _finished(
    source: Source,
    result: OnnxResult,
    out: Destination,
    announce: Announce,
    latency: bool,
    corrected: bool = False,
    random_inputs: bool = True,
) -> Pruned:
    keep_set = {name: list(flags) for name, flags in result.keep_set.items()}
    if out.path is not None and not result.layers:  # groups of pairs are none of the source
        announce("certifying", 0.7)
        path = Path(source.text)
        certificate = Certificate(
            source=path.name,
            source_hash=hash_of_onnx(path),
            keep_set=keep_set_text(taken_apart(keep_set, result.analysis.branches)),
            errors=errors_of(result.verdict),
            versions=versions(),
            shapes=_shapes(source) or {},
            corrected=corrected,
            random_inputs=random_inputs,
        )
        certify_onnx(out.path, certificate)
    announce("measuring", 0.8)
    report = replace(fxprune.report(result, latency=latency), source=Path(source.text).name)
    return Pruned(report, result.verdict, keep_set, out.path)


def check_out(out: Destination) -> Path | None:
    """Raise InputError unless the file can be written; an ONNX file becomes an ONNX file."""
    if out.path is None:
        return None
    if out.path.suffix.lower() not in ONNX:
        raise InputError(
            f"cannot write {out.path}: an ONNX file becomes an ONNX file, give NAME.onnx"
        )
    return check_output("OUT", out.path, overwrite=out.overwrite, sources=out.sources)


def _data(text: str | None) -> Any:
    """A path as it is, or what `module:name` stands for."""
    return imported(text) if text and ":" in text and not Path(text).exists() else text


def _shapes(source: Source) -> Mapping[str, tuple[int, ...]] | None:
    """Shapes by the names of inputs; those without a name belong to the inputs in order."""
    if not source.shapes or not any(map(str.isdigit, source.shapes)):
        return source.shapes or None
    names = [str(value.name) for value in load_onnx(source.text).graph.inputs]
    if len(source.shapes) > len(names):
        raise InputError(f"{len(source.shapes)} shapes for the inputs {', '.join(names)}")
    return {
        names[int(key)] if key.isdigit() else key: shape for key, shape in source.shapes.items()
    }
