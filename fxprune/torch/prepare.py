"""The verbs: prepare a model, look at its groups and keep-set."""

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments import flag, names, near, text, whole
from fxprune.errors import InputError, NothingToPruneError
from fxprune.garbage import collected_later
from fxprune.layout import layout_of
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.roles import Kind
from fxprune.selectors import Ignored, ignored, selector_of
from fxprune.targets import (
    DEFAULT_STEPS,
    Least,
    Limits,
    Target,
    check_total_steps,
    steps_to_target,
    times_in,
)
from fxprune.torch.backend.attributes import repeated_spaces, scaling_spaces
from fxprune.torch.backend.caches import with_caches_kept
from fxprune.torch.backend.configuration import ConfigurationRule, rules_of, tied_by
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.depth import sayable_layers
from fxprune.torch.backend.frozen import thaw
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.backend.module import become
from fxprune.torch.backend.outline import Recording
from fxprune.torch.backend.parts import Whole
from fxprune.torch.backend.ties import sizes_in_step
from fxprune.torch.budget.budget import Budget
from fxprune.torch.budget.latency import measure_latency
from fxprune.torch.checks import Model, check_finite, check_model
from fxprune.torch.fold import with_part
from fxprune.torch.frontend.examples import check_examples, inputs_of_part
from fxprune.torch.frontend.global_names import looked_at_once
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.frontend.walk import named_modules, named_parameters
from fxprune.torch.gates.method import Settings
from fxprune.torch.gates.methods import settings_of
from fxprune.torch.gating import method_for, with_gates
from fxprune.torch.pairs import forms_of
from fxprune.torch.precision import agree
from fxprune.torch.record import Record, attach, record_of
from fxprune.torch.shrink import shrink_on_steps
from fxprune.uniform import Uniform, patterns_of

_log = logging.getLogger("fxprune")


@collected_later()
@looked_at_once()
def prepare(
    model: Model,
    example_inputs: Any = None,
    *,
    target: Target = 0.5,
    steps: int | float | None = None,
    total_steps: int | None = None,
    round_to: int = 1,
    least: Least = 0.0,
    ignore: Iterable[str | nn.Module] = (),
    leaf: Iterable[str | nn.Module] = (),
    scope: str = "",
    scatter: bool = False,
    in_kind: bool = True,
    uniform: Uniform = False,
    method: str | Settings = "static",
    shrink_every: int = 0,
    copy: bool = True,
) -> Model:
    """Turn a model into one that learns, in its normal training, what it can do without.

    The result computes the very bits of `model`, has its state_dict keys (and gates under
    `fxprune_gates`), and trains in an unchanged loop: build the optimizer from its parameters.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> gated = fxprune.prepare(model, torch.randn(1, 3, 8, 8), target=0.5)
    >>> [(group.name, group.size) for group in fxprune.groups(gated) if not group.pin]
    [('0', 16)]

    Args:
        model: any traceable module; it is copied and stays as it is. On the meta device, without
            weights, it is planned: its groups, costs and keep-set, and what `fold` makes of it.
        example_inputs: what `forward` takes: a tensor, a tuple, or a mapping by name. If missing,
            it is inferred from the model's configuration or first layer, and a log line says what
            was assumed. A list holds several examples: inputs of other sizes or types, with other
            arguments. What the model does on any of them stays exact; costs are those of the first.
        target: the share of the multiply-accumulates to keep, in (0, 1], or a mapping from
            "macs", "params", "bytes" (of the parameters, at the precision that each has), "flops"
            (as thop and AutoBot count them), "memory" (elements of all arrays) and "peak" (elements
            alive at one time) to shares (up to 1) or absolute numbers (above 1). "latency" is a
            share and "latency_ms" a number of milliseconds of a predicted time per sample: an
            estimate from layers that are timed on this machine now, which takes seconds;
            `reach_latency` corrects it by measuring, and `prune` does so by itself. The path
            of a module maps to a target for what is inside it: `{"macs": 0.5, "layer1": {"params":
            0.8}}`; a pattern, `"*.mlp"`, gives one to each of the outermost modules that match, and
            of several the longest decides.
        steps: optimizer steps until the target is reached, or the fraction of `total_steps` after
            which it is; train on afterwards. If missing, a share of `total_steps` that leaves time
            for that. If that is missing too, the callbacks of `fxprune.integrations` ask their
            trainers for it, and it is 1000 steps where there is none. Steps that teach the gates
            nothing do not count.
        total_steps: optimizer steps of the whole training.
        round_to: every group keeps a multiple of this many positions (or all of them).
        least: the share of its positions that every group keeps at least, or shares by the path
            of the module that a group is made in, by pattern, or by kind, `{"*: heads": 0.5}`. Of
            several that fit kinds decide before paths, then the longest. `{"*: layer": 0.5}` is
            the share of its layers that every list keeps where whole layers close.
        ignore: modules, their names or patterns of these, whose outputs stay as they are; or
            groups that stay, by label (see `groups`) or kind, such as `"*: heads"` (kv heads, too)
            or `"layers.0.*: heads"`. Branches that would close with these groups stay as well.
        leaf: names of modules, or modules, that tracing does not enter: for a part whose Python
            cannot be traced. What goes into it and comes out of it keeps its channels.
        scope: the name of the only part to prepare, where the rest cannot be traced. The result
            is then a copy of the whole model with that part gated; every verb accepts it. With it,
            `example_inputs` are those of the whole model, which is run once on them.
        scatter: whether a residual branch may write only some channels of what it is added to. The
            sum then keeps all of its own, and is folded to an `index_add`, so that this saves MACs
            rather than time. Gates act on the last weights of the branch.
        in_kind: whether to leave whole what the model's own code cannot change, such as the
            dimensions inside of heads where one attribute says how many keys and values have. With
            False these are pruned as well; `fold` then generates code for the modules concerned.
        uniform: whether groups of one size at the same place in repeated blocks, such as the MLPs
            of all layers, keep the same number of positions; or patterns or kinds, `"*.mlp"` or
            `"*: heads"`, of those that do. Of such blocks whole layers close, all their branches
            together, and nothing else that is a branch; `ignore=["*: layer"]` keeps them all. What
            `fold` returns has a `config`, if the model has one, from which its class makes a model
            of these sizes.
        method: how gates learn: "static", "consensus", "autobot" or "hard_concrete", or one of
            `Static`, `Consensus`, `AutoBot`, `HardConcrete` with settings.
        shrink_every: after this many steps, again and again until the target is reached, closed
            positions are removed for good (see `shrink`), which makes the rest of the training
            cheaper; 0 for never. Does nothing, with a warning, where that is not safe: in
            distributed training, if the model was copied (to average weights), with optimizers
            whose state is not by element.
        copy: whether what is returned is a copy. With False `model` itself becomes the gated
            model, with the parameters that it has, while the modules inside are new objects; if
            anything fails it is as it was.

    Returns:
        A module of the class of `model`; with `scope` the part of it is gated.

    Raises:
        InputError: an argument does not fit; TargetError for the target.
        TraceError: the model's Python cannot be traced.
        NothingToPruneError: every channel is pinned; the message says why.
    """
    check_model(model, empty=True)
    limits = Limits(target, round_to, least, uniform)
    settings = settings_of(method)
    flag("in_kind", in_kind)
    check_copied(model, copy)
    _check_settings(scope, scatter, shrink_every)
    if scope:
        options: dict[str, Any] = {"ignore": ignore, "leaf": leaf, "scatter": scatter}
        options |= {"in_kind": in_kind, "uniform": uniform}
        options |= {"target": target, "steps": steps, "total_steps": total_steps}
        options |= {"round_to": round_to, "least": least}
        options |= {"method": method, "shrink_every": shrink_every, "copy": copy}
        part: Any = _prepare_part(model, scope, example_inputs, **options)
        return part  # type: ignore[no-any-return]
    check_finite(model)
    check_total_steps(total_steps)
    schedule = DEFAULT_STEPS if steps is None else steps_to_target(steps, total_steps)
    examples = check_examples(model, example_inputs)
    if len(examples) > 1 and isinstance(model, fx.GraphModule):
        raise InputError("a torch.fx.GraphModule takes one way on all inputs: give one example")
    left_alone = ignored_in(model, ignore)
    leaves = tuple(_paths_of(model, leaf, "leaf"))
    program = read_model(model, examples, frozenset(leaves))
    modules = [path for path, _ in named_modules(model) if path]
    analysis = analyse(program.ir, left_alone.parameters, scatter)
    analysis = left_alone.pinned(analysis, modules)
    recording = Recording(model, program, examples, frozenset(leaves))
    analysis, rules = _sayable(recording, analysis, limits, in_kind=in_kind)
    if not settings.branches:
        analysis = analysis.only([g.name for g in analysis.groups], "")
    _check_prunable(model, analysis)
    latency = cache(lambda: measure_latency(model, analysis, round_to))
    costs, wanted = limits.on(analysis, modules, lambda path: latency().inside(path))
    layout = layout_of(analysis)
    kept = limits.least_positions(analysis, modules)
    budget = Budget(costs, layout, wanted, round_to, kept)

    def with_all_open(at_once: bool = False) -> nn.Module:
        learner = method_for(settings, analysis, budget, schedule)
        learner.adjustable = steps is None and total_steps is None
        if steps is None and total_steps is not None:
            learner.follow(total_steps)
        own = copy_module(model, share_tensors=not copy)
        whole = Whole(own, examples, frozenset(leaves), program, analysis)
        return with_gates(whole, learner, at_once=at_once)

    gated: Any = with_all_open()
    if program.told and generated_code(gated) and not agree(model, gated, examples):
        thaw(gated)  # it may share its parameters
        gated = with_all_open(at_once=True)
    previous = record_of(model)
    record = Record(
        source=previous.source if previous else type(model).__qualname__,
        examples=tuple(tuple(map(_described, example)) for example in examples),
        program=program,
        analysis=analysis,
        ignored=left_alone.parameters,
        leaves=leaves,
        scatter=scatter,
        history=previous.history if previous else (),
        costs_before=previous.costs_before if previous else None,
        targets=wanted,
        configuration=rules,
        pairs=forms_of(model),
        method=method if isinstance(method, str) else type(method).__name__,
        times=times_in(target),
    )
    attach(gated, record)
    if shrink_every:
        shrink_on_steps(gated, shrink_every)
    if copy:
        return gated  # type: ignore[no-any-return]
    become(model, gated)
    return model


def _sayable(
    recording: Recording, analysis: Analysis, limits: Limits, *, in_kind: bool
) -> tuple[Analysis, tuple[ConfigurationRule, ...]]:
    """What the model's code and its configuration can say, as far as asked for; and how the latter
    follows."""
    if in_kind:
        analysis = _as_code_can_say(recording, analysis)
    analysis = limits.made_uniform(analysis)
    model, program = recording.module, recording.program
    rules = _rules(model, program, analysis) if limits.uniform else ()
    if limits.uniform:
        analysis = _with_layers_that_can_be_told(model, analysis)
    if rules and "*" in patterns_of(limits.uniform):
        analysis = _as_configuration_can_say(analysis, rules)
    elif in_kind:  # a configuration says that, too
        analysis = analysis.pinning(repeated_spaces(model, program, analysis.types))
    return analysis, rules


def _as_code_can_say(recording: Recording, analysis: Analysis) -> Analysis:
    """With what the model's own code cannot change pinned, and tied what it computes together."""
    graph = recording.program.graph
    analysis = analysis.pinning(scaling_spaces(graph, analysis.types.literals))
    analysis = with_caches_kept(recording, analysis)
    whole, ties = sizes_in_step(graph, analysis)
    return analysis.pinning(whole).tying(ties)


def _rules(model: nn.Module, program: Program, analysis: Analysis) -> tuple[ConfigurationRule, ...]:
    """How the configuration follows, if there is one; a warning if it cannot."""
    found = rules_of(model, program, analysis)
    if found is not None and not found:
        _log.warning(
            "no number of the configuration of %s sizes what is free: it will not say what fold "
            "makes; fxprune.save and load do",
            type(model).__name__,
        )
    return found or ()


def _as_configuration_can_say(analysis: Analysis, rules: Iterable[ConfigurationRule]) -> Analysis:
    """With what no rule of a configuration sizes pinned, and tied what one of them does."""
    said = {name for rule in rules for name in rule.groups}
    reason = "no number of the configuration is its size; uniform=False frees it"
    reasons = {g.space: reason for g in analysis.free_groups if g.name not in said}
    return analysis.pinning(reasons).tying(tied_by(rules))


def _with_layers_that_can_be_told(model: nn.Module, analysis: Analysis) -> Analysis:
    """Without layers that stay, since no number of the configuration says that one of them goes."""
    layers = {b.place: b.name for b in analysis.branches if b.kind is Kind.LAYER}
    staying = {layers[place] for place in layers.keys() - sayable_layers(model, layers)}
    if staying:
        _log.info(
            "%d layers of %s stay, since its configuration can say no model without one of them",
            len(staying),
            type(model).__name__,
        )
    return analysis.branching(b for b in analysis.branches if b.name not in staying)


def _prepare_part(model: nn.Module, scope: str, example_inputs: Any, **options: Any) -> nn.Module:
    """A copy of a model in which one part is gated."""
    if scope not in dict(named_modules(model)):
        parts = [path for path, _ in named_modules(model) if path]
        raise InputError(f"scope: the model has no module {scope!r}{near(scope, parts)}")
    part = model.get_submodule(scope)
    inputs = None if example_inputs is None else inputs_of_part(model, part, example_inputs)
    gated = prepare(part, inputs, **options)
    return with_part(model, scope, gated) if options["copy"] else model


def check_copied(model: nn.Module, copy: bool) -> None:
    """Raise InputError where a model cannot become another one."""
    if not flag("copy", copy) and isinstance(model, fx.GraphModule):
        raise InputError(
            "copy=False: a torch.fx.GraphModule is no module with code of its own to change: "
            "prepare a copy of it, or the module that was traced"
        )


def _check_settings(scope: str, scatter: bool, shrink_every: int) -> None:
    text("scope", scope, 'the name of a module, or "" for the whole model')
    flag("scatter", scatter)
    whole("shrink_every", shrink_every, "a number of steps, or 0 for never", least=0)


def ignored_in(model: nn.Module, ignore: Iterable[str | nn.Module]) -> Ignored:
    """What of a model is left alone."""
    wanted = [selector_of(text) for text in _texts_of(model, ignore, "ignore")]
    parameters = {name: [name] for name, _ in named_parameters(model)}
    return ignored(wanted, parameters, [path for path, _ in named_modules(model) if path])


def _texts_of(model: nn.Module, items: Iterable[str | nn.Module], argument: str) -> Iterator[str]:
    """Texts as they are, and the paths of modules."""
    paths = {id(module): path for path, module in named_modules(model)}
    wanted = "names of modules, or modules"
    given = [items] if isinstance(items, nn.Module) else names(argument, items, wanted, object)
    for item in given:
        path = item if isinstance(item, str) else paths.get(id(item))
        if path is None:
            raise InputError(f"{argument}: this {type(item).__name__} is not a part of the model")
        yield path


def _paths_of(model: nn.Module, items: Iterable[str | nn.Module], argument: str) -> Iterator[str]:
    """The paths of modules (or parameters) given by name or as they are."""
    modules = dict(named_modules(model))
    known = {*modules, *(name for name, _ in named_parameters(model))}
    for path in _texts_of(model, items, argument):
        if path not in known:
            close = ", ".join(sorted(name for name in modules if name)[:10])
            raise InputError(
                f"{argument}: the model has no module {path!r}; it has {close}, ..."
                f"{near(path, known)}"
            )
        yield path


def _check_prunable(model: nn.Module, analysis: Analysis) -> None:
    if analysis.free_groups or analysis.branches:
        return
    reasons = "\n".join(f"  {g.name} ({g.size}): {g.pin}" for g in analysis.groups[:10])
    raise NothingToPruneError(
        f"nothing in {type(model).__name__} can be pruned; what was found:\n"
        f"{reasons or '  no layer with channels'}"
    )


def _described(value: Any) -> Any:
    """An example input without its data."""
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
