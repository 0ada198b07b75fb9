"""Gates that look at each sample, and learn to agree.

While they learn, a small network decides for every sample which positions it needs, by the pooled
input of the layer. A polarisation term makes the decisions of all samples the same; an activation
term closes gates while the cost is above the budget. What the samples agree on, as far as the
budget allows, is the keep-set; when the budget has come down to the target, a consensus term makes
all decisions those of the keep-set.

    L_activation = sum_i w_i g_i          while the cost of the mean decisions exceeds the budget
    L_polarisation = sum_i w_i g_i (1 - g_i)
    L_consensus = mean_i |g_i - k_i|      with a weight that grows from zero in the last two fifths

for g_i the mean decision on position i over a batch, w_i the share of position i in the cost, and
k_i whether the keep-set has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.arguments import number, whole
from fxprune.errors import InputError
from fxprune.passes.condition import Condition
from fxprune.torch.budget.budget import Budget
from fxprune.torch.gates.method import (
    NO_GRADIENT,
    NOT_FINITE,
    Adam,
    Method,
    Norms,
    cubic,
    full_tensor,
    is_distributed,
    logit,
    rate,
    weight,
)

_MEMORY = 0.95
"""How much of the running mean decision stays in one step."""

_SETTLING_START = 0.6
"""The share of the steps after which the budget is at the target, and samples must agree."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """Input-conditioned binary gates with polarisation (after Zhi et al., arXiv 2302.10798).

    The paper's gate architecture and weights are not public; these are our choice. Gates of a
    residual stream, of heads and of whatever is not made by one layer and read by others have one
    logit that does not depend on the sample. After the last step the gates are the keep-set.

    Args:
        activation_weight: of the term that closes gates.
        polarisation_weight: of the term that makes samples agree. It must be below
            `activation_weight`, or gates that start open could never close: the slope of both
            terms at g = 1 is w (activation_weight - polarisation_weight).
        consensus_weight: of the term that brings all samples to the keep-set, in the last step.
        lr: the learning rate of the gates' own Adam.
        hidden: the width of the gate networks.
        opening: the probability of being open that every gate starts with, above 0.5.

    Raises:
        InputError: a weight is out of range.
    """

    branches: ClassVar[bool] = True

    activation_weight: float = 2.0
    polarisation_weight: float = 1.0
    consensus_weight: float = 1000.0
    lr: float = 0.02
    hidden: int = 8
    opening: float = 0.7

    def __post_init__(self) -> None:
        for name in ("activation_weight", "polarisation_weight", "consensus_weight"):
            weight(name, getattr(self, name))
        rate(self.lr)
        whole("hidden", self.hidden, "the width of the gate networks, at least 1")
        opening = "a probability above 0.5, below 1"
        number("opening", self.opening, lambda x: 0.5 < x < 1, opening)
        if not self.polarisation_weight < self.activation_weight:
            raise InputError(
                f"polarisation_weight is {self.polarisation_weight}, activation_weight "
                f"{self.activation_weight}: the first must be smaller and not negative, or gates "
                "that are open could never close"
            )

    def build(
        self, budget: Budget, steps: int, conditions: tuple[Condition, ...] = ()
    ) -> "ConsensusGates":
        """The gates of a model."""
        return ConsensusGates(budget, steps, self, conditions)


class _Decider(nn.Module):
    """Logits of a gate by pooled features."""

    def __init__(self, width: int, hidden: int, positions: int, start: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, positions)
        nn.init.normal_(self.outer.weight, std=0.01)
        nn.init.constant_(self.outer.bias, start)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.outer(F.relu(self.inner(features)))
        return logits


class ConsensusGates(Method):
    """The state of the method `Consensus`.

    `agreement` is the running mean decision on every position, `probability` that of its
    probability, which decides among positions that all samples keep.
    """

    settings: Consensus
    logits: Tensor
    agreement: Tensor
    probability: Tensor
    gap: Tensor

    def __init__(
        self, budget: Budget, steps: int, settings: Consensus, conditions: tuple[Condition, ...]
    ) -> None:
        super().__init__(budget, steps, settings)
        layout, start = budget.layout, logit(settings.opening)
        sizes = dict(zip(layout.names, layout.sizes, strict=True))
        self.conditions = conditions
        self._order = [condition.name for condition in conditions]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.deciders = nn.ModuleList(
                _Decider(c.width, settings.hidden, sizes[c.name], start) for c in conditions
            )
        self.register_buffer("logits", torch.full((layout.total,), start))
        self.register_buffer("agreement", torch.ones(layout.total))
        self.register_buffer("probability", torch.full((layout.total,), settings.opening))
        self.register_buffer("gap", torch.zeros(()))
        self.adam = Adam(sum(tensor.numel() for tensor in self._learned()), settings.lr)
        self._features: dict[str, Tensor] = {}

    def gates(self) -> Tensor:
        """Those that do not depend on the sample, and the keep-set when all is decided."""
        if not self.learning:
            return self.is_open.detach()
        return _binary(self.logits + (self.scores - self.scores.detach()))

    def decide(self, name: str, features: Tensor) -> Tensor:
        """Decisions of shape (samples, positions), with the gradient of their probabilities.

        None reaches the features: the gate networks learn from them, the model not for them.
        """
        with torch.autocast(features.device.type, enabled=False):
            self._features[name] = features = features.detach().to(self.logits.dtype)
            return _binary(self.deciders[self._order.index(name)](features))

    def figures(self) -> dict[str, float]:
        """The largest share of samples that a majority overrules: of late, or at the end."""
        return {"consensus_gap": float(self.gap)}

    def rank(self) -> Tensor:
        """What the samples agree on first, then the probabilities; settled choices stay."""
        chosen = self.is_open if self.settled() else torch.zeros_like(self.is_open)
        return 2 * chosen + self.agreement + 0.01 * self.probability

    def share(self) -> float:
        """Fast first, slow at the end, and there before the samples settle."""
        return cubic(int(self.steps_done), max(int(_SETTLING_START * self.steps), 1))

    def settled(self) -> float:
        """How much is done of the steps in which the samples settle on the keep-set."""
        return max(0.0, int(self.steps_done) / self.steps - _SETTLING_START) / (1 - _SETTLING_START)

    def before_step(self, scale: Tensor | None = None, skipped: bool = False) -> None:
        """Add the gradients of all terms, and let Adam move the gates."""
        taken = [parameter.grad for parameter in (self.scores, *self.deciders.parameters())]
        for parameter in self.parameters():
            parameter.grad = None
        if not skipped:
            self.lack = self._take_all(taken, scale) if self.learning else ""

    def _take_all(self, taken: list[Tensor | None], scale: Tensor | None) -> str:
        """Learn from the gradients of the logits and the gate networks; what is missing if not."""
        if all(gradient is None for gradient in taken):
            return NO_GRADIENT
        learned = self._learned()
        if any(hasattr(tensor, "full_tensor") for tensor in learned):
            raise InputError(
                "gates of the method consensus do not learn in a sharded model: train it with "
                "DistributedDataParallel, or choose another method"
            )
        scores = torch.zeros_like(self.logits, requires_grad=True)
        with torch.enable_grad():
            decisions, probabilities = self._means(self.logits + scores)
            added = torch.autograd.grad(
                self.penalty(decisions), [scores, *learned[1:]], allow_unused=True
            )
        self._remember(decisions, probabilities)
        gradient = _flat(taken, learned) / (1 if scale is None else scale)
        gradient = gradient + _reduced(_flat(added, learned))
        if not bool(torch.isfinite(gradient).all()):
            return NOT_FINITE
        steps = torch.split(self.adam.step(gradient), [tensor.numel() for tensor in learned])
        with torch.no_grad():
            for tensor, step in zip(learned, steps, strict=True):
                tensor += step.view_as(tensor)
        return ""

    @property
    def has_learned(self) -> bool:
        """Whether gates have moved."""
        return self.adam.has_moved

    def after_step(self, norms: Norms = lambda: None) -> bool:
        """As ever; what the samples disagree about when all is decided is kept as `gap`."""
        if not self.done:
            self.gap.copy_(consensus_gap(self.agreement))
        return super().after_step(norms)

    def check_carry(self) -> None:
        """Gate networks see pooled features, so they would have to be cut as well."""
        if self.conditions and not self.done:
            raise InputError(
                "gates of the method consensus cannot be shrunk while they learn: shrink when the "
                "target is reached"
            )

    def penalty(self, decisions: Tensor) -> Tensor:
        """All terms, for mean decisions."""
        weights = self._weights()
        limit = self.budget.relative(self.share())
        above = self.budget.exceeds(decisions.detach(), limit)
        activation = (weights * decisions).sum() * above
        polarisation = (weights * decisions * (1 - decisions)).sum()
        distance = self.is_open + (1 - 2 * self.is_open) * decisions  # has a slope at 0 too
        consensus = distance.mean() * self.settled()
        return (
            self.settings.activation_weight * activation
            + self.settings.polarisation_weight * polarisation
            + self.settings.consensus_weight * consensus
        )

    def _learned(self) -> list[Tensor]:
        """What Adam moves: the logits, then the parameters of the gate networks."""
        return [self.logits, *self.deciders.parameters()]

    def _weights(self) -> Tensor:
        prices = self.budget.per_price(torch.ones_like(self.logits), self.is_open).reciprocal()
        return prices / prices.sum()

    def _means(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The mean decision and probability of every position over the last batch."""
        decisions = list(torch.split(_binary(logits), list(self.budget.layout.sizes)))
        probabilities = list(torch.split(logits.sigmoid(), list(self.budget.layout.sizes)))
        for name, features in self._features.items():
            place = self.budget.layout.names.index(name)
            own = self.deciders[self._order.index(name)](features)
            decisions[place] = _binary(own).mean(0)
            probabilities[place] = own.sigmoid().mean(0)
        return torch.cat(decisions), torch.cat(probabilities)

    def _remember(self, decisions: Tensor, probabilities: Tensor) -> None:
        self._features.clear()
        memory = min(_MEMORY, int(self.steps_done) / (int(self.steps_done) + 1))
        self.agreement.lerp_(_reduced(decisions.detach()), 1 - memory)
        self.probability.lerp_(_reduced(probabilities.detach()), 1 - memory)


def _binary(logits: Tensor) -> Tensor:
    """1 where the probability is above one half, with the gradient of the probability."""
    probability = logits.sigmoid()
    return (probability > 0.5).to(logits) + (probability - probability.detach())


def consensus_gap(agreement: Tensor) -> Tensor:
    """The largest share of samples that the majority overrules at any position."""
    return torch.minimum(agreement, 1 - agreement).max()


def _flat(gradients: Iterable[Tensor | None], learned: list[Tensor]) -> Tensor:
    """Gradients by `learned` in one vector, zeros where there is none."""
    return torch.cat(
        [
            torch.zeros_like(tensor).view(-1) if own is None else full_tensor(own).reshape(-1)
            for own, tensor in zip(gradients, learned, strict=True)
        ]
    )


def _reduced(value: Tensor) -> Tensor:
    """The mean over all processes."""
    if not is_distributed():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
