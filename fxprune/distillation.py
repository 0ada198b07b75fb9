"""What the unpruned model knows, as a loss for the pruned one."""

import torch.nn.functional as F
from torch import Tensor

from fxprune.errors import InputError


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
    if logits.shape != teacher_logits.shape:
        raise InputError(
            f"the model gives logits of shape {tuple(logits.shape)}, its teacher "
            f"{tuple(teacher_logits.shape)}: they must be the same"
        )
    if not temperature > 0 or not 0 <= share <= 1:
        raise InputError(
            f"temperature must be above zero and share in [0, 1], got {temperature} and {share}"
        )
    student = F.log_softmax(logits.flatten(0, -2).float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().flatten(0, -2).float() / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    if labels is None:
        return soft
    hard = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
    return share * soft + (1 - share) * hard
