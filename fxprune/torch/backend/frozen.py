"""Gated models in which only gates learn: everything else stays as it is, also in training."""

from torch import nn

from fxprune.torch.backend.derived import base_of, derived, reducing
from fxprune.torch.frontend.walk import named_parameters
from fxprune.torch.gates.module import PREFIX

_FROZEN = "_fxprune_frozen"


def freeze(model: nn.Module) -> None:
    """Keep every parameter outside the gates, and the modes of all layers, as they are."""
    mode = model.training
    own = [(n, p) for n, p in named_parameters(model) if n.split(".")[0] != PREFIX]
    model.__dict__[_FROZEN] = tuple(name for name, p in own if p.requires_grad)
    for _, parameter in own:
        parameter.requires_grad_(False)
    model.__class__ = _frozen(type(model))
    model.train(mode)


def thaw(model: nn.Module) -> None:
    """Let the parameters of what was made from a frozen model learn as they did before."""
    for name in model.__dict__.pop(_FROZEN, ()):
        if (parameter := dict(named_parameters(model)).get(name)) is not None:
            parameter.requires_grad_()


def release(model: nn.Module) -> None:
    """Give a frozen model back its own class."""
    if vars(type(model)).get("train") is _train:
        model.__class__ = base_of(type(model))


def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    return derived(kind, train=_train, __reduce_ex__=reducing(_frozen))


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    """As ever, but that the model stays in evaluation: only its gates change mode."""
    base_of(type(self)).train(self, mode)
    self.training = False
    for name, child in self.named_children():
        child.train(mode and name == PREFIX)
    return self
