"""The teacher's terms of the loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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
        ({"temperature": 0.0}, "temperature is .*: give a number above 0"),
        ({"share": 1.5}, r"share is .*: give a number in \[0, 1\]"),
        ({"teacher_logits": torch.zeros(2, 4)}, r"shape \(2, 5\), teacher_logits \(2, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    arguments = {"logits": torch.zeros(2, 5), "teacher_logits": torch.zeros(2, 5), **change}
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.distillation_loss(**arguments)


class Residual(nn.Module):
    """A stream of three channels, and a block on it."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(n, m) for n, m in ((3, 3), (3, 8), (8, 3)))

    def forward(self, x):
        x = self.first(x)
        return x + self.last(self.inner(x).relu())


def pruned_pair():
    torch.manual_seed(0)
    teacher = Residual().eval()
    gated = fxprune.prepare(teacher, torch.zeros(1, 3), target=0.5, ignore=["first", "last"])
    fxprune.reach_target(gated, fxprune.importance(gated))
    return gated, teacher


def feature_loss(model, teacher, x):
    with fxprune.FeatureDistillation(model, teacher, ["first", "last"]) as features:
        model(x)
        with torch.no_grad():
            teacher(x)
        return features.loss()


def test_features_are_those_of_the_same_layers():
    gated, teacher = pruned_pair()
    folded, x = fxprune.fold(gated), torch.randn(4, 3)
    wanted = teacher.last(teacher.inner(h := teacher.first(x)).relu())
    own = folded.get_submodule("last")(folded.get_submodule("inner")(h).relu())
    error = (own - wanted).square().mean() / wanted.square().mean()
    assert error > 0
    assert torch.allclose(feature_loss(folded, teacher, x), error / 2)
    assert torch.allclose(feature_loss(gated.eval(), teacher, x), error / 2)


def test_features_can_be_learned():
    gated, teacher = pruned_pair()
    folded, x = fxprune.fold(gated), torch.randn(64, 3)
    optimizer = torch.optim.Adam(folded.parameters(), 0.01)
    losses = []
    with fxprune.FeatureDistillation(folded, teacher, ["last"]) as features:
        for _ in range(100):
            folded(x)
            with torch.no_grad():
                teacher(x)
            loss = features.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_nothing_is_watched_afterwards():
    gated, teacher = pruned_pair()
    with fxprune.FeatureDistillation(gated, teacher, ["last"]):
        assert teacher.last._forward_hooks
    assert not any(m._forward_hooks for model in (gated, teacher) for m in model.modules())


def test_layers_that_do_not_fit_are_refused():
    gated, teacher = pruned_pair()
    folded, x = fxprune.fold(gated), torch.randn(4, 3)
    with pytest.raises(fxprune.InputError, match="layers is empty"):
        fxprune.FeatureDistillation(folded, teacher, [])
    with pytest.raises(fxprune.InputError, match="'lats'; did you mean 'last'"):
        fxprune.FeatureDistillation(folded, teacher, ["lats"])
    features = fxprune.FeatureDistillation(folded, teacher, ["inner"])
    with pytest.raises(fxprune.InputError, match="inner of the model returned no tensor"):
        features.loss()
    folded(x), teacher(x)
    with pytest.raises(fxprune.InputError, match="watch layers whose channels stay"):
        features.loss()
