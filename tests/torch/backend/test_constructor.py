"""What a class makes from a configuration."""

import torch
from torch import nn

from fxprune.torch.backend.constructor import unsaved_tensors


class Tables(nn.Module):
    """One that is saved, one that is not, and one that its class leaves out."""

    _keys_to_ignore_on_save = ("inner.weight",)

    def __init__(self) -> None:
        super().__init__()
        self.saved = nn.Linear(2, 3)
        self.register_buffer("made", torch.zeros(3), persistent=False)
        self.register_buffer("kept", torch.zeros(3))
        self.inner = nn.Embedding(4, 3)


def test_tensors_that_no_checkpoint_holds_are_told():
    assert sorted(unsaved_tensors(Tables())) == ["inner.weight", "made"]
    assert unsaved_tensors(Tables().saved) == []
