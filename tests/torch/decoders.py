"""A decoder of two blocks with attention written by hand, its modules called as one likes."""

import math

import torch
from torch import Tensor, nn

NAMES = ("embed", "layers", "attn", "mlp", "q", "k", "v", "out", "up", "gate", "down", "head")
SCRAMBLED = ("mlp", "heads", "up", "q", "hidden", "down", "x", "embed", "conv", "k", "attn", "kv")
HIDDEN, HEADS, SHARED, WIDTH, VOCABULARY = 16, 4, 2, 24, 20


class Attention(nn.Module):
    """Two queries attend with every key: products, a softmax, and no operator for all of it."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names[4:8]
        sizes = ((HIDDEN, 16), (HIDDEN, 8), (HIDDEN, 8), (16, HIDDEN))
        for name, (inputs, outputs) in zip(self.names, sizes, strict=True):
            setattr(self, name, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value, out = (getattr(self, name) for name in self.names)
        q = query(x).view(*x.shape[:2], -1, 4).transpose(1, 2)
        k, v = (f(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for f in (key, value))
        k, v = (y[:, :, None].expand(-1, -1, HEADS // SHARED, -1, -1).flatten(1, 2) for y in (k, v))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(4)).softmax(-1)
        return out((scores @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """A gated MLP; its activation adds to its argument, which makes no stream."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names[8:11]
        sizes = ((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN))
        for name, (inputs, outputs) in zip(self.names, sizes, strict=True):
            setattr(self, name, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        up, gate, down = (getattr(self, name) for name in self.names)
        y = up(x)
        return down(y * (1 + torch.tanh(y + 0.1 * y * y)) * gate(x))


class Decoder(nn.Module):
    """Tokens to logits."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        super().__init__()
        self.names = names
        setattr(self, names[0], nn.Embedding(VOCABULARY, HIDDEN))
        blocks = (
            nn.ModuleDict({names[2]: Attention(names), names[3]: Mlp(names)}) for _ in range(2)
        )
        setattr(self, names[1], nn.ModuleList(blocks))
        setattr(self, names[11], nn.Linear(HIDDEN, VOCABULARY))

    def forward(self, ids: Tensor) -> Tensor:
        x = getattr(self, self.names[0])(ids)
        for block in getattr(self, self.names[1]):
            x = x + block[self.names[2]](x)
            x = x + block[self.names[3]](x)
        return getattr(self, self.names[11])(x)


def decoder(names: tuple[str, ...] = NAMES) -> Decoder:
    """The same weights at every call, in evaluation."""
    torch.manual_seed(0)
    return Decoder(names).eval()


def tokens(length: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, VOCABULARY, (2, length), generator=generator)
