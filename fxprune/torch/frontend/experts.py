"""How are experts recorded that loop over themselves? As the products that do the same at once.

transformers writes what the experts of a layer do in several ways, of which a configuration chooses
one (`experts_implementation`). The loop asks which experts are hit, which no trace can know, so it
is recorded as the product of runs of rows with a stack of matrices, in the form for any type of
data and any width. What runs afterwards is the loop, which has to agree on numbers.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from fxprune.torch.frontend.recorder import Recorder
from fxprune.torch.frontend.stand_ins import StandIn, StandIns

_HOME = "transformers.integrations.moe"
_LOOPS = ("eager", None)
"""The names of the implementation that is a loop in the code of the experts themselves."""


def experts_at_once(recorder: Recorder) -> Iterator[StandIn]:
    """Let a loop over experts be recorded as all of them at once."""
    home = sys.modules.get(_HOME)
    if home is None:
        return
    original = home.ExpertsInterface.get_interface
    of_any_type = StandIns([StandIn(vars(home), "_can_use_grouped_mm", lambda *given: False)])

    def at_once(experts: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.graph.replaced = True
        with of_any_type.in_place():
            return home.grouped_mm_experts_forward(experts, *args, **kwargs)

    def choose(self: Any, implementation: str | None, default: Callable[..., Any]) -> Any:
        if implementation in _LOOPS and not recorder.paused:
            return at_once
        return original(self, implementation, default)

    yield StandIn(home.ExpertsInterface, "get_interface", choose)
