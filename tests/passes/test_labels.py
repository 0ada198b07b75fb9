"""Where groups are, and what people call them."""

from fxprune.passes.analyse import analyse
from fxprune.passes.labels import made_in
from tests.passes.test_roles import MLP
from tests.passes.written import graph_of, lines


def labels(text: str) -> str:
    """Technical name, then label, of every group and branch."""
    analysis = analyse(graph_of(text))
    items = (*analysis.groups, *analysis.branches)
    return "\n".join(f"{item.name} = {item.label}" for item in items)


def in_modules(text: str, paths: dict[str, str]) -> str:
    """The same graph where parameters lie in other modules."""
    for name, path in paths.items():
        text = text.replace(f"{name}.weight", f"{path}.weight")
    return text


PATHS = {"e": "model.stem", "u": "model.0.mlp.up", "g": "model.0.mlp.gate", "d": "model.0.mlp.down"}


def test_a_place_is_the_smallest_module_around_all_weights():
    assert labels(in_modules(MLP, {**PATHS, "h": "head"})) == lines(
        """
        model.stem = hidden
        model.stem.weight:1 = model.stem.weight: channel
        model.0.mlp.up = model.0.mlp: MLP width
        head = head: channel
        model.0.mlp+ = model.0.mlp: branch
        """
    )


def test_groups_of_one_kind_are_told_apart_by_what_makes_them():
    text = """
        a[2, 12] = linear(x[2, 3], stem.a.weight[12, 3])
        b[2, 12] = linear(a, one.b.weight[12, 12])
        c[2, 12] = add(a, b)
        d[2, 16] = linear(c, two.d.weight[16, 12])
        e[2, 16] = linear(d, two.e.weight[16, 16])
        f[2, 16] = add(d, e)
        h[2, 6] = linear(f, head.weight[6, 16])
    """
    assert labels(text).splitlines()[0] == "stem.a = stem.a: hidden"
    assert "two.d = two: hidden" in labels(text).splitlines()


def test_groups_in_one_module_are_at_what_makes_them():
    text = """
        e[2, 12] = linear(x[2, 3], stem.weight[12, 3])
        u[2, 8] = linear(e, mlp.up.weight[8, 12])
        d[2, 12] = linear(u, mlp.down.weight[12, 8])
        f[2, 12] = add(e, d)
        v[2, 8] = linear(f, mlp.more.weight[8, 12])
        g[2, 12] = linear(v, mlp.less.weight[12, 8])
        i[2, 12] = add(f, g)
        h[2, 6] = linear(i, head.weight[6, 12])
    """
    found = labels(text)
    assert "mlp.up = mlp.up: MLP width" in found
    assert "mlp.more = mlp.more: MLP width" in found


def test_what_several_blocks_share_is_at_their_place():
    text = """
        e[2, 5, 12] = linear(x[2, 5, 3], stem.weight[12, 3])
        m[2, 5, 12] = linear(e, blocks.0.mlp.weight[12, 12])
        f[2, 5, 12] = add(e, m)
        u[2, 5, 8] = linear(f, blocks.0.up.weight[8, 12])
        w[2, 5, 8] = linear(f, blocks.1.up.weight[8, 12])
        v[2, 5, 8] = elementwise(u, w)
        d[2, 5, 12] = linear(v, blocks.1.up.down.weight[12, 8])
        g[2, 5, 12] = linear(v, blocks.0.up.down.weight[12, 8])
        i[2, 5, 12] = add(f, d)
        j[2, 5, 12] = add(i, g)
        h[2, 5, 6] = linear(j, head.weight[6, 12])
    """
    assert "blocks.0.up = blocks.*.up: MLP width" in labels(text)


def test_names_without_a_module_are_where_their_readers_come_from():
    graph = graph_of(MLP)
    assert analyse(graph).groups[0].label == "hidden"
    assert made_in("val_131:1/2[0:4]") == "val_131"
