"""Attention written by hand, in the spellings found in published models.

    q, k, v = heads of projections of x (k and v of another sequence where there is one)
    q, k    = normalised, rotated by their position
    y       = softmax(q k^T / sqrt(d) + mask) v, or without the softmax
    output  = a projection of the heads of y, joined

`Form` says how each line is written.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Form:
    """How attention is written. `groups` heads of keys and values serve `heads` of queries."""

    heads: int
    size: int
    value_size: int
    groups: int
    bias: bool
    projection: str
    split: str
    norm: str
    rotation: str
    grouping: str
    compute: str
    mask: str
    join: str

    def __str__(self) -> str:
        notes = [f"{self.heads} heads of {self.size}"]
        notes += [f"values of {self.value_size}"] * (self.value_size != self.size)
        notes += [f"{self.groups} for keys by {self.grouping}"] * (self.groups != self.heads)
        notes += [f"q and k by {self.norm}"] * bool(self.norm) + ["no bias"] * (not self.bias)
        choices = (self.projection, self.split, self.rotation, self.compute, self.mask, self.join)
        plain = ("separate", "view", "", "sdpa", "", "reshape")
        notes += [text for text, usual in zip(choices, plain, strict=True) if text != usual]
        return ", ".join(notes)


def forms(draw: DrawFn) -> Form:
    """A random form, the plainest value of every choice first.

    Choices that do not fit together are drawn all the same and overruled, so that no choice makes
    another one go away and look simpler to Hypothesis.
    """
    heads, size = draw(st.sampled_from((2, 1, 3, 4))), draw(st.sampled_from((2, 4, 3)))
    groups = draw(st.sampled_from((heads, 1, max(heads // 2, 1))))
    compute = draw(st.sampled_from(("sdpa", "softmax", "einsum", "bmm", "kernel", "cosine")))
    projection = draw(st.sampled_from(("separate", "split", "chunk", "permute")))
    projection = "split" if groups < heads and projection != "separate" else projection
    value_size = draw(st.sampled_from((size, 2, 5)))
    rotation = draw(st.sampled_from(("", "rotary", "rotary pairs")))
    masks = ("", "bool mask", "causal", "added mask", "bias per head", "masked_fill")
    mask = draw(st.sampled_from(masks))
    by = ("repeat_interleave", "expand", *(["enable_gqa"] if compute == "sdpa" else []))
    return Form(
        heads=heads,
        size=size,
        value_size=size if projection in ("chunk", "permute") else value_size,
        groups=groups,
        bias=draw(st.booleans()),
        projection=projection,
        split=draw(st.sampled_from(("view", "unflatten", "sizes"))),
        norm=draw(st.sampled_from(("", "F.normalize", "RMSNorm", "LayerNorm"))),
        rotation=rotation if size % 2 == 0 else "",
        grouping=draw(st.sampled_from(by)) if groups < heads else "",
        compute=compute,
        mask="" if compute in ("kernel", "cosine") else mask,
        join=draw(st.sampled_from(("reshape", "flatten", "einsum"))),
    )


class Attention(nn.Module):
    """Attention of a sequence to itself, or to another one, in some form.

    A fused projection is one of queries, keys and values, or of keys and values of the other one.
    """

    blocked: Tensor
    added: Tensor
    angles: Tensor

    def __init__(
        self, form: Form, channels: int, out: int, lengths: tuple[int, int], other: int = 0
    ) -> None:
        """`lengths` are those of both sequences, `other` the channels of the one attended to."""
        super().__init__()
        self.form = form
        query, *rest = (
            form.heads * form.size,
            form.groups * form.size,
            form.groups * form.value_size,
        )
        if other or form.projection == "separate":
            self.query = nn.Linear(channels, query, bias=form.bias)
        if form.projection == "separate":
            self.key = nn.Linear(other or channels, rest[0], bias=form.bias)
            self.value = nn.Linear(other or channels, rest[1], bias=form.bias)
        else:
            self.sizes = rest if other else [query, *rest]
            self.fused = nn.Linear(other or channels, sum(self.sizes), bias=form.bias)
        self.output = nn.Linear(form.heads * form.value_size, out, bias=form.bias)
        if form.norm in ("RMSNorm", "LayerNorm"):
            norm = getattr(nn, form.norm)
            self.query_norm, self.key_norm = norm(form.size), norm(form.size)
        if form.mask == "bias per head":
            self.per_head = nn.Parameter(torch.zeros(form.heads, *lengths))
        self.register_buffer("blocked", torch.ones(lengths).triu(1).bool())
        self.register_buffer("added", torch.linspace(-1, 1, lengths[0] * lengths[1]).view(lengths))
        speeds = torch.arange(1.0, form.size // 2 + 1)
        self.register_buffer("angles", torch.outer(torch.arange(float(max(lengths))), speeds))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Attend to `other`, or to `x` itself."""
        form = self.form
        q, k, v = self._projected(x, other)
        if form.norm == "F.normalize":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        elif form.norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if form.rotation:
            q, k = self._rotated(q), self._rotated(k)
        if form.grouping == "repeat_interleave":
            k, v = (t.repeat_interleave(form.heads // form.groups, dim=1) for t in (k, v))
        elif form.grouping == "expand":
            k, v = self._expanded(k), self._expanded(v)
        y = self._attended(q, k, v)
        if form.join == "flatten":
            return self.output(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
        if form.join == "einsum":
            weight = self.output.weight.view(-1, form.heads, form.value_size)
            return torch.einsum("bhnd,chd->bnc", y, weight)
        b, n = x.shape[:2]
        return self.output(y.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]

    def _projected(self, x: Tensor, other: Tensor | None) -> list[Tensor]:
        """Queries, keys and values as (batch, head, token, feature)."""
        form, source = self.form, x if other is None else other
        sizes = (form.size, form.size, form.value_size)
        if form.projection == "separate":
            parts = [self.query(x), self.key(source), self.value(source)]
        else:
            fused, own = self.fused(source), [] if other is None else [self.query(x)]
            number = 3 - len(own)
            if form.projection == "permute":
                b, n, _ = fused.shape
                packed = fused.reshape(b, n, number, form.heads, form.size).permute(2, 0, 3, 1, 4)
                return [*(self._heads(part, form.size) for part in own), *packed.unbind(0)]
            if form.projection == "chunk":
                parts = [*own, *fused.chunk(number, dim=-1)]
            else:
                parts = [*own, *fused.split(self.sizes, dim=-1)]
        return [self._heads(part, size) for part, size in zip(parts, sizes, strict=True)]

    def _heads(self, x: Tensor, size: int) -> Tensor:
        """The channels are cut into heads of `size` features."""
        if self.form.split == "unflatten":
            return torch.unflatten(x, -1, (-1, size)).transpose(1, 2)
        b, n, c = x.size()
        if self.form.split == "sizes":
            return x.reshape(b, n, c // size, size).permute(0, 2, 1, 3)
        return x.view(b, n, -1, size).transpose(1, 2)

    def _rotated(self, x: Tensor) -> Tensor:
        """Su et al. 2021: features are turned in pairs, by an angle that grows with the token."""
        angles = self.angles[: x.shape[2]]
        cos, sin = angles.cos(), angles.sin()
        if self.form.rotation == "rotary":
            a, b = x.chunk(2, dim=-1)
            turned = torch.cat((-b, a), dim=-1)
            return x * torch.cat((cos, cos), -1) + turned * torch.cat((sin, sin), -1)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    def _expanded(self, x: Tensor) -> Tensor:
        b, groups, n, d = x.shape
        repeats = self.form.heads // groups
        return x[:, :, None].expand(b, groups, repeats, n, d).reshape(b, groups * repeats, n, d)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.form.compute == "kernel":  # Katharopoulos et al. 2020
            q, k = F.elu(q) + 1, F.elu(k) + 1
            return q @ (k.transpose(-2, -1) @ v) / (q * k.sum(2, keepdim=True)).sum(-1, True)
        if self.form.compute == "cosine":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            return torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhmd,bhme->bhde", k, v))
        if self.form.compute == "sdpa":
            causal = self.form.mask == "causal"
            return F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if causal else self._mask(),
                dropout_p=0.0,
                is_causal=causal,
                enable_gqa=self.form.grouping == "enable_gqa",
            )
        return self._by_softmax(q, k, v)

    def _mask(self) -> Tensor | None:
        if self.form.mask in ("bool mask", "masked_fill"):
            return ~self.blocked
        if self.form.mask == "bias per head":
            return self.per_head
        return self.added if self.form.mask == "added mask" else None

    def _by_softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h, n, d = q.shape
        if self.form.compute == "einsum":
            scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * d**-0.5
        elif self.form.compute == "bmm":
            scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
            scores = scores.view(b, h, n, -1) / d**0.5
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mask = self._mask()
        if self.form.mask in ("bool mask", "causal"):
            scores = scores.masked_fill(self.blocked, float("-inf"))
        elif self.form.mask == "masked_fill":
            scores = torch.where(self.blocked, torch.finfo(scores.dtype).min, scores)
        elif mask is not None:
            scores = scores + mask
        weights = F.dropout(scores.softmax(-1), 0.0, self.training)
        if self.form.compute == "bmm":
            return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view(b, h, n, -1)
        if self.form.compute == "einsum":
            return torch.einsum("bhnm,bhmd->bhnd", weights, v)
        return weights @ v
