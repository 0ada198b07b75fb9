"""ONNX files made smaller without torch and without training."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from fxprune.agreement import Verdict
from fxprune.arguments import flag
from fxprune.arguments import seed as check_seed
from fxprune.arguments import shapes as check_shapes
from fxprune.clocks import Clock, Timed, clock_for
from fxprune.criteria import Method, name_of
from fxprune.errors import InputError
from fxprune.ir import Value
from fxprune.keep_sets import by_name, closed_branches, flags_of, kept_of
from fxprune.mixing import forms_named
from fxprune.onnx.backend.fold import fold_program
from fxprune.onnx.backend.gate import mask_program
from fxprune.onnx.backend.saving import check_weights_apart, place_of, save_onnx
from fxprune.onnx.choose import check_prunable, choose, plan_of
from fxprune.onnx.criteria import check_method
from fxprune.onnx.factorise import factors_of
from fxprune.onnx.frontend.data import takes_any_number
from fxprune.onnx.frontend.program import OnnxProgram, read_onnx
from fxprune.onnx.frontend.session import Feeds, Providers, run_by, session_of, weight_bytes
from fxprune.onnx.mixture import Mixture, mixed
from fxprune.onnx.refit import refitted
from fxprune.onnx.verify import verify_onnx, verify_rounded
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.axes import spaces
from fxprune.passes.cost import homes_of_parameters, modules_of
from fxprune.passes.factorisation import Factorised, Form
from fxprune.passes.fold import KeepSet
from fxprune.passes.gate import plan_gates
from fxprune.reports import metadata
from fxprune.selectors import Selector, ignored, selectors
from fxprune.stages import stage
from fxprune.targets import Least, Limits, Target, latency_in, times_in
from fxprune.uniform import Uniform


@dataclass(frozen=True, slots=True)
class OnnxResult:
    """A smaller model and how it came about.

    `model` is the folded model, `source` what the caller gave, of `bytes_before` bytes of weights,
    `analysis` the facts about that, `verdict` what comparing the folded model with the masked
    source found. With `factorise=`, `layers` says which are two, with their rank, and why others
    are not; `analysis` and `keep_set` are then those of the source with these layers as two.
    `method` is how positions were ranked, `timed` what was measured for a target on latency.
    """

    model: onnx_ir.Model
    source: Any
    bytes_before: int
    analysis: Analysis
    keep_set: Mapping[str, tuple[bool, ...]]
    costs_before: Mapping[str, int]
    costs_after: Mapping[str, int]
    verdict: Verdict
    layers: tuple[Factorised, ...] = ()
    method: str = ""
    timed: Timed | None = None

    def __str__(self) -> str:
        rows = (
            f"{name}: {self.costs_before[name]:,} -> {after:,}"
            for name, after in self.costs_after.items()
        )
        timed = [str(self.timed)] if self.timed else []
        return "\n".join((*rows, *timed, str(self.verdict)))


def inspect_onnx(
    source: Any,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    ignore: Iterable[str] = (),
) -> Analysis:
    """What is known about an ONNX model: groups, pins with reasons, branches, costs.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        ignore: initialisers to leave alone, by name, beginning or pattern, or groups by kind, as
            for `prepare`.

    Raises:
        InputError, CheckpointError: the file is no valid model.
    """
    wanted = selectors("ignore", ignore)
    program = read_onnx(source, check_shapes(shapes))
    return _analysed(program, wanted)


def prune_onnx(
    source: Any,
    output: str | Path | None = None,
    *,
    target: Target = 0.5,
    method: Method = "group_norm",
    data: Any = None,
    correct: bool = False,
    round_to: int = 1,
    least: Least = 0.0,
    uniform: Uniform = False,
    ignore: Iterable[str] = (),
    factorise: str | Iterable[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    providers: Providers = None,
    clock: Clock | None = None,
    overwrite: bool = False,
) -> OnnxResult:
    """Prune an ONNX model at once; the file appears only once ONNX Runtime has verified it.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model; it stays as it is.
        output: the file to write; None writes nothing.
        target: as for `prepare`: a share of the MACs to keep, or shares or numbers by cost; here
            "latency" and "latency_ms" are measured, see `clock`, and those of modules refused.
        method: how positions are ranked, as for `prune`: by name (but "taylor": ONNX Runtime takes
            no gradients), or by a function of your own, see `importance`.
        data: batches of inputs, for methods that need some and for `correct`: a .npz file, a folder
            of images, or an iterable of arrays or mappings. The file is verified on them, too.
        correct: whether to solve the weights behind closed positions anew on `data`, see
            `refitted`.
        round_to: every group keeps a multiple of this many positions (or all of them).
        least: the share of its positions that every group keeps at least, or shares by the
            beginning of its name, a pattern, or a kind, as for `prepare`.
        uniform: whether groups of one size at one place in repeated blocks keep the same number, or
            patterns or kinds of those that do; of such blocks whole layers close, no other branch.
        ignore: initialisers to leave alone, by name, beginning or pattern, or groups by kind, as
            for `prepare`.
        factorise: forms that layers may have as two ("low_rank", "separable", "spatial"), as for
            `prune`: every layer loses channels, or a part of its rank, or neither, whichever loses
            least; `method` is not asked. Costs are those of the file as it is, and targets are met
            by what comes out. Not for targets on latency.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        seed: seeds the order of "random".
        providers: what ONNX Runtime ranks, times and verifies with, such as
            `["CUDAExecutionProvider"]`; the CPU if missing.
        clock: by what targets on latency are measured, see `Clock`; if missing, one thread, one
            sample and `providers`. Models of several shares of the MACs are timed whole until one
            is within 3 % of the target; by default in widths of the multiple that loses least.
        overwrite: whether a file that is there already may be replaced; never the source.

    Raises:
        InputError, CheckpointError: an argument does not fit, or the file is no valid model.
        NothingToPruneError: everything is pinned; TargetError: no keep-set reaches the target.
        VerificationError: the smaller model computes something else.
    """
    limits = Limits(target, round_to, least, uniform)
    check_method(method, data)
    check_seed(seed)
    if flag("correct", correct) and data is None:
        raise InputError("correct=True needs data: some hundred samples")
    forms = forms_named(factorise)
    if forms and latency_in(target):
        raise InputError(
            "factorise= takes no target on the latency of a file: limit macs, and measure"
        )
    clock = clock_for(times_in(target), clock)
    wanted, shapes = selectors("ignore", ignore), check_shapes(shapes)
    output = place_of(output, overwrite, source, data)
    with run_by(providers):
        stage("reading")
        program = read_onnx(source, shapes, data)
        check_weights_apart(output, program.model)
        analysis = limits.made_uniform(_analysed(program, wanted))
        before = _Before(
            source, weight_bytes(program.model), analysis.costs.at(analysis.costs.full)
        )
        stage("ranking")
        same, timed = None, None
        if forms:
            mixture = _with_pairs(program, analysis, limits, forms, wanted, shapes)
            same = _pairs_verified(program, mixture.program, shapes)
            program, analysis, keep = mixture.program, mixture.analysis, mixture.keep
            del mixture
        else:
            feeds = program.feeds or None
            keep, timed = choose(program, analysis, limits, method, feeds, seed, clock)
        if correct:
            masked = masked_model(program, analysis, keep)
            program, _ = refitted(program, analysis, masked, keep, program.feeds)
        folded, verdict = _verified(program, analysis, keep, shapes)
        del program  # with its weights, which may be many; graphs of onnx_ir go with the cycles
        gc.collect()
        verdict = same.joined(verdict) if same else verdict
        result = _result(before, folded, verdict, analysis, keep)
        result = replace(result, method=name_of(method), timed=timed)
        if forms:
            result = replace(result, layers=factors_of(folded))
        return _written(result, output, overwrite)


def fold_onnx(
    source: Any,
    keep_set: KeepSet,
    output: str | Path | None = None,
    *,
    data: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    providers: Providers = None,
    overwrite: bool = False,
) -> OnnxResult:
    """Make an ONNX model smaller by a keep-set of your own.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model; it stays as it is.
        keep_set: by group (its name or label) a flag per position, by branch one flag; what is left
            out stays.
        output: the file to write; None writes nothing.
        data: batches of inputs to verify on, as for `prune_onnx`; without, on random ones.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        providers: as for `prune_onnx`.
        overwrite: whether a file that is there already may be replaced; never the source.

    Raises:
        KeepSetError: the model has no such groups; otherwise as `prune_onnx`.
    """
    keep, shapes = flags_of(keep_set), check_shapes(shapes)
    output = place_of(output, overwrite, source, data)
    with run_by(providers):
        program = read_onnx(source, shapes, data)
        check_weights_apart(output, program.model)
        analysis = analyse(program.ir)
        keep = by_name(keep, analysis)
        folded, verdict = _verified(program, analysis, keep, shapes)
        before = _Before(
            source, weight_bytes(program.model), analysis.costs.at(analysis.costs.full)
        )
        return _written(_result(before, folded, verdict, analysis, keep), output, overwrite)


def _analysed(program: OnnxProgram, wanted: Sequence[Selector]) -> Analysis:
    """The facts about a model, with what is ignored pinned."""
    modules = modules_of(program.ir)
    homes = homes_of_parameters(program.ir)
    names = {key: (name, homes[key]) for key, name in program.initializers.items()}
    left_alone = ignored(wanted, names, modules)
    analysis = analyse(program.ir, left_alone.parameters)
    return left_alone.pinned(analysis, [*modules, *program.initializers.values()])


def _verified(
    program: OnnxProgram,
    analysis: Analysis,
    keep: KeepSet,
    shapes: Mapping[str, Sequence[int]] | None,
) -> tuple[onnx_ir.Model, Verdict]:
    """The folded model, with weights of its own, and what comparing it found."""
    stage("folding")
    folded = fold_program(program, plan_of(analysis, keep))
    masked = masked_model(program, analysis, keep)
    values = _unchanged(program, analysis, keep)
    verdict = verify_onnx(
        masked,
        folded,
        inputs=_few_samples(program, masked),
        shapes=shapes,
        batch_sizes=() if program.feeds else (1, 2, 3),
        values=values,
        what="masked == folded",
    )
    for value in folded.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if not isinstance(tensor, onnx_ir.ExternalTensor | onnx_ir.StringTensor):
            value.const_value = onnx_ir.Tensor(tensor.numpy().copy(), tensor.dtype, name=value.name)
    return folded, verdict


@dataclass(frozen=True, slots=True)
class _Before:
    """What the caller gave, how many bytes its weights have, and what it costs."""

    source: Any
    size: int
    costs: Mapping[str, int]


def _result(
    before: _Before, folded: onnx_ir.Model, verdict: Verdict, analysis: Analysis, keep: KeepSet
) -> OnnxResult:
    """What the caller gets; the model says what it costs."""
    full = analysis.costs.full
    sizes = {name: sum(keep[name]) if name in keep else size for name, size in full.items()}
    result = OnnxResult(
        model=folded,
        source=before.source,
        bytes_before=before.size,
        analysis=analysis,
        keep_set={name: tuple(map(bool, flags)) for name, flags in keep.items()},
        costs_before=before.costs,
        costs_after=analysis.costs.at(sizes),
        verdict=verdict,
    )
    folded.metadata_props.update(metadata(result.costs_after, result.costs_before))
    return result


def _written(result: OnnxResult, output: Path | None, overwrite: bool) -> OnnxResult:
    """The same, written to a file if there is one to write."""
    if output is not None:
        stage("writing")
        save_onnx(result.model, output, overwrite=overwrite)
    return result


def _with_pairs(
    program: OnnxProgram,
    analysis: Analysis,
    limits: Limits,
    forms: Iterable[Form],
    wanted: Sequence[Selector],
    shapes: Mapping[str, Sequence[int]] | None,
) -> Mixture:
    """The model with layers as two where that loses less, and what it keeps."""
    check_prunable(analysis)
    feeds = program.feeds or None

    def read(model: onnx_ir.Model) -> tuple[OnnxProgram, Analysis]:
        now = read_onnx(model, shapes, feeds)
        return now, limits.made_uniform(_analysed(now, wanted))

    return mixed(program, analysis, limits, forms, read, wanted)


def _pairs_verified(
    program: OnnxProgram, pairs: OnnxProgram, shapes: Mapping[str, Sequence[int]] | None
) -> Verdict:
    """Whether a model with layers as two computes the same."""
    return verify_rounded(
        program.model,
        pairs.model,
        inputs=program.feeds[:2],
        shapes=shapes,
        batch_sizes=() if program.feeds else (1, 2, 3),
        what="whole == pairs",
    )


def _few_samples(program: OnnxProgram, masked: onnx_ir.Model) -> list[Feeds]:
    """A sample of the data, another one, both, and a part of each where sizes are left open."""
    inputs = program.model.graph.inputs
    feeds = list(program.feeds[:2])
    if feeds and takes_any_number(inputs):
        ranges = ((feeds[0], 0, 1), (feeds[0], 1, 2), (feeds[-1], 0, 1), (feeds[0], 0, 2))
        feeds = [
            {name: array[start:stop] for name, array in feed.items()}
            for feed, start, stop in ranges
            if all(len(array) >= stop for array in feed.values())
        ]
    return [*feeds, *_parts(feeds[:1], inputs, masked)]


def _parts(
    feeds: Sequence[Feeds], inputs: Sequence[onnx_ir.Value], masked: onnx_ir.Model
) -> Iterator[Feeds]:
    """Three quarters along every open axis, the first aside, where the model runs on them."""
    for feed in feeds:
        part = {str(value.name): _part(feed[str(value.name)], value) for value in inputs}
        if any(part[name].shape != array.shape for name, array in feed.items()):
            with suppress(InputError), session_of(masked) as session:
                session.run(part, [])
                yield part


def _part(array: np.ndarray, value: onnx_ir.Value) -> np.ndarray:
    shape = value.shape if value.shape is not None else array.shape
    stops = [
        size if axis == 0 or isinstance(dim, int) else max(size - size // 4, 1)
        for axis, (size, dim) in enumerate(zip(array.shape, shape, strict=True))
    ]
    part: np.ndarray = array[tuple(map(slice, stops))]
    return part


def _unchanged(program: OnnxProgram, analysis: Analysis, keep: KeepSet) -> list[str]:
    """The last values that have the same axes in both models and are computed from what has not.

    Outputs may be saturated. Where nothing is closed, any value shows that nothing has changed.
    """
    changed = {g.space for g in analysis.groups if g.name in keep and not all(keep[g.name])}
    closed = closed_branches(analysis, keep)
    gone = {name for b in closed for name in (*b.nodes, *(addition for addition, _ in b.places))}
    outputs = {value.name for value in program.model.graph.outputs}
    users = analysis.graph.users()

    def is_cut(value: Value) -> bool:
        axes = analysis.types.axes.get(value.name) or ()
        return any(space in changed for axis in axes for space in spaces(axis))

    whole = not changed and not gone
    behind: set[str] = set()
    names: list[str] = []
    for node in analysis.graph.nodes:
        read = [value for value in node.inputs if value is not None]
        if whole or node.name in gone or any(v.name in behind or is_cut(v) for v in read):
            behind.update(value.name for value in node.outputs)
            names += [
                value.name
                for value in node.outputs
                if node.name in program.nodes and node.name not in gone
                if value.name in users and value.name not in outputs and not is_cut(value)
            ]
    return names[-_COMPARED_VALUES:]


_COMPARED_VALUES = 4
"""How many values are compared beside the outputs."""


def masked_model(program: OnnxProgram, analysis: Analysis, keep: KeepSet) -> onnx_ir.Model:
    """The original with what a keep-set closes masked where it is read."""
    plan = plan_gates(program.ir, analysis.types, analysis.groups, analysis.branches)
    gates = {space: np.array(flags, float) for space, flags in kept_of(analysis, keep).items()}
    closed = [branch.name for branch in closed_branches(analysis, keep)]
    return mask_program(program, plan, gates, dict.fromkeys(closed, 0.0))
