"""How gates hear of optimizer steps: two global hooks on every optimizer, and who is alive to hear.

before a step   gates take the gradients that reached them; where the optimizer has a closure, those
                that it makes
after a step    the method advances its schedule and chooses what is open; then come the gates'
                followers, in their order (shrinking). A step that should have taught something
                and has not is noted instead: the schedule waits

A step that a GradScaler skips is none. No table of this module says what gates do: all of it is in
the gates, so it is copied and pickled with them.
"""

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fxprune.torch.gates.method import Method, Norms
from fxprune.torch.gates.waiting import Taught, Waiting


class Listener(Taught, Protocol):
    """What hears of steps: gates, by the optimizer that holds the scores of their method."""

    method: Method
    norms: Norms
    waiting: Waiting
    followers: "tuple[Callable[[Any, Optimizer], None], ...]"


live: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""All gates there are."""


def held_by(optimizer: Optimizer) -> list[Listener]:
    """The gates whose parameters an optimizer trains."""
    if not live:
        return []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [gates for gates in live if id(gates.method.scores) in held]


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Hand over the gradients: those at hand, or those that the optimizer's closure will make."""
    held = held_by(optimizer)
    if not held:
        return None
    if len(args) > 1 and args[1] is not None:
        return (optimizer, _telling(held, args[1]), *args[2:]), kwargs
    if kwargs.get("closure") is not None:
        return args, {**kwargs, "closure": _telling(held, kwargs["closure"])}
    for gates in held:
        gates.method.before_step(getattr(optimizer, "grad_scale", None), _is_skipped(optimizer))
    return None


def _telling(held: list[Listener], closure: Callable[[], Any]) -> Callable[[], Any]:
    """`closure`, whose gradients the gates take: where it is called repeatedly, the first ones."""
    again = False

    def told() -> Any:
        nonlocal again
        loss = closure()
        for gates in held:
            gates.method.before_step(skipped=again)
        again = True
        return loss

    return told


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if not live or _is_skipped(optimizer):
        return
    held = held_by(optimizer)
    for gates in [each for each in live if each not in held]:
        gates.waiting.passed_by(gates, optimizer)
    for gates in held:
        if not gates.method.after_step(gates.norms):
            gates.waiting.saw_nothing(gates, optimizer)
            continue
        for follower in gates.followers:
            follower(gates, optimizer)


def _is_skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer will do nothing, because a GradScaler has found infinite values."""
    return bool(getattr(optimizer, "found_inf", None))


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
