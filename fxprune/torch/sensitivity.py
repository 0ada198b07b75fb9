"""How much does a score hang on each group? Every group is cut alone, and the score measured."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from fxprune.arguments import listed, number
from fxprune.errors import InputError
from fxprune.searching.scores import measured
from fxprune.searching.spaces import Dimension
from fxprune.sensitivities import Cut, Sensitivity
from fxprune.stages import track
from fxprune.torch.keep_set_space import keep_set_space
from fxprune.torch.record import gated_record
from fxprune.torch.wrapping import check_module


def sensitivity(
    gated: nn.Module,
    score: Any,
    *,
    shares: Iterable[float] = (0.75, 0.5, 0.25),
    data: Iterable[Any] | None = None,
    importance: Mapping[str, Any] | None = None,
) -> Sensitivity:
    """What a score loses where one group alone keeps only a share of its positions.

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    ... )
    >>> gated = fxprune.prepare(model, torch.randn(1, 3, 8, 8))
    >>> print(fxprune.sensitivity(gated, "params", shares=[0.5]))
    params 1028 with everything open
         group  share  kept  size  params  lost
    0: channel    0.5     8    16     516   512

    Each measurement begins with everything open, whatever is open now; the model stays as it is.

    Args:
        gated: what `prepare` returned.
        score: what is measured, one of those that `search` takes.
        shares: how much of its positions a group keeps, in (0, 1); a whole number of units, at
            least the least. Groups that are tied are cut together, branches are closed whole.
        data: batches, for scores that are names.
        importance: which positions stay, as for `search`.

    Returns:
        A table and figures: print it, or give it to `write_report` and `write_figures`.

    Raises:
        InputError: an argument does not fit, or the score fails.
    """
    check_module("gated", gated)
    wanted = "shares to keep, such as (0.75, 0.5)"
    asked = tuple(
        number("shares", share, lambda x: 0 < x < 1, f"{wanted}, each above 0 and below 1")
        for share in listed("shares", shares, wanted)
    )
    if not asked:
        raise InputError(f"shares is empty: give {wanted}")
    space, scores, candidate = keep_set_space(gated, score, None, importance, data, bounded=False)
    if len(scores) > 1:
        raise InputError("score: sensitivity measures one score at a time")
    (wanted_score,) = scores
    labels = {item.name: item.label for item in gated_record(gated)[1].analysis.items}
    whole = tuple(each.last for each in space.dimensions)
    full = measured(wanted_score, candidate(space.point(whole)))
    cuts = []
    for place, each in enumerate(track(space.dimensions, "cutting one group after the other")):
        chosen = {_pick(each, share): share for share in sorted(asked)}
        chosen.pop(each.last, None)
        picks = sorted(chosen, reverse=True)
        points = [space.point((*whole[:place], pick, *whole[place + 1 :])) for pick in picks]
        cut = Cut(
            each.name,
            labels.get(each.name, ""),
            each.values[-1],
            tuple(0.0 if not each.values[pick] else chosen[pick] for pick in picks),
            tuple(each.values[pick] for pick in picks),
            tuple(measured(wanted_score, candidate(point)) for point in points),
        )
        cuts.append(cut)
    return Sensitivity(wanted_score.objective, full, tuple(cut for cut in cuts if cut.kept))


def _pick(dimension: Dimension, share: float) -> int:
    """The pick next to a share; a branch is closed."""
    if dimension.values == (0, 1):
        return 0
    wanted = share * dimension.values[-1]
    return min(range(len(dimension.values)), key=lambda pick: abs(dimension.values[pick] - wanted))
