"""The teacher's term of the loss."""

import pytest
import torch
import torch.nn.functional as F

import fxprune


def logits(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_is_the_formula_of_hinton():
    student, teacher, labels = logits(0, 4, 5), logits(1, 4, 5), torch.tensor([0, 3, 1, 4])
    p, q = (torch.softmax(x / 3.0, 1) for x in (teacher, student))
    soft = (p * (p.log() - q.log())).sum(1).mean() * 9
    hard = F.cross_entropy(student, labels)
    found = fxprune.distillation_loss(student, teacher, labels, temperature=3.0, share=0.7)
    assert torch.allclose(found, 0.7 * soft + 0.3 * hard)
    alone = fxprune.distillation_loss(student, teacher, temperature=3.0)
    assert torch.allclose(alone, soft)


def test_is_the_mean_over_all_tokens():
    student, teacher = logits(0, 2, 3, 5), logits(1, 2, 3, 5)
    flat = fxprune.distillation_loss(student.view(6, 5), teacher.view(6, 5))
    assert torch.allclose(fxprune.distillation_loss(student, teacher), flat)


def test_teacher_gets_no_gradient():
    student, teacher = logits(0, 2, 5).requires_grad_(), logits(1, 2, 5).requires_grad_()
    fxprune.distillation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": 0.0}, "temperature must be above zero"),
        ({"share": 1.5}, r"share in \[0, 1\]"),
        ({"teacher_logits": torch.zeros(2, 4)}, r"shape \(2, 5\), its teacher \(2, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    arguments = {"logits": torch.zeros(2, 5), "teacher_logits": torch.zeros(2, 5), **change}
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.distillation_loss(**arguments)
