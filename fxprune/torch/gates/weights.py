"""What do the weights of a model say of its positions?"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.layout import Layout
from fxprune.passes.analyse import Analysis
from fxprune.ranking import Part, Scores, WeightOf, group_norm, ranks
from fxprune.torch.gates.method import full_tensor


def weight_of(model: nn.Module) -> WeightOf:
    """What gives parts of a parameter of a model; one that is sharded is gathered."""

    def of(name: str) -> Callable[[Part], np.ndarray]:
        tensor = full_tensor(_parameter(model, name).detach())
        return lambda part: tensor[part].cpu().double().numpy()

    return of


def norms(analysis: Analysis, layout: Layout, model: nn.Module) -> Tensor | None:
    """Ranks of all positions by group norm; None where a wrapper keeps weights in its own form."""
    if not layout.groups or not _holds_all(model, analysis):
        return None
    found = group_norm(analysis, weight_of(model))
    if not found:
        return None
    return torch.from_numpy(ranks(analysis, layout, Scores(found), "group_norm", lambda: found))


def _holds_all(model: nn.Module, analysis: Analysis) -> bool:
    """Whether a model has the parameters that were recorded of it, in their shapes."""
    wanted = {value.name: value.shape for value in analysis.graph.parameters if value.trained}
    try:
        return all(_parameter(model, name).shape == shape for name, shape in wanted.items())
    except AttributeError:
        return False


def _parameter(model: nn.Module, name: str) -> Tensor:
    path, _, own = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), own)
    return tensor
