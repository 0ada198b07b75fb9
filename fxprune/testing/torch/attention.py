"""Attention written by hand, in the spellings found in published models.

    q, k, v = heads of projections of x (k and v of another sequence where there is one)
    q, k    = normalised, rotated by their position
    y       = softmax(q k^T / sqrt(d) + mask) v, or without the softmax
    output  = a projection of the heads of y, joined

`Form` says how each line is written, `attention` writes it.
"""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch.programs import Block, Context, Step


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


def forms(draw: DrawFn) -> Form:
    """A random form, the plainest value of every choice first.

    Choices that do not fit together are drawn all the same and overruled, so that no choice makes
    another one go away and look simpler to Hypothesis.
    """
    heads, size = draw(st.sampled_from((2, 1, 3, 4, 6))), draw(st.sampled_from((2, 4, 3)))
    groups = draw(st.sampled_from((heads, max(heads // 2, 1))))
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
        split=draw(st.sampled_from(("view", "unflatten", "sizes", "stored"))),
        norm=draw(st.sampled_from(("", "F.normalize", "RMSNorm", "LayerNorm"))),
        rotation=rotation if size % 2 == 0 else "",
        grouping=draw(st.sampled_from(by)) if groups < heads else "",
        compute=compute,
        mask="" if compute in ("kernel", "cosine") else mask,
        join=draw(st.sampled_from(("reshape", "flatten", "einsum", "stored"))),
    )


def attention(
    form: Form, channels: int, out: int, lengths: tuple[int, int], other: int = 0
) -> Block:
    """Attention of a sequence to itself, or to another one of `other` channels.

    Args:
        form: how it is written.
        channels: those of the sequence.
        out: the channels it returns.
        lengths: of the sequence, and of what it attends to.
        other: the channels of what it attends to, if that is another sequence.
    """
    code, parts = _projected(form, channels, other)
    code += [f"{name} = {_heads(form, name)}" for name in _unsplit(form, other)]
    code += _normalised(form, parts)
    code += _rotated(form, parts, max(lengths))
    code += _regrouped(form)
    code += _attended(form, parts, lengths)
    code += _joined(form)
    parts |= {"heads": str(form.heads), "groups": str(form.groups)}
    parts["output"] = f"nn.Linear({form.heads * form.value_size}, {out}, bias={form.bias})"
    step = Step("\n".join(code), Context(out, (lengths[0],)), parts)
    return Block((step,), ("x", "other") if other else ("x",))


def _projected(form: Form, channels: int, other: int) -> tuple[list[str], dict[str, str]]:
    """Queries, keys and values; a fused projection is one of all, or of what attends elsewhere."""
    source = "other" if other else "x"
    sizes = {
        "query": form.heads * form.size,
        "key": form.groups * form.size,
        "value": form.groups * form.value_size,
    }
    alone = list(sizes) if form.projection == "separate" else ["query"] * bool(other)
    code, parts = [], {}
    for name in alone:
        fan_in = channels if name == "query" else other or channels
        parts[name] = f"nn.Linear({fan_in}, {sizes[name]}, bias={form.bias})"
        code.append(f"{name[0]} = self.{name}({'x' if name == 'query' else source})")
    rest = [name for name in sizes if name not in alone]
    if not rest:
        return code, parts
    total = sum(sizes[name] for name in rest)
    parts["fused"] = f"nn.Linear({other or channels}, {total}, bias={form.bias})"
    names = ", ".join(name[0] for name in rest)
    if form.projection == "permute":
        shape = f"{len(rest)}, {form.heads}, {form.size}"
        code.append(f"y = self.fused({source})")
        code.append(f"y = y.reshape(y.shape[0], y.shape[1], {shape}).permute(2, 0, 3, 1, 4)")
        code.append(f"{names} = y.unbind(0)")
    elif form.projection == "chunk":
        code.append(f"{names} = self.fused({source}).chunk({len(rest)}, dim=-1)")
    else:
        widths = [sizes[name] for name in rest]
        code.append(f"{names} = self.fused({source}).split({widths}, dim=-1)")
    return code, parts


def _unsplit(form: Form, other: int) -> str:
    """Which of q, k and v are not yet cut into heads."""
    return "qkv" if form.projection != "permute" else "q" * bool(other)


def _heads(form: Form, name: str) -> str:
    size = form.value_size if name == "v" else form.size
    if form.split == "stored":  # as in most published models: the module keeps a number of heads
        count = "self.heads" if name == "q" else "self.groups"
        shape = f"{name}.size(0), {name}.size(1), {count}, {name}.size(2) // {count}"
        return f"{name}.reshape({shape}).transpose(1, 2)"
    if form.split == "unflatten":
        return f"torch.unflatten({name}, -1, (-1, {size})).transpose(1, 2)"
    if form.split == "sizes":
        shape = f"{name}.size(0), {name}.size(1), {name}.size(2) // {size}, {size}"
        return f"{name}.reshape({shape}).permute(0, 2, 1, 3)"
    return f"{name}.view({name}.size(0), {name}.size(1), -1, {size}).transpose(1, 2)"


def _normalised(form: Form, parts: dict[str, str]) -> list[str]:
    if form.norm == "F.normalize":
        return ["q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)"]
    if not form.norm:
        return []
    parts["query_norm"] = parts["key_norm"] = f"nn.{form.norm}({form.size})"
    return ["q, k = self.query_norm(q), self.key_norm(k)"]


def _rotated(form: Form, parts: dict[str, str], length: int) -> list[str]:
    """Su et al. 2021: features are turned in pairs, by an angle that grows with the token."""
    if not form.rotation:
        return []
    speeds = f"torch.arange(1.0, {form.size // 2 + 1})"
    parts["angles"] = f"torch.outer(torch.arange({float(length)}), {speeds})"
    code = []
    for name in "qk":
        code.append(f"angles = self.angles[: {name}.shape[2]]")
        code.append("cos, sin = angles.cos(), angles.sin()")
        if form.rotation == "rotary":
            code += [
                f"a, b = {name}.chunk(2, dim=-1)",
                "turned = torch.cat((-b, a), dim=-1) * torch.cat((sin, sin), -1)",
                f"{name} = {name} * torch.cat((cos, cos), -1) + turned",
            ]
        else:
            code += [
                f"a, b = {name}[..., ::2], {name}[..., 1::2]",
                "turned = a * cos - b * sin, a * sin + b * cos",
                f"{name} = torch.stack(turned, dim=-1).flatten(-2)",
            ]
    return code


def _regrouped(form: Form) -> list[str]:
    """Keys and values, as often as heads of queries share them."""
    repeats = form.heads // form.groups
    if form.grouping == "repeat_interleave":
        return [f"{name} = {name}.repeat_interleave({repeats}, dim=1)" for name in "kv"]
    if form.grouping != "expand":
        return []
    code = []
    for name in "kv":
        code.append(f"b, h, n, d = {name}.shape")
        code.append(f"{name} = {name}[:, :, None].expand(b, h, {repeats}, n, d)")
        code.append(f"{name} = {name}.reshape(b, h * {repeats}, n, d)")
    return code


def _attended(form: Form, parts: dict[str, str], lengths: tuple[int, int]) -> list[str]:
    parts["blocked"] = f"torch.ones({lengths}).triu(1).bool()"
    parts["added"] = f"torch.linspace(-1, 1, {lengths[0] * lengths[1]}).view({lengths})"
    parts["per_head"] = f"nn.Parameter(torch.zeros({form.heads}, {lengths[0]}, {lengths[1]}))"
    if form.compute == "kernel":  # Katharopoulos et al. 2020
        return [
            "q, k = F.elu(q) + 1, F.elu(k) + 1",
            "total = (q * k.sum(2, keepdim=True)).sum(-1, True)",
            "y = q @ (k.transpose(-2, -1) @ v) / (total + 1e-6)",
        ]
    if form.compute == "cosine":
        return [
            "q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)",
            'y = torch.einsum("bhmd,bhme->bhde", k, v)',
            'y = torch.einsum("bhnd,bhde->bhne", q, y)',
        ]
    if form.compute == "sdpa":
        mask = {
            "bool mask": ", ~self.blocked",
            "masked_fill": ", ~self.blocked",
            "bias per head": ", self.per_head",
            "added mask": ", self.added",
            "causal": ", is_causal=True",
        }.get(form.mask, "")
        gqa = ", enable_gqa=True" if form.grouping == "enable_gqa" else ""
        return [f"y = F.scaled_dot_product_attention(q, k, v{mask}{gqa})"]
    return _by_softmax(form)


def _by_softmax(form: Form) -> list[str]:
    scores = {
        "einsum": 'w = torch.einsum("bhnd,bhmd->bhnm", q, k) * q.shape[-1] ** -0.5',
        "bmm": "b, h, n, d = q.shape\n"
        "w = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))\n"
        "w = w.view(b, h, n, -1) / d**0.5",
        "softmax": "w = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)",
    }[form.compute]
    mask = {
        "bool mask": ['w = w.masked_fill(self.blocked, float("-inf"))'],
        "causal": ['w = w.masked_fill(self.blocked, float("-inf"))'],
        "masked_fill": ["w = torch.where(self.blocked, torch.finfo(w.dtype).min, w)"],
        "bias per head": ["w = w + self.per_head"],
        "added mask": ["w = w + self.added"],
    }.get(form.mask, [])
    product = {
        "einsum": 'y = torch.einsum("bhnm,bhmd->bhnd", w, v)',
        "bmm": "y = torch.bmm(w.flatten(0, 1), v.flatten(0, 1)).view(b, h, n, -1)",
        "softmax": "y = w @ v",
    }[form.compute]
    return [scores, *mask, "w = F.dropout(w.softmax(-1), 0.0, self.training)", product]


def _joined(form: Form) -> list[str]:
    if form.join == "stored":
        shape = "x.shape[0], x.shape[1], self.heads * y.shape[-1]"
        return [f"return self.output(y.transpose(1, 2).reshape({shape}))"]
    if form.join == "flatten":
        return ["return self.output(y.transpose(1, 2).flatten(2))"]
    if form.join == "einsum":
        return [
            f"weight = self.output.weight.view(-1, {form.heads}, {form.value_size})",
            'return torch.einsum("bhnd,chd->bnc", y, weight)',
        ]
    return ["return self.output(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))"]
