"""Gates between 0 and 1 that a penalty on the cost pushes to either end.

They learn at a rate of their own, whatever optimizer trains the model. After the last step of the
schedule the best ones are rounded up to 1 until the target is met, and training goes on with these.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxprune.arguments import flag, is_number, number, refusal
from fxprune.passes.condition import Condition
from fxprune.torch.budget.budget import Budget
from fxprune.torch.gates.method import Adam, Method, logit, probability, rate, weight

_SHARPENING_START = 0.6


@dataclass(frozen=True, slots=True)
class AutoBot:
    """Sigmoid gates learned with frozen weights (Castells & Yeom, arXiv 2111.09635).

    To the loss are added `cost_weight` times the excess of the soft cost over the target, and
    `binary_weight` times the mean over groups of the mean of `|gate - round(gate)|`.

    The model's parameters and its normalisation statistics stay as they are, bit for bit, unless
    `frozen` is False. Give `prepare` as many `steps` as the gates shall learn: 200 batches of 64
    images in the paper.

    Args:
        lr: the learning rate of the gates' own Adam; their logs have 0.5 and 0.6.
        cost_weight: beta of the paper.
        binary_weight: gamma of the paper.
        rounding: the share of the steps after which the forward pass sees rounded gates, straight
            through, and the learning rate falls to a tenth; 1 for never, as in the paper. Gates
            that are soft to the end lose accuracy when they are rounded then. From there on
            positions are ranked by the means of their gates, so that the last batch does not
            decide.
        sharpening: how many times `binary_weight` has grown by the last step, from three fifths of
            the steps on; 1 is the paper's constant.
        opening: the value of every gate at the start.
        frozen: whether the gates alone learn.
        branches: whether whole branches have gates as well; the paper closes channels.

    Raises:
        InputError: a setting is out of range.
    """

    lr: float = 0.5
    cost_weight: float = 6.0
    binary_weight: float = 0.2
    rounding: float = 0.8
    sharpening: float = 30.0
    opening: float = 0.9
    frozen: bool = True
    branches: bool = False

    def __post_init__(self) -> None:
        rate(self.lr)
        for name in ("cost_weight", "binary_weight", "sharpening"):
            weight(name, getattr(self, name))
        number("rounding", self.rounding, lambda x: 0 <= x <= 1, "a share of the steps in [0, 1]")
        probability("opening", self.opening)
        flag("frozen", self.frozen)
        flag("branches", self.branches)

    def build(
        self, budget: Budget, steps: int, conditions: tuple[Condition, ...] = ()
    ) -> "AutoBotGates":
        """The gates of a model."""
        return AutoBotGates(budget, steps, self)


@dataclass(frozen=True, slots=True)
class HardConcrete:
    """Stochastic gates whose expected cost is penalised (Louizos et al. 2018, equations 10 to 13).

    Weights and gates learn together.

    Args:
        lr: the learning rate of the gates' own Adam.
        cost_weight: weight of the excess of the expected cost over the target.
        opening: the probability of every gate to be above zero at the start.
        temperature: beta of the paper.
        stretch: gamma and zeta of the paper, below 0 and above 1.

    Raises:
        InputError: a setting is out of range.
    """

    branches: ClassVar[bool] = True

    lr: float = 0.1
    cost_weight: float = 6.0
    opening: float = 0.95
    temperature: float = 2 / 3
    stretch: tuple[float, float] = (-0.1, 1.1)

    def __post_init__(self) -> None:
        rate(self.lr)
        weight("cost_weight", self.cost_weight)
        probability("opening", self.opening)
        number("temperature", self.temperature, lambda x: 0 < x < math.inf, "a number above 0")
        pair = isinstance(self.stretch, tuple | list) and len(self.stretch) == 2
        if not pair or not all(map(is_number, self.stretch)):
            raise refusal("stretch", self.stretch, "a pair of numbers such as (-0.1, 1.1)")
        if not -math.inf < self.stretch[0] < 0 or not 1 < self.stretch[1] < math.inf:
            raise refusal("stretch", self.stretch, "a number below 0, and one above 1")

    def build(
        self, budget: Budget, steps: int, conditions: tuple[Condition, ...] = ()
    ) -> "HardConcreteGates":
        """The gates of a model."""
        return HardConcreteGates(budget, steps, self)


class SoftGates(Method):
    """One logit per position."""

    logits: Tensor

    def __init__(
        self, budget: Budget, steps: int, settings: AutoBot | HardConcrete, start: float
    ) -> None:
        super().__init__(budget, steps, settings)
        self.register_buffer("logits", torch.full((budget.layout.total,), start))
        self.adam = Adam(budget.layout.total, settings.lr)

    def gates(self) -> Tensor:
        """Soft gates while they learn, then the keep-set."""
        return self.values(self._with_gradient()) if self.learning else self.is_open.detach()

    def values(self, logits: Tensor) -> Tensor:
        """The gates of a training forward."""
        raise NotImplementedError

    def penalty(self, logits: Tensor) -> Tensor:
        """What is added to the loss."""
        raise NotImplementedError

    def rate(self) -> float:
        """What the learning rate is multiplied by at present."""
        return 1.0

    def rank(self) -> Tensor:
        """The logits."""
        return self.logits

    def learn(self, gradient: Tensor) -> None:
        """A step of Adam on the gradient of the loss plus that of the penalty."""
        logits = self.logits.detach().requires_grad_()
        with torch.enable_grad():
            (added,) = torch.autograd.grad(self.penalty(logits), logits)
        self.logits += self.rate() * self.adam.step(gradient.detach() + added)

    @property
    def has_learned(self) -> bool:
        """Whether gates have moved."""
        return self.adam.has_moved

    def _with_gradient(self) -> Tensor:
        return self.logits + (self.scores - self.scores.detach())


class AutoBotGates(SoftGates):
    """The state of the method `AutoBot`."""

    settings: AutoBot
    summed: Tensor

    def __init__(self, budget: Budget, steps: int, settings: AutoBot) -> None:
        super().__init__(budget, steps, settings, logit(settings.opening))
        self.register_buffer("summed", torch.zeros(budget.layout.total))
        self.freezes_model = settings.frozen
        self.rounded = False

    def plan(self) -> None:
        """Say also whether the next forward sees rounded gates."""
        super().plan()
        self.rounded = self._since(self.settings.rounding) > 0

    def learn(self, gradient: Tensor) -> None:
        """As soft gates do; those that the forward pass rounds are summed up."""
        super().learn(gradient)
        if self.rounded:
            self.summed += torch.sigmoid(self.logits)

    def rank(self) -> Tensor:
        """The means of rounded gates, up to a factor; of those that are not yet, the logits."""
        return self.summed if bool(self.summed.any()) else self.logits

    def rate(self) -> float:
        """The learning rate falls while the forward pass sees rounded gates."""
        return 1 - 0.9 * self._since(self.settings.rounding)

    def _since(self, start: float) -> float:
        """How much is done of the steps after the share `start` of all."""
        return max(0.0, int(self.steps_done) / self.steps - start) / max(1 - start, 1e-9)

    def values(self, logits: Tensor) -> Tensor:
        """lambda of the paper, rounded towards the end."""
        gates = torch.sigmoid(logits)
        return gates.round() + (gates - gates.detach()) if self.rounded else gates

    def penalty(self, logits: Tensor) -> Tensor:
        """Cost and distance from 0 and 1."""
        gates = torch.sigmoid(logits)
        distance = (gates - gates.round()).abs()
        of_groups = [part.mean() for part in torch.split(distance, list(self.budget.layout.sizes))]
        growth = self._since(_SHARPENING_START) * (self.settings.sharpening - 1)
        binary_weight = self.settings.binary_weight * (1 + growth)
        return (
            self.settings.cost_weight * self.budget.excess(self.values(logits))
            + binary_weight * torch.stack(of_groups).mean()
        )


class HardConcreteGates(SoftGates):
    """The state of the method `HardConcrete`."""

    settings: HardConcrete

    def __init__(self, budget: Budget, steps: int, settings: HardConcrete) -> None:
        low, high = settings.stretch
        shift = settings.temperature * math.log(-low / high)
        super().__init__(budget, steps, settings, logit(settings.opening) + shift)
        self.shift = shift

    def values(self, logits: Tensor) -> Tensor:
        """A sample: stretched and cut off at 0 and 1."""
        low, high = self.settings.stretch
        noise = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((noise.logit() + logits) / self.settings.temperature)
        return (soft * (high - low) + low).clamp(0, 1)

    def penalty(self, logits: Tensor) -> Tensor:
        """The cost that is expected."""
        return self.settings.cost_weight * self.budget.excess(torch.sigmoid(logits - self.shift))
