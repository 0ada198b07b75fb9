"""The verbs that look at a model and make it smaller."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from fxprune.commands.answers import Answer, about, answer
from fxprune.commands.arguments import clock_of, keep_set_of
from fxprune.commands.bars import Announce
from fxprune.commands.group import verb
from fxprune.commands.jobs import Destination, Pruned, Ranking
from fxprune.commands.options import (
    SAMPLERS,
    SCORES,
    Checkpoint,
    ClockText,
    Correct,
    Data,
    Factorise,
    Ignore,
    Json,
    Least,
    Method,
    Model,
    Out,
    Overwrite,
    RoundTo,
    Seed,
    Shape,
    Target,
    Traceback,
    Uniform,
    completing,
)
from fxprune.commands.sources import files_of, limits_of, route_of, source_of
from fxprune.errors import InputError
from fxprune.files import check_output
from fxprune.reports import describe


@verb("inspect model.onnx", "inspect torchvision.models:resnet18 --shape 1,3,224,224")
def inspect(
    source: Model,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    ignore: Ignore = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show groups, what is pinned and why, costs, and what half of every group would leave."""

    def job(announce: Announce) -> Answer:
        announce("finding groups", 0)
        model = source_of(source, shape, ignore, checkpoint, seed)
        name, analysis = route_of(model).inspect(model)
        half = {group.name: -(-group.size // 2) for group in analysis.free_groups}
        now, then = describe(name, analysis, {}), describe(name, analysis, half)
        return Answer(
            f"{now.groups()}\nWith half of every group:\n{then.summary()}",
            {**about(now), "with_half": dict(then.after)},
        )

    answer(job, as_json=json, show_traceback=traceback)


@verb(
    "prune model.onnx half.onnx --target .5",
    "prune package.module:factory folder --target params=.6 --method taylor --data batches.npz",
    "prune model.onnx small.onnx --target .5 --method wanda --data images/ --correct",
    "prune model.onnx fast.onnx --target latency=.5 --clock onnxruntime,threads=4",
)
def prune(
    source: Model,
    out: Out,
    target: Target = None,
    method: Method = "group_norm",
    data: Data = None,
    correct: Correct = False,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    factorise: Factorise = None,
    clock: ClockText = None,
    ignore: Ignore = None,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a smaller model that is verified to compute what the masked one does."""

    def job(announce: Announce) -> Answer:
        model = source_of(source, shape, ignore, checkpoint, seed)
        limits = limits_of(target, round_to, least, uniform)
        forms = tuple(factorise or ())
        ranking = Ranking(limits, method, data, correct, forms, clock_of(clock))
        place = Destination(out, overwrite, (source, data, *files_of(checkpoint)))
        pruned: Pruned = route_of(model).prune(model, ranking, place, announce, latency=False)
        return pruned.by(ranking, seed).answer()

    answer(job, as_json=json, show_traceback=traceback)


@verb("prune-checkpoint llama/ smaller/ --target params=.8 --shape input_ids=1,128")
def prune_checkpoint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Safetensors and config.json of transformers.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there.")],
    target: Target = None,
    method: Annotated[
        str, typer.Option(help="How positions are ranked: group_norm, magnitude, bn_scale, random.")
    ] = "group_norm",
    keep_set: Annotated[
        Path | None, typer.Option(help="JSON as for fold: keep this, whatever the target is.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="module:factory of the model, where config.json tells none.")
    ] = None,
    round_to: RoundTo = 1,
    least: Least = None,
    uniform: Uniform = None,
    ignore: Ignore = None,
    shape: Shape = None,
    seed: Seed = 0,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a smaller model of one on disk, without having it in memory; no verdict is given."""

    def job(announce: Announce) -> Answer:
        limits = limits_of(target, round_to, least, uniform or ["*"])
        keep = None if keep_set is None else keep_set_of(keep_set)
        source = source_of(model or "", shape, ignore, None, seed)
        place = Destination(out)
        route = importlib.import_module("fxprune.commands.torch_route")
        answered: Answer = route.prune_checkpoint(
            folder, source, Ranking(limits, method), keep, place, announce
        )
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@verb("search package.module:factory --score params --target .5 --trials 200 --json > best.json")
def search(
    source: Model,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="What is to be large: params, macs, -macs (small), naswot, synflow, snip, zico, "
            "taylor, or module:function of a model; repeatable.",
            autocompletion=completing(SCORES),
        ),
    ] = None,
    target: Target = None,
    trials: Annotated[int, typer.Option(help="How many configurations are looked at.")] = 100,
    sampler: Annotated[
        str,
        typer.Option(
            help="random, tpe, gp, nsga2, cmaes, qmc, exhaustive or milp.",
            autocompletion=completing(SAMPLERS),
        ),
    ] = "tpe",
    data: Data = None,
    storage: Annotated[
        Path | None, typer.Option(help="File of trials: the search goes on from it, or shares it.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write all trials as NAME.parquet or NAME.csv.")
    ] = None,
    round_to: RoundTo = 1,
    least: Least = None,
    ignore: Ignore = None,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Search the keep-sets of a torch model; --json prints the best for `fold`."""

    def job(announce: Announce) -> Answer:
        model = source_of(source, shape, ignore, checkpoint, seed)
        if model.is_onnx:
            raise InputError(f"{source} is ONNX: only torch models are searched; prune ranks files")
        limits = limits_of(target, round_to, least, None)
        if table is not None:
            check_output("table", table, overwrite=overwrite, suffixes=(".parquet", ".csv"))
        route = importlib.import_module("fxprune.commands.searching")
        options = {"trials": trials, "sampler": sampler, "seed": seed, "storage": storage}
        asked = route.Asked(tuple(score or ("params",)), data, table, overwrite, options)
        answered: Answer = route.search(model, limits, asked, announce)
        return answered

    answer(job, as_json=json, show_traceback=traceback)


@verb("prune model.onnx half.onnx --json > half.json", "fold model.onnx half.json again.onnx")
def fold(
    source: Model,
    keep_set: Annotated[
        Path, typer.Argument(metavar="KEEP_SET", help="JSON: 0 or 1 by position, by group name.")
    ],
    out: Out,
    shape: Shape = None,
    checkpoint: Checkpoint = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Remove exactly what a keep-set leaves out, such as that of `prune --json`."""

    def job(announce: Announce) -> Answer:
        model = source_of(source, shape, None, checkpoint, seed)
        place = Destination(out, overwrite, (source, keep_set, *files_of(checkpoint)))
        pruned: Pruned = route_of(model).fold(model, keep_set_of(keep_set), place, announce)
        return pruned.answer()

    answer(job, as_json=json, show_traceback=traceback)
