"""What does a model cost that is never made? It is recorded on the meta device, without weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fxprune.arguments import shown
from fxprune.errors import FxpruneError, InputError
from fxprune.garbage import collected_later
from fxprune.passes.cost import cost_polynomials
from fxprune.passes.infer import infer
from fxprune.torch.frontend.examples import check_examples
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.program import read_model

Builder = Callable[..., Any]
"""From a configuration to a model, or to a pair of a model and its example inputs."""


@collected_later()
def recorded_costs(builder: Builder, config: Mapping[str, Any]) -> dict[str, float]:
    """The exact costs of what a builder makes of a configuration.

    Raises:
        InputError: the builder fails, or returns no module.
    """
    with torch.device("meta"):
        model, examples = built(builder, config)
    with in_evaluation(model):
        program = read_model(model, check_examples(model, examples), use=Use.LOOK, both=False)
    graph = program.ir
    costs = cost_polynomials(graph, infer(graph), (), ())
    return {name: int(value) for name, value in costs.at(costs.full).items()}


def built(builder: Builder, config: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """What a builder makes, and example inputs if it gives some.

    Raises:
        InputError: it fails, or returns something else.
    """
    try:
        made = builder(**config)
    except FxpruneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the builder fails on {shown(dict(config))}: {reason}") from error
    model, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the builder must return a module, or a pair of a module and its example inputs, got "
            f"{shown(made)}"
        )
    return model, examples
