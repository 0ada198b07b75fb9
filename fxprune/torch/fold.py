"""Gated models made physically smaller."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, overload

from torch import fx, nn
from torch.optim import Optimizer

from fxprune.arguments import flag
from fxprune.errors import InputError, KeepSetError
from fxprune.garbage import collected_later
from fxprune.passes.analyse import analyse
from fxprune.passes.fold import FoldPlan, KeepSet, plan_fold
from fxprune.passes.whole_layers import taken_apart
from fxprune.torch.backend.configuration import configure, follow, is_configured, lowers
from fxprune.torch.backend.consuming import Promises
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.depth import idle_layers, renamed, shorter, without_layers
from fxprune.torch.backend.fold import Take, fold_model, own
from fxprune.torch.backend.fold_in_kind import Fold, rewrite
from fxprune.torch.backend.frozen import thaw
from fxprune.torch.backend.generated import generate, generated_code, is_generated
from fxprune.torch.backend.module import TracedModule, become
from fxprune.torch.backend.optimizer import check_optimizer, fold_optimizer
from fxprune.torch.backend.outline import Recording
from fxprune.torch.backend.parts import Whole
from fxprune.torch.checks import Model, check_finite, check_weights
from fxprune.torch.frontend.global_names import looked_at_once
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.frontend.states import forget
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.gates.module import Gates
from fxprune.torch.gating import program_to_run, without_gates
from fxprune.torch.precision import agree
from fxprune.torch.record import FoldStep, Record, attach, gated_record, record_of, traced_part
from fxprune.torch.splitting import with_pairs
from fxprune.torch.wrapping import GATHER, check_whole, unwrapped

_log = logging.getLogger("fxprune")


@overload
def fold(gated: Model, *, settle: bool = True, consume: bool = False) -> Model: ...
@overload
def fold(
    gated: Model, *, optimizer: Optimizer, settle: bool = True, consume: bool = False
) -> tuple[Model, Optimizer]: ...


def fold(
    gated: Model,
    *,
    optimizer: Optimizer | None = None,
    settle: bool = True,
    consume: bool = False,
) -> Model | tuple[Model, Optimizer]:
    """A physically smaller module that computes what `gated.eval()` computes.

    The result is an ordinary module without any gate: it can be trained further, exported, copied,
    compiled and prepared again.

    Where the training was shorter than the schedule, so that more is open than the target allows,
    the rest is closed first, by what the gates have learned (by `importance` if that is nothing),
    and a warning says so. That closes it in `gated` too, as `reach_target` does: the two compute
    the same, and the gates stop learning. Otherwise `gated` stays as it is.

    Args:
        gated: what `prepare` returned, trained; what torch wrapped around it (torch.compile,
            DistributedDataParallel, AveragedModel) is left out.
        optimizer: SGD, Adam or AdamW over the parameters of `gated`; with it, the pair of the
            folded module and an optimizer of the same kind, settings and (sliced) state.
        settle: whether to close what the target does not allow; False folds what is open now, and
            the gates learn on.
        consume: whether `gated` itself becomes the folded module, in the memory that it has: its
            weights are sliced last of all, one by one, and each is let go. What fails before that
            leaves `gated` as it was; a failure then, for want of memory, says that it is of no use
            any more. Whoever else holds its parameters keeps their memory.

    Returns:
        The folded module; with `consume` that is `gated`.

    Raises:
        InputError: `gated` is not gated or it is sharded, or the optimizer is of another kind.
    """
    flag("settle", settle)
    if flag("consume", consume) and optimizer is not None:
        raise InputError(
            "consume=True lets go of what the optimizer holds: fold without the optimizer, or let "
            "fxprune.shrink change both in place"
        )
    gates, record = gated_record(gated)
    whole: Any = unwrapped(gated)
    if optimizer is not None:
        check_optimizer(optimizer, whole)
    path, part = traced_part(whole)
    check_whole(part, GATHER)
    check_finite(part)
    if not gates.method.done:
        _finish_schedule(whole, gates, settle)
    keep = {name: flags.tolist() for name, flags in gates.keep_set().items()}
    record = replace(record, reached=gates.reached())
    folded: Any = fold_in_kind(part, record, keep, Promises() if consume else None)
    full = without_gates(part) if _idle_in(folded) else None
    if consume:
        become(part, folded)  # whole from here on, whatever fails
    short = folded if full is None else _without_idle_layers(folded, full, record)
    if consume:
        become(part, short)
        return whole  # type: ignore[no-any-return]
    if path:
        folded = with_part(whole, path, folded)
    if optimizer is not None:
        prefix = f"{path}." if path else ""
        slices = [
            replace(item, parameter=prefix + item.parameter)
            for item in plan_of(record, keep).slices
        ]
        optimizer = fold_optimizer(optimizer, whole, folded, slices)
    if path:
        folded.set_submodule(path, short)
    else:
        folded = short
    return folded if optimizer is None else (folded, optimizer)


def fold_as(gated: nn.Module, keep: Mapping[str, Any] | None) -> TracedModule:
    """Fold under a keep-set (None: the present one) without changing the gates."""
    gates, record = gated_record(gated)
    chosen = gates.keep_set() if keep is None else keep
    flags = {name: [bool(flag) for flag in value] for name, value in chosen.items()}
    part = traced_part(gated)[1]
    small = without_gates(part)
    graph = fold_model(small, program_to_run(small, record), plan_of(record, flags))
    folded = TracedModule(small, graph, type(part).__name__)
    thaw(folded)
    _finish(folded, record, flags)
    return folded


def apply_step(
    model: nn.Module, step: FoldStep, examples: tuple[Arguments, ...], source: str
) -> nn.Module:
    """Repeat a recorded fold on a model that was never gated.

    Raises:
        KeepSetError: the model has no such groups.
    """
    model = with_pairs(model, step.pairs)
    program = read_model(model, examples, frozenset(step.leaves))
    analysis = analyse(program.ir, step.ignored, step.scatter)
    previous = record_of(model)
    record = Record(
        source,
        examples,
        program,
        analysis,
        step.ignored,
        step.leaves,
        step.scatter,
        previous.history if previous else (),
        previous.costs_before if previous else None,
        pairs=step.pairs,
    )
    full = analysis.costs.full
    keep: dict[str, list[bool]] = {}
    for name, kept in step.kept.items():
        if name not in full or any(index >= full[name] for index in kept):
            raise KeepSetError(f"the model has no group {name!r} with these positions")
        keep[name] = [index in set(kept) for index in range(full[name])]
    small, whole = (copy_module(model, share_tensors=True) for _ in range(2))
    folded, graph = _folded(small, whole, record, keep)
    if graph is not None:
        _check_its_path(folded, graph, record)
    numbers, layers = step.configuration, _idle_in(folded)
    if numbers and lowers(folded, numbers) and configure(folded, numbers, program.graph, layers):
        _with_numbers(folded, numbers)
    if step.taken:
        if unknown := set(step.taken).difference(layers):
            raise KeepSetError(f"the model has nothing to take out at {min(unknown)!r}")
        folded = without_layers(folded, model, step.taken)
        _remember(folded, model, step.taken)
    return folded


def plan_of(record: Record, keep: Mapping[str, Any]) -> FoldPlan:
    """What folding under a keep-set does."""
    analysis = record.analysis
    return plan_fold(record.program.ir, analysis.types, analysis.groups, analysis.branches, keep)


def _finish(folded: nn.Module, record: Record, keep: KeepSet) -> None:
    """Attach what the folded module remembers."""
    costs = record.analysis.costs
    own = taken_apart(keep, record.analysis.branches)
    kept = {name: tuple(i for i, flag in enumerate(flags) if flag) for name, flags in own.items()}
    attach(
        folded,
        replace(
            record,
            history=(
                *record.history,
                FoldStep(kept, record.ignored, record.leaves, record.scatter, pairs=record.pairs),
            ),
            costs_before=record.costs_before or costs.at(costs.full),
        ),
    )


@collected_later()
@looked_at_once()
def fold_in_kind(
    gated: nn.Module, record: Record, keep: KeepSet, promises: Promises | None = None
) -> nn.Module:
    """A gated module folded: one of the user's own class.

    With `promises` it takes the weights of `gated`, which is of no use then.
    """
    take = own if promises is None else promises.take
    folded, graph = _folded(without_gates(gated), without_gates(gated), record, keep, take)
    if promises is not None:
        promises.keep(gated, folded)
    if graph is not None:
        _check_its_path(folded, graph, record)
    if rules := record.configuration:
        _with_numbers(folded, follow(folded, rules, keep, record.program.graph, _idle_in(folded)))
    return folded


def _idle_in(folded: nn.Module) -> list[str]:
    """The layers of lists that have nothing left."""
    return [path for paths in idle_layers(folded) for path in paths]


def _with_numbers(folded: nn.Module, numbers: Mapping[str, int]) -> None:
    """Let the record of a folded module say what its configuration does since its last fold."""
    record = record_of(folded)
    assert record is not None
    *before, last = record.history
    now = replace(last, configuration=dict(numbers))
    attach(folded, replace(record, history=(*before, now)))


def _folded(
    small: nn.Module, full: nn.Module, record: Record, keep: KeepSet, take: Take = own
) -> tuple[nn.Module, fx.Graph | None]:
    """`small` folded, and its graph where what it runs may not be what was recorded of it.

    It and `full` are the model before, sharing tensors.
    """
    plan = plan_of(record, keep)
    has_no_code = isinstance(full, fx.GraphModule) or type(full) is nn.Module
    runs = has_no_code or plan.scatters
    graph = fold_model(small, program_to_run(full, record) if runs else record.program, plan, take)
    thaw(small)
    if has_no_code:
        small, unsure = TracedModule(small, graph), False
    else:
        for module in (full, small):
            forget(module, record.program.kept)
        leaves = frozenset(record.leaves)
        whole = Whole(full, record.examples, leaves, record.program, record.analysis)
        fold = Fold(whole, keep, plan, graph)
        rewrite(fold, small)
        unsure = _may_take_another_path(small, record.program)
        graph = fold.graph_to_run() if unsure else graph
    _finish(small, record, keep)
    return small, graph if unsure else None


def _without_idle_layers(folded: nn.Module, full: nn.Module, record: Record) -> nn.Module:
    """A folded model without the layers that hand on what they are given; `full` was before."""
    recording = Recording(full, record.program, record.examples, frozenset(record.leaves))
    short, taken = shorter(folded, recording)
    if taken:
        _remember(short, full, taken)
    if taken and record.configuration and not is_configured(short):
        _log.warning("the configuration cannot say which layers are left: save with fxprune.save")
    return short


def _remember(short: nn.Module, full: nn.Module, taken: tuple[str, ...]) -> None:
    """Let a model without some layers know it, and call things as they are called now."""
    record = record_of(short)
    assert record is not None
    *before, last = record.history
    leaves, ignored = (
        tuple(now for path in paths if (now := renamed(path, full, taken)) is not None)
        for paths in (record.leaves, record.ignored)
    )
    history = (*before, replace(last, taken=taken))
    attach(short, replace(record, leaves=leaves, ignored=ignored, history=history))


def _may_take_another_path(small: nn.Module, program: Program) -> bool:
    """Whether what a folded model runs may not be what was recorded of it.

    Some libraries do something else while they are traced, some loops are recorded as products, and
    modules with code of their own do not tell a recording all that they do.
    """
    took_its_path = not (program.told or program.replaced or generated_code(small))
    return not (took_its_path or is_generated(small))


def _check_its_path(small: nn.Module, graph: fx.Graph, record: Record) -> None:
    """Give a folded model its graph where it computes something else."""
    shell = nn.Module()
    shell.__dict__ = dict(small.__dict__)
    if not agree(TracedModule(shell, graph), small, record.examples):
        generate(small, graph, "its code knows when it is recorded, and does something else")


def with_part(model: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """A copy of a model with another module at `path`."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    original = owner._modules[name]
    owner._modules[name] = None  # what is replaced need not be copied
    try:
        copy = copy_module(model)
    finally:
        owner._modules[name] = original
    copy.get_submodule(parent)._modules[name] = part
    return copy


def _finish_schedule(gated: nn.Module, gates: Gates, settle: bool) -> None:
    """Close what the target does not allow, if that is wanted, and say what would be better."""
    method, is_met = gates.method, gates.at_target
    if is_met and bool(method.is_open.all()):
        return  # nothing was asked for
    learned = method.has_learned
    _log.log(
        logging.INFO if gates.waiting.told and not learned else logging.WARNING,
        "folding after %d of %d steps of the schedule: %s%s",
        int(method.steps_done),
        method.steps,
        "its target is met" if is_met else _rest(settle, learned),
        _advice(gates) if learned else _reason(gates),
    )
    if is_met or not settle:
        return
    check_weights(traced_part(gated)[1])
    gates.settle(None if learned else gates.norms())


def _rest(settle: bool, learned: bool) -> str:
    """What becomes of what the target does not allow."""
    if not settle:
        return "more is open than its target allows"
    return (
        f"the rest is closed now, by {'what gates have learned' if learned else 'norms of weights'}"
    )


def _advice(gates: Gates) -> str:
    """How many steps would have been right, and what was wrong with those that did not count."""
    said, done, waited = "", int(gates.method.steps_done), gates.waiting
    if done:
        steps = gates.method.span(done)
        said = f"; prepare(..., steps={steps}) would leave time to train with what is kept"
    if waited.steps:
        said += f"; {waited.steps} steps more taught nothing, because {waited.cause}"
    return said


def _reason(gates: Gates) -> str:
    """Why nothing was learned."""
    return f", because gates have learned nothing: {gates.waiting.why(gates.method)}"
