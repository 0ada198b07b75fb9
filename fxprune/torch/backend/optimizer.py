"""An optimizer that goes on after a fold: its state sliced like the parameters it belongs to."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fxprune.errors import InputError
from fxprune.passes.fold import Slice
from fxprune.torch.backend.fold import by_parameter, sliced

_KINDS = (SGD, Adam, AdamW)


def fold_optimizer(
    optimizer: Optimizer, gated: nn.Module, folded: nn.Module, slices: Iterable[Slice]
) -> Optimizer:
    """An optimizer over the parameters of `folded` with the state of a checked `optimizer`.

    State of the shape of its parameter is sliced; the rest (step counts) is copied. Parameters
    that the fold removed, and gates, are left out. `optimizer` stays as it is.
    """
    check_optimizer(optimizer, gated)
    names_of = {id(p): name for name, p in gated.named_parameters()}
    new = dict(folded.named_parameters())
    groups: list[dict[str, Any]] = []
    pairs: list[tuple[Tensor, str]] = []
    for group in optimizer.param_groups:
        kept = [(p, names_of[id(p)]) for p in group["params"] if names_of[id(p)] in new]
        pairs.extend(kept)
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({**settings, "params": [new[name] for _, name in kept]})
    groups = [group for group in groups if group["params"]]
    result = type(optimizer)(groups)  # type: ignore[call-arg]
    by_name = by_parameter(slices)
    for old, name in pairs:
        if old in optimizer.state:
            state = optimizer.state[old]
            result.state[new[name]] = folded_state(state, old, by_name.get(name, []))
    return result


def check_optimizer(optimizer: Any, gated: nn.Module) -> None:
    """Raise InputError unless an optimizer can be folded along with a gated module."""
    if type(optimizer) not in _KINDS:
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise InputError(
            f"optimizer: cannot fold the state of {type(optimizer).__name__}; known are {names}"
        )
    own = {id(p) for p in gated.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if foreign := [p for p in held if id(p) not in own]:
        raise InputError(
            f"the optimizer holds a parameter of shape {tuple(foreign[0].shape)} that the "
            "gated module does not have: build it from gated.parameters()"
        )


def folded_state(state: Mapping[str, Any], old: Tensor, slices: list[Slice]) -> dict[str, Any]:
    """The state of a parameter: what has its shape is sliced as it is, the rest copied."""
    return {key: _folded_entry(value, old, slices) for key, value in state.items()}


def _folded_entry(value: Any, old: Tensor, slices: list[Slice]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape == old.shape and value.dim():
        return sliced(value, slices).clone()
    return value.clone()
