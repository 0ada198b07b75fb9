"""The verbs that compare, convert and show."""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fxprune.commands.answers import Answer, answer, as_data
from fxprune.commands.arguments import points_of
from fxprune.commands.bars import Announce
from fxprune.commands.group import verb
from fxprune.commands.jobs import Destination, Pruned, Ranking, Source
from fxprune.commands.options import (
    Checkpoint,
    Correct,
    Data,
    Ignore,
    Json,
    Least,
    Method,
    Model,
    Overwrite,
    RoundTo,
    Seed,
    Shape,
    Target,
    Traceback,
    Uniform,
)
from fxprune.commands.sources import files_of, limits_of, route_of, source_of
from fxprune.errors import InputError
from fxprune.files import HTML, check_output
from fxprune.targets import Limits


@verb(
    "verify model.onnx other.onnx",
    "verify package.module:factory model.onnx --checkpoint folder",
    "verify model.onnx --certificate half.onnx",
)
def verify(
    first: Annotated[
        str | None, typer.Argument(metavar="A", help="An .onnx file or module:factory.")
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="What to compare it with.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Check what this .onnx file or folder says of how it was made: alone, that no "
            "byte has changed since; with A, all of it, by making it again from A."
        ),
    ] = None,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Check that two models compute the same on random inputs, or that a certificate holds.

    Exit code 1 if not. A certificate is in every file that prune, fold and export write.
    """

    def job(announce: Announce) -> Answer:
        announce("reading", 0)
        texts = [text for text in (first, second) if text is not None]
        if len(texts) != (2 if certificate is None else len(texts[:1])):
            raise InputError("give A and B to compare, or --certificate RESULT, and its SOURCE")
        models = [source_of(text, shape, None, _of_torch(text, checkpoint), seed) for text in texts]
        if checkpoint is not None and all(model.is_onnx for model in models):
            raise InputError("checkpoint goes with module:factory, and none is given")
        if certificate is not None:
            return _certified(certificate, models, announce)
        route = route_of(*models)
        verdict = route.verify(*models, seed, announce)
        same = "the same in all that is shown" if verdict.shows_nothing else "the same"
        return Answer(f"{verdict}\n{same}", as_data(verdict))

    answer(job, as_json=json, show_traceback=traceback)


def _of_torch(text: str, checkpoint: Path | None) -> Path | None:
    """Weights go with what Python makes."""
    return None if text.lower().endswith(".onnx") else checkpoint


def _certified(path: Path, sources: list[Source], announce: Announce) -> Answer:
    """What a certificate says, and what was checked of it."""
    route = route_of(*sources, Source(str(path), {}))
    certificate = route.certificate_in(path)
    made = f"{path} is as it was written: made of {certificate.source}"
    facts = {"certificate": asdict(certificate)}
    if not sources:
        errors = "\n".join(
            f"{each.what}, {each.dtype}: relative error {each.error:.1e}, as it says"
            for each in certificate.errors
        )
        end = "give SOURCE as well to have it made again"
        return Answer(f"{errors}\n{made}; {end}", {**facts, "verdict": None})
    announce("making it again", 0.2)
    verdict = route.check_certificate(path, certificate, sources[0])
    sizes = "; of weights that were solved anew only the sizes" * certificate.corrected
    said = f"{verdict}\n{made}, and made again from it it is the same{sizes}"
    return Answer(said, {**facts, **as_data(verdict)})


@verb(
    "export torchvision.models:resnet18 resnet18.onnx --shape 1,3,224,224",
    "export package.module:factory half.onnx --checkpoint folder",
)
def export(
    source: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.onnx.")],
    checkpoint: Checkpoint = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operator set.")] = 18,
    shape: Shape = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a torch model, or what was saved of it, as ONNX; ONNX Runtime must agree with it."""

    def job(announce: Announce) -> Answer:
        announce("reading", 0)
        model = source_of(source, shape, None, checkpoint, seed)
        if model.is_onnx:
            raise InputError(f"{source} is ONNX already: prune, fold or quantize it")
        place = Destination(out, overwrite, files_of(checkpoint))
        written = route_of(model).export(model, place, opset, announce)
        return Answer(f"written: {written}", {"written": str(written)})

    answer(job, as_json=json, show_traceback=traceback)


@verb(
    "report model.onnx report.html --target .5",
    "report package.module:factory report.html --figures figures --no-latency",
)
def report(
    source: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.html.")],
    target: Target = None,
    method: Method = "group_norm",
    data: Data = None,
    correct: Correct = False,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    ignore: Ignore = None,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    points: Annotated[
        Path | None, typer.Option(help="CSV of target, accuracy and label to show beside.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures as PNG.")] = None,
    latency: Annotated[bool, typer.Option(help="Whether to measure, for two seconds.")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write what pruning would do as one HTML file; no model is written."""

    def job(announce: Announce) -> Answer:
        from fxprune.pages.figures import check_figures, write_figures
        from fxprune.pages.writing import write_report

        model = source_of(source, shape, ignore, checkpoint, seed)
        shown = points_of(points)
        ranking = Ranking(limits_of(target, round_to, least, uniform), method, data, correct)
        read = (source, data, points, *files_of(checkpoint))
        check_output("OUT", out, overwrite=overwrite, sources=read, suffixes=HTML)
        if figures is not None:
            check_figures(figures, bool(shown), overwrite=overwrite)
        pruned: Pruned = route_of(model).prune(
            model, ranking, Destination(), announce, latency=latency
        )
        pruned = pruned.by(ranking, seed)
        announce("drawing", 0.95)
        options: dict[str, Any] = {"points": shown, "overwrite": overwrite}
        if figures is not None:
            write_figures(pruned.report, figures, **options)
        written = write_report(pruned.report, out, verdict=pruned.verdict, **options)
        return replace(pruned, written=written).answer()

    answer(job, as_json=json, show_traceback=traceback)


@verb("quantize half.onnx small.onnx --calibration images/")
def quantize(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An .onnx file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.onnx.")],
    bits: Annotated[int, typer.Option(help="8 or 4; of palettes 1 to 8.")] = 8,
    form: Annotated[str, typer.Option(help="integers, or palette: shared values.")] = "integers",
    calibration: Data = None,
    shape: Shape = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write an ONNX file in 8-bit integers (static with calibration data), 4-bit, or palettes."""

    def job(announce: Announce) -> Answer:
        model = source_of(source, shape, seed=seed)
        if not model.is_onnx:
            raise InputError(f"{source} is no .onnx file: export it first")
        place = Destination(out, overwrite, (source, calibration))
        answered: Answer = route_of(model).quantize(
            model, place, calibration, seed, announce, bits=bits, form=form
        )
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@verb("demo")
def demo(json: Json = False, traceback: Traceback = False) -> None:
    """Prune a small network end to end, with random weights and no data."""

    def job(announce: Announce) -> Answer:
        print("a small residual network is pruned to half of its multiply-accumulates")
        with _demonstration() as model:
            ranking = Ranking(Limits(), "group_norm")
            pruned: Pruned = route_of(model).prune(
                model, ranking, Destination(), announce, latency=True
            )
            found = pruned.answer()
            return replace(found, text=f"{found.text}\n\n{_in_short(pruned)}")

    answer(job, as_json=json, show_traceback=traceback)


def _in_short(pruned: Pruned) -> str:
    """What came of it, in three lines."""
    report, worst = pruned.report, max(pruned.verdict.worst.values())
    before, after = report.before["macs"], report.after["macs"]
    times = report.latency_ms
    return (
        f"smaller: {after:,} of {before:,} multiply-accumulates\n"
        f"faster:  {times['after']:.2f} of {times['before']:.2f} ms for one image\n"
        f"exact:   largest relative error {worst:.1e}"
    )


@contextlib.contextmanager
def _demonstration() -> Iterator[Source]:
    """A torch model if torch is installed, else an ONNX file."""
    if importlib.util.find_spec("torch"):
        yield source_of("fxprune.commands.demonstration:network")
        return
    import onnx

    from fxprune.commands.onnx_demonstration import network

    with tempfile.TemporaryDirectory(prefix="fxprune-") as folder:
        onnx.save(network(), Path(folder) / "demo.onnx")
        yield source_of(str(Path(folder) / "demo.onnx"))
