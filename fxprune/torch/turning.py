"""What do the positions of ranks return on data? Pairs turned so that the last ones matter least.

Every pair computes the same as before: only which positions it has between its layers changes.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.arguments import batches
from fxprune.errors import InputError
from fxprune.matrices import Factors, portions, turned
from fxprune.passes.factorisation import FORMS
from fxprune.stages import track
from fxprune.torch.batches import arguments_of, running_on
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.pairs import Pair, layer_of, pairs_of, rank_of
from fxprune.torch.splitting import factors_in, set_factors


def turn(model: nn.Module, data: Iterable[Any]) -> dict[str, np.ndarray]:
    """Turn all pairs of a model, in place, by what they return on data; energies by path.

    A pair that data does not reach stays as it is, and has none.

    Raises:
        InputError: there is no data, or the model does not run on it.
    """
    energies: dict[str, np.ndarray] = {}
    pairs = pairs_of(model)
    sizes = {path: 8 * _matrices(pair) * rank_of(pair) ** 2 for path, pair in pairs.items()}
    for names in portions(sizes):
        some = {path: pairs[path] for path in names}
        for path, moments in _observed(model, some, data).items():
            if not np.isfinite(moments).all():
                raise InputError(f"{path} returns NaN or infinite values on data")
            found = turned(Factors(*factors_in(some[path]), np.zeros(0)), moments)
            set_factors(some[path], found, some[path].first.weight)
            energies[path] = found.energies
    return energies


def _matrices(pair: Pair) -> int:
    return FORMS[pair.form].matrices(layer_of(pair))


def _observed(
    model: nn.Module, pairs: Mapping[str, Pair], data: Iterable[Any]
) -> dict[str, np.ndarray]:
    """Mean products of what first layers return, of shape (matrices, rank, rank)."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(pairs, 0)

    def watch(path: str, pair: Pair) -> Any:
        layer = layer_of(pair)
        shape = (_matrices(pair), rank_of(pair), -1)

        def see(module: nn.Module, given: Any, result: Tensor) -> None:
            rows = _wide(result.movedim(-1 - len(layer.kernel), 0).reshape(shape))
            counts[path] += rows.shape[-1]
            sums[path] = sums.get(path, 0.0) + (rows @ rows.transpose(1, 2)).double()

        return see

    taken = _taken(model)
    seen = 0
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(in_evaluation(model))
        for path, pair in pairs.items():
            handle = pair.first.register_forward_hook(watch(path, pair))
            stack.callback(handle.remove)
        for number, batch in enumerate(track(batches("data", data), "looking at data")):
            args, kwargs = arguments_of(batch, taken)
            with running_on(f"batch {number} of data"):
                model(*args, **kwargs)
            seen += 1
    if not seen:
        raise InputError("data has no batch: some hundred samples are enough")
    return {path: (total / counts[path]).cpu().numpy() for path, total in sums.items()}


def _wide(array: Tensor) -> Tensor:
    """Numbers of at least 32 bits: sums of products would not be exact enough in fewer."""
    return array.float() if array.element_size() < 4 else array


def _taken(model: nn.Module) -> int:
    """How many inputs a model must be given."""
    parameters = signature(model.forward).parameters.values()
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in kinds and p.default is Parameter.empty for p in parameters))
