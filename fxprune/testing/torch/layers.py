"""In which layer do two models begin to differ? Asked once their outputs are known to."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.record import record_of
from fxprune.torch.verify import first_difference

Agree = Callable[[Tensor, Tensor], bool]


def first_differing_layer(
    before: nn.Module, after: nn.Module, inputs: Sequence[Any], agree: Agree, relative: float
) -> str:
    """The first common layer from which on no common layer agrees, as a sentence.

    A layer that differs alone is one that the rewrite meant to change: a convolution that a batch
    norm was folded into is followed by layers that agree again.
    """
    if record_of(before) is not None and record_of(after) is not None:
        return first_difference(before, after, tuple(copy.deepcopy(tuple(inputs))), relative)
    values, others = (_values(model, inputs) for model in (before, after))
    common = [name for name in values if name in others]
    guilty = ""
    for name in reversed(common):
        expected, got = values[name][1], others[name][1]
        if expected.shape == got.shape and agree(expected, got):
            break
        guilty = name
    if not guilty:
        return "the last common layer agrees" if common else "the models have no layer in common"
    return f"first differing layer: {guilty} ({values[guilty][0]})"


def _values(model: nn.Module, inputs: Sequence[Any]) -> dict[str, tuple[str, Tensor]]:
    """The first array of every call of every submodule, with what made it."""
    model = copy.deepcopy(model)
    values: dict[str, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        if not name:
            continue

        def keep(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
            found = tensors_in(result)
            if found:
                calls = sum(key == name or key.startswith(f"{name} call ") for key in values)
                key = name if not calls else f"{name} call {calls + 1}"
                values[key] = (type(module).__name__, found[0].detach().clone())

        module.register_forward_hook(keep)
    try:
        model(*copy.deepcopy(tuple(inputs)))
    except Exception as error:
        del error  # what ran before the failure is what we want
    return values
