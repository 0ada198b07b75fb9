"""What the coverage command does with a model, by tool.

fxprune: random weights and statistics, prepare, close a random half of every group, fold.
    ok      with everything open it computes what the original computes (to 1e-5 in float32,
            because some originals choose fused kernels of their own in evaluation); in float64
            gated equals folded to 1e-10, and in float32 its own code to 1e-3 (or to four times
            torch's own error in float32 where that is larger); where asked, ONNX Runtime agrees
            with the folded model to 1e-4 (or to as much)
    wrong   any of these does not hold
    failed  an error instead of a result
fxprune-ranks: the same of the model with every layer as two that can be, in its forms in turn.
    ok      also, in float64 to 1e-10, all pairs open compute what the model computes, and merging
            what is folded changes nothing
The other tools: prune half of the channels of what they find, then run the model.
    ok      it runs, its outputs have the shapes they had, and parameters fell by a tenth or more;
            that it still computes what the masked model computes is not checked
    wrong   it runs, but its outputs changed shape or are not finite
    failed  an error, or next to nothing was removed
"""

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from fxprune.passes.factorisation import FORMS
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.exported import compare_onnx
from fxprune.torch.factorise import as_pairs, can_be
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.measuring import costs_of
from fxprune.torch.precision import in_precision, relative_error
from tests.torch.models import half_of, randomise

Build = Callable[[], tuple[nn.Module, tuple[Any, ...]]]
"""Makes a model and example inputs for it."""

EXACT, ROUNDING, OWN = 1e-10, 1e-5, 1e-3


def with_fxprune(build: Build, onnx: bool) -> dict[str, Any]:
    """prepare, half a keep-set, fold; `seconds` are those of prepare and fold alone."""
    model, inputs = build()
    with torch.no_grad():
        randomise(model.eval())
    return _halved(model, inputs, onnx)[0]


def with_ranks(build: Build, onnx: bool) -> dict[str, Any]:
    """Layers as two, then as any other model, and merged."""
    model, inputs = build()
    with torch.no_grad():
        randomise(model.eval())
    able = {name: can_be(model, form) for name, form in FORMS.items()}
    paths = dict.fromkeys(path for own in able.values() for path in own)
    forms = {}
    for number, path in enumerate(paths):
        known = [name for name, own in able.items() if path in own]
        forms[path] = known[number % len(known)]
    exact = in_precision(model, torch.float64)
    pairs_error = _distance(exact, as_pairs(exact, forms)[0], inputs)
    row, folded = _halved(as_pairs(model, forms)[0], inputs, onnx)
    exact = in_precision(folded, torch.float64)
    merged_error = _distance(exact, fxprune.merge(exact), inputs)
    row.update(pairs=len(forms), pairs_error=pairs_error, merged_error=merged_error)
    if max(pairs_error, merged_error) > EXACT:
        row.update(outcome="wrong", reason="pairs or what is merged of them compute something else")
    return row


def _distance(left: nn.Module, right: nn.Module, inputs: tuple[Any, ...]) -> float:
    """How far two models in float64 are from each other."""
    with torch.no_grad():
        return relative_error(*(module(*_doubles(inputs)) for module in (left, right)))


def _doubles(inputs: tuple[Any, ...]) -> list[Any]:
    return [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


def _halved(
    model: nn.Module, inputs: tuple[Any, ...], onnx: bool
) -> tuple[dict[str, Any], nn.Module]:
    """What becomes of a model with a random half of every group, and the folded one."""
    start = time.perf_counter()
    gated = fxprune.prepare(model, inputs, target=1.0)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        open_error = relative_error(model(*inputs), gated(*inputs))
    groups = fxprune.groups(gated)
    fxprune.set_keep_set(gated, _half(groups))
    start = time.perf_counter()
    folded = fxprune.fold(gated)
    seconds += time.perf_counter() - start
    error, rounding = _exactness(gated, folded, inputs)
    with torch.no_grad():
        own_error = relative_error(gated(*inputs), folded.eval()(*inputs))
    own = own_error <= max(OWN, 4 * rounding)
    exact = open_error <= ROUNDING and error <= EXACT and own
    row: dict[str, Any] = {
        "outcome": "ok" if exact else "wrong",
        "open_error": open_error,
        "error": error,
        "own_error": own_error,
        "rounding": rounding,
        "code": _code(model, folded),
        "seconds": seconds,
        "groups": sum(g.kind != "branch" and not g.pin for g in groups),
        "branches": sum(g.kind == "branch" for g in groups),
        "pins": [f"{g.name} ({g.size}): {g.pin}" for g in groups if g.pin],
        **_shares(gated, folded, model),
    }
    if open_error > ROUNDING:
        row["reason"] = "with everything open it does not compute what the model computes"
    if onnx:
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = fxprune.export_onnx(folded, Path(folder) / "model.onnx")
            except fxprune.FxpruneError as failure:
                row["reason"] = f"not exported: {' '.join(str(failure).split())[:300]}"
                return row, folded
            try:
                row["onnx_error"] = max(
                    c.error for c in compare_onnx(folded, path, [inputs]).comparisons
                )
            except fxprune.VerificationError as failure:
                row.update(outcome="wrong", reason=str(failure)[:300])
    return row, folded


def _code(model: nn.Module, folded: nn.Module) -> str:
    """Whose code runs: all its own, generated in some modules (of how many), or a graph."""
    if not isinstance(folded, type(model)):
        return "graph"
    generated = generated_code(folded)
    return f"generated in {', '.join(generated)}" if generated else "own"


def _half(groups: list[fxprune.GroupInfo]) -> dict[str, Tensor]:
    """A random half of every free group; branches stay."""
    generator = torch.Generator().manual_seed(0)
    sizes = {g.name: g.size for g in groups}
    return {
        g.name: torch.randperm(g.size, generator=generator) < half_of(g, sizes)
        for g in groups
        if g.kind != "branch" and not g.pin
    }


def _exactness(gated: nn.Module, folded: nn.Module, inputs: tuple[Any, ...]) -> tuple[float, float]:
    """How far folded is from gated in float64, and gated in float32 from itself in float64."""
    exact = [in_precision(module, torch.float64) for module in (gated, folded)]
    with torch.no_grad():
        expected, got = (module(*_doubles(inputs)) for module in exact)
        single = tensors_in(gated(*inputs))
        pairs = zip(tensors_in(expected), single, strict=True)
        rounding = relative_error([exact.to(own.dtype) for exact, own in pairs], single)
        return relative_error(expected, got), rounding


def _shares(gated: nn.Module, folded: nn.Module, model: nn.Module) -> dict[str, float]:
    """Shares of the original: parameters of which an axis is free, parameters and MACs kept."""
    from fxprune.passes.axes import spaces
    from fxprune.torch.record import record_of

    record = record_of(gated)
    assert record is not None
    types = record.analysis.types
    free = {g.space for g in record.analysis.free_groups}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    total = sum(sizes.values())
    prunable = sum(
        size
        for name, size in sizes.items()
        if any(space in free for axis in types.axes.get(name, ()) for space in spaces(axis))
    )
    after = costs_of(folded)
    full = record.analysis.costs.at(record.analysis.costs.full)
    return {
        "free": prunable / total,
        "params": sum(p.numel() for p in folded.parameters()) / total,
        "macs": after["macs"] / full["macs"] if full["macs"] else 1.0,
    }


def with_torch_pruning(build: Build, onnx: bool) -> dict[str, Any]:
    """The magnitude pruner at a ratio of one half, the last layer left alone."""
    import torch_pruning as tp

    model, inputs = build()
    model.eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    def prune() -> nn.Module:
        tp.pruner.MagnitudePruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=layers[-1:],
        ).step()
        return model

    return _peer(model, inputs, prune)


def with_torch_kirigami(build: Build, onnx: bool) -> dict[str, Any]:
    """Group magnitude down to half of the parameters."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Greedy, GroupMagnitude, ParameterBudget, Pruner

    model, inputs = build()
    model.eval()

    def prune() -> nn.Module:
        pruner = Pruner(model, graph=DependencyGraph.build(model, args=inputs))
        total = sum(p.numel() for p in model.parameters())
        pruned, _ = pruner.prune(
            pruner.discover_candidates(),
            budget=ParameterBudget(max_params=total // 2),
            strategy=Greedy(GroupMagnitude(p=2)),
        )
        return pruned

    return _peer(model, inputs, prune)


def _peer(
    model: nn.Module, inputs: tuple[Any, ...], prune: Callable[[], nn.Module]
) -> dict[str, Any]:
    before = sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        expected = tensors_in(copy.deepcopy(model)(*inputs))
    start = time.perf_counter()
    pruned = prune()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        got = tensors_in(pruned(*inputs))
    share = sum(p.numel() for p in pruned.parameters()) / before
    row: dict[str, Any] = {"outcome": "ok", "seconds": seconds, "params": share}
    if [x.shape for x in expected] != [x.shape for x in got]:
        row.update(outcome="wrong", reason="outputs changed shape")
    elif not all(bool(torch.isfinite(x).all()) for x in got if x.is_floating_point()):
        row.update(outcome="wrong", reason="outputs are not finite")
    elif share > 0.9:
        row.update(outcome="failed", reason=f"{share:.2f} of the parameters are left")
    return row


TOOLS: Mapping[str, Callable[[Build, bool], dict[str, Any]]] = MappingProxyType(
    {
        "fxprune": with_fxprune,
        "fxprune-ranks": with_ranks,
        "torch-pruning": with_torch_pruning,
        "torch-kirigami": with_torch_kirigami,
    }
)
"""The tools, by the name of their distribution."""
