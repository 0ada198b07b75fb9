"""Pruning without training, in one call."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import nn

from fxprune.arguments import flag
from fxprune.clocks import Clock, clock_for
from fxprune.criteria import Method, name_of
from fxprune.errors import InputError
from fxprune.mixing import forms_named
from fxprune.targets import Least, Limits, Target, times_in, with_whole_time
from fxprune.torch.backend.module import become
from fxprune.torch.batches import repeatable
from fxprune.torch.checks import Model
from fxprune.torch.criteria import Loss, check_method, importance
from fxprune.torch.fold import fold
from fxprune.torch.gating import ungated_on_failure
from fxprune.torch.guard import check_least_score, guarded_score, reach_score
from fxprune.torch.keep_sets import reach_target
from fxprune.torch.mixture import mixed
from fxprune.torch.prepare import check_copied, prepare
from fxprune.torch.reach_latency import reach_times
from fxprune.torch.record import attach, gated_record, traced_part
from fxprune.torch.refit import refit
from fxprune.torch.wrapping import check_module
from fxprune.uniform import Uniform


def prune(
    model: Model,
    example_inputs: Any = None,
    *,
    target: Target = 0.5,
    method: Method = "group_norm",
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    correct: bool = False,
    round_to: int = 1,
    least: Least = 0.0,
    ignore: Iterable[str | nn.Module] = (),
    leaf: Iterable[str | nn.Module] = (),
    scope: str = "",
    scatter: bool = False,
    in_kind: bool = True,
    uniform: Uniform = False,
    factorise: str | Iterable[str] = (),
    clock: Clock | None = None,
    score: Any = None,
    least_score: float | None = None,
    copy: bool = True,
) -> Model:
    """A smaller model at once, without training; it can be trained further or prepared again.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> fxprune.prune(model, torch.randn(1, 3, 8, 8), target=0.5, method="magnitude").get_submodule(
    ...     "0"
    ... )
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))

    Args:
        model: as for `prepare`, like the arguments that are not named here.
        method: how positions are ranked, by name or by a function of your own, see `importance`.
        data: batches, for criteria that look at some and for `correct`.
        loss: for "taylor", see `importance`.
        correct: whether to solve the weights behind closed positions anew on `data`, see `refit`.
        factorise: forms that layers may have as two ("low_rank", "separable", "spatial", see
            `fxprune.factorise`). Then every layer loses channels, or a part of its rank, or
            neither, whichever loses least of the energy of what layers return (Zhang et al. 2015),
            on `data` if there is some; `method` is not asked. Costs are shares of the model as it
            is, and targets are met by what comes out.
        clock: by what targets on "latency" and "latency_ms" of the model are measured, see
            `Clock`; torch with one thread and one sample, if missing. What is predicted, as for
            `prepare`, is corrected until it holds, see `reach_latency`. With `factorise` and with
            `least_score` it stays a prediction, and so do those inside of modules.
        score: what the smaller model must keep, one of those that `search` takes, for instance
            `fxprune.scores.accuracy(loader)`. The smallest model that does, and that is not smaller
            than `target`, is then found by bisection, every step measured.
        least_score: the worst score to accept; of what is to be small, such as a loss, the largest.
        copy: whether `model` stays as it is. With False it becomes the smaller model itself, which
            takes about the memory that it has (with `factorise` that of copies): see `fold` with
            `consume`. What fails before its
            weights are sliced leaves it as it was, but for weights that `correct` has solved.

    Returns:
        What `fold` returns; with `copy=False` that is `model`.

    Raises:
        InputError: an argument does not fit; TargetError, TraceError and NothingToPruneError as
            `prepare` does.
    """
    check_method(method, data, loss)
    if flag("correct", correct) and data is None:
        raise InputError("correct=True needs data: some hundred samples")
    worst = check_least_score(least_score, score)
    data = None if data is None else repeatable(data)
    forms = forms_named(factorise)
    if not flag("copy", copy):
        check_module("model", model)
        check_copied(model, copy)
    in_copy = copy or bool(forms)  # pairs have weights of their own

    def gates(model: nn.Module, target: Target) -> Any:
        return prepare(
            model,
            example_inputs,
            target=target,
            round_to=round_to,
            least=least,
            ignore=ignore,
            leaf=leaf,
            scope=scope,
            scatter=scatter,
            in_kind=in_kind,
            uniform=uniform,
            copy=in_copy,
        )

    times = times_in(Limits(target).target)
    instead = "factorise" if forms else "" if worst is None else "least_score"
    measuring = clock_for(times, clock, instead)
    if forms and worst is not None:
        raise InputError("factorise= and least_score= do not go together: factorise first")
    with nullcontext() if in_copy else ungated_on_failure(model):
        if forms:
            gated: Any = mixed(model, target, forms, gates, data, scope)
        else:
            gated = gates(model, with_whole_time(target) if measuring else target)
            found = importance(gated, method, data, loss)
            part = traced_part(gated)[1]
            attach(part, replace(gated_record(gated)[1], method=name_of(method)))
            if measuring:
                reach_times(gated, found, times, measuring)
            elif worst is None:
                reach_target(gated, found)
            else:
                wanted = guarded_score(score, gated, data)
                reach_score(gated, found, wanted, worst, data if correct else None)
        if correct and data is not None:
            refit(gated, data)
        folded: Any = fold(gated, consume=not in_copy)
    if copy or not forms:
        return folded  # type: ignore[no-any-return]
    become(model, folded)
    return model
