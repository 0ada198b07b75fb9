"""What the unpruned model knows, as a loss for the pruned one."""

import math
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fxprune.arguments import names, near, number, refusal, shown
from fxprune.errors import InputError
from fxprune.torch.wrapping import check_module


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    share: float = 0.9,
) -> Tensor:
    """Learn from a teacher's soft answers, and from the labels (Hinton et al. 2015, section 2).

    share * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - share) * cross entropy

    >>> import torch, fxprune
    >>> logits = torch.tensor([[1.0, 2.0, 0.0]])
    >>> round(float(fxprune.distillation_loss(logits, logits, share=1.0)), 6)
    0.0

    Args:
        logits: of the model that learns, of shape (..., classes); the mean is over all the rest.
        teacher_logits: of the unpruned model in evaluation, without gradient, of the same shape.
        labels: class indices of shape (...), as `F.cross_entropy` takes them (-100 is ignored
            there); if missing, the teacher's term stands alone.
        temperature: T, above zero.
        share: the weight of the teacher's term, in [0, 1].

    Raises:
        InputError: shapes differ, or a setting is out of range.
    """
    for name, value in (("logits", logits), ("teacher_logits", teacher_logits)):
        if not isinstance(value, Tensor) or value.dim() < 2 or not value.is_floating_point():
            raise refusal(name, value, "real numbers of shape (..., classes)")
    if logits.shape != teacher_logits.shape:
        raise InputError(
            f"logits have shape {tuple(logits.shape)}, teacher_logits "
            f"{tuple(teacher_logits.shape)}: they must be the same"
        )
    number("temperature", temperature, lambda t: 0 < t < math.inf, "a number above 0")
    number("share", share, lambda x: 0 <= x <= 1, "a number in [0, 1]")
    student = F.log_softmax(logits.flatten(0, -2).float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().flatten(0, -2).float() / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    if labels is None:
        return soft
    if not isinstance(labels, Tensor) or labels.shape != logits.shape[:-1]:
        raise refusal("labels", labels, f"class indices of shape {tuple(logits.shape[:-1])}")
    try:
        hard = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
    except (IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"labels must be class indices, at most {logits.shape[-1] - 1}") from error
    return share * soft + (1 - share) * hard


class FeatureDistillation:
    """Learn what layers of a teacher return, besides its answers (Romero et al. 2015, equation 3).

    >>> import torch, fxprune
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with fxprune.FeatureDistillation(model, model, ["0"]) as features:
    ...     x = model(torch.randn(5, 4))
    ...     float(features.loss().detach())
    0.0

    After a forward of both, `loss()` is the mean over the layers of the squared error, as a share
    of the teacher's mean square. Its gradients are small beside those of logits: weights of some
    hundred are usual. Layers must return one tensor each, of the same shape in both models; the
    last ones of residual blocks do, if the stream is given to `ignore` or while gates still learn.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, layers: Iterable[str]) -> None:
        """Watch these layers until `remove`, or the end of a `with` block.

        Args:
            model: what learns: the original, gated or folded model.
            teacher: the unpruned model in evaluation; call it under `torch.no_grad()`.
            layers: names of layers, as in `named_modules()` of both.

        Raises:
            InputError: no layers, or one that a model does not have.
        """
        check_module("model", model)
        check_module("teacher", teacher)
        self._layers = tuple(dict.fromkeys(names("layers", layers, "names of layers")))
        if not self._layers:
            raise InputError("layers is empty: name the layers whose outputs are compared")
        self._own: dict[str, Tensor] = {}
        self._wanted: dict[str, Tensor] = {}
        pairs = [(_layer(model, name), _layer(teacher, name), name) for name in self._layers]
        self._handles = [
            *(_watch(layer, name, self._own) for layer, _, name in pairs),
            *(_watch(layer, name, self._wanted) for _, layer, name in pairs),
        ]

    def loss(self) -> Tensor:
        """The mean relative squared error of the last forward; a scalar with a gradient.

        Raises:
            InputError: a layer did not run since the last call, or shapes differ.
        """
        errors = [
            _relative_error(name, self._own.pop(name, None), self._wanted.pop(name, None))
            for name in self._layers
        ]
        return torch.stack(errors).mean()

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _layer(model: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if not isinstance(name, str) or name not in layers:
        raise InputError(f"layers: no layer is called {shown(name)}{near(name, layers)}")
    return layers[name]


def _watch(layer: nn.Module, name: str, outputs: dict[str, Any]) -> RemovableHandle:
    def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[name] = output

    return layer.register_forward_hook(keep)


def _relative_error(name: str, own: Any, wanted: Any) -> Tensor:
    for whose, output in (("model", own), ("teacher", wanted)):
        if not isinstance(output, Tensor):
            raise InputError(
                f"layer {name} of the {whose} returned no tensor since the last loss: call both "
                "models before it; blocks that are traced through do not run, name their layers"
            )
    if own.shape != wanted.shape:
        raise InputError(
            f"layer {name} returns shape {tuple(own.shape)}, that of the teacher "
            f"{tuple(wanted.shape)}: watch layers whose channels stay, or give them to ignore"
        )
    target = wanted.detach().float()
    error: Tensor = F.mse_loss(own.float(), target) / target.square().mean().clamp(min=1e-12)
    return error
