"""What a group is for, by what multiplies, adds and looks up."""

import pytest

from fxprune.passes.analyse import analyse
from fxprune.passes.roles import Kind
from tests.passes.written import graph_of


def kinds(text: str) -> dict[str, str]:
    """The kinds of all free groups, and of what looks up."""
    groups = analyse(graph_of(text)).groups
    return {g.name: g.kind.value for g in groups if not g.pin or g.kind is not Kind.CHANNEL}


QKV = """
    e[2, 5, 12] = linear(x[2, 5, 3], e.weight[12, 3])
    q[2, 5, 8] = linear(e, q.weight[8, 12])
    k[2, 5, 8] = linear(e, k.weight[8, 12])
    v[2, 5, 8] = linear(e, v.weight[8, 12])
    q1[2, 5, 4, 2] = reshape(q)
    q2[2, 4, 5, 2] = permute(q1) {'order': (0, 2, 1, 3)}
    k1[2, 5, 4, 2] = reshape(k)
    v1[2, 5, 4, 2] = reshape(v)
    v2[2, 4, 5, 2] = permute(v1) {'order': (0, 2, 1, 3)}
"""
OUT = """
    o1[2, 5, 4, 2] = permute(o2) {'order': (0, 2, 1, 3)}
    o[2, 5, 8] = reshape(o1)
    z[2, 5, 12] = linear(o, z.weight[12, 8])
    r[2, 5, 12] = add(e, z)
    h[2, 5, 6] = linear(r, h.weight[6, 12])
"""
ATTENTIONS = {
    "softmax of products": """
        k2[2, 4, 2, 5] = permute(k1) {'order': (0, 2, 3, 1)}
        s[2, 4, 5, 5] = matmul(q2, k2)
        t[2, 4, 5, 5] = elementwise(s)
        p[2, 4, 5, 5] = along(t) {'dims': (3,)}
        o2[2, 4, 5, 2] = matmul(p, v2)
    """,
    "linear attention": """
        k2[2, 4, 2, 5] = permute(k1) {'order': (0, 2, 3, 1)}
        s[2, 4, 2, 2] = matmul(k2, v2)
        o2[2, 4, 5, 2] = matmul(q2, s)
    """,
    "sums over letters": """
        s[2, 4, 5, 5] = einsum(q2, k1) {'terms': ('bhnd', 'bmhd'), 'output': 'bhnm'}
        p[2, 4, 5, 5] = along(s) {'dims': (3,)}
        o2[2, 4, 5, 2] = einsum(p, v2) {'terms': ('bhnm', 'bhmd'), 'output': 'bhnd'}
    """,
    "one operator": """
        k2[2, 4, 5, 2] = permute(k1) {'order': (0, 2, 1, 3)}
        o2[2, 4, 5, 2] = attention(q2, k2, v2)
    """,
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_are_what_an_attention_carries_along(name):
    assert kinds(QKV + ATTENTIONS[name] + OUT) == {
        "e": "hidden",
        "q/0": "heads",
        "q/1": "head dimension",
        "v/1": "head dimension",
    }


def test_heads_may_be_a_factor_of_the_last_axis():
    text = """
        e[2, 5, 12] = linear(x[2, 5, 3], e.weight[12, 3])
        q[2, 5, 8] = linear(e, q.weight[8, 12])
        k[2, 5, 8] = linear(e, k.weight[8, 12])
        v[2, 5, 8] = linear(e, v.weight[8, 12])
        o[2, 5, 8] = heads_attention(q, k, v) {'heads': 4}
        h[2, 5, 6] = linear(o, h.weight[6, 8])
    """
    assert kinds(text) == {
        "e": "channel",
        "q/0": "heads",
        "q/1": "head dimension",
        "v/1": "head dimension",
    }


SHARED = """
    e[2, 5, 12] = linear(x[2, 5, 3], e.weight[12, 3])
    q[2, 5, 24] = linear(e, q.weight[24, 12])
    k[2, 5, 8] = linear(e, k.weight[8, 12])
    v[2, 5, 8] = linear(e, v.weight[8, 12])
    q1[2, 5, 12, 2] = reshape(q)
    q2[2, 12, 5, 2] = permute(q1) {'order': (0, 2, 1, 3)}
    k1[2, 5, 4, 1, 2] = reshape(k)
    k2[2, 5, 4, 3, 2] = expand(k1)
    k3[2, 5, 12, 2] = reshape(k2)
    k4[2, 12, 2, 5] = permute(k3) {'order': (0, 2, 3, 1)}
    v1[2, 5, 4, 1, 2] = reshape(v)
    v2[2, 5, 4, 3, 2] = expand(v1)
    v3[2, 5, 12, 2] = reshape(v2)
    v4[2, 12, 5, 2] = permute(v3) {'order': (0, 2, 1, 3)}
    s[2, 12, 5, 5] = matmul(q2, k4)
    p[2, 12, 5, 5] = along(s) {'dims': (3,)}
    o2[2, 12, 5, 2] = matmul(p, v4)
    o1[2, 5, 12, 2] = permute(o2) {'order': (0, 2, 1, 3)}
    o[2, 5, 24] = reshape(o1)
    h[2, 5, 6] = linear(o, h.weight[6, 24])
"""


def test_heads_of_keys_that_several_queries_share_are_another_kind():
    assert kinds(SHARED) == {
        "e": "channel",
        "q/0": "kv heads",
        "q/1": "heads",
        "q/2": "head dimension",
        "v/1": "head dimension",
    }
    labels = [group.label for group in analyse(graph_of(SHARED)).groups]
    assert "heads per kv head" in labels


def test_one_product_of_activations_is_no_attention():
    text = """
        a[2, 5, 8] = linear(x[2, 5, 3], a.weight[8, 3])
        b[2, 5, 8] = linear(x, b.weight[8, 3])
        c[2, 8, 5] = permute(b) {'order': (0, 2, 1)}
        d[2, 5, 5] = matmul(a, c)
        e[2, 25] = reshape(d)
        h[2, 6] = linear(e, h.weight[6, 25])
    """
    assert kinds(text) == {"a": "channel"}


def test_weights_between_products_of_activations_part_them():
    text = """
        a[2, 5, 8] = linear(x[2, 5, 3], a.weight[8, 3])
        b[2, 8, 5] = permute(a) {'order': (0, 2, 1)}
        c[2, 5, 5] = matmul(a, b)
        d[2, 5, 7] = linear(c, d.weight[7, 5])
        e[2, 7, 5] = permute(d) {'order': (0, 2, 1)}
        f[2, 7, 7] = matmul(e, d)
        h[2, 7, 6] = linear(f, h.weight[6, 7])
    """
    assert set(kinds(text).values()) == {"channel"}


MLP = """
    e[2, 5, 12] = linear(x[2, 5, 3], e.weight[12, 3])
    u[2, 5, 8] = linear(e, u.weight[8, 12])
    g[2, 5, 8] = linear(e, g.weight[8, 12])
    a[2, 5, 8] = elementwise(u, g)
    d[2, 5, 12] = linear(a, d.weight[12, 8])
    r[2, 5, 12] = add(e, d)
    h[2, 5, 6] = linear(r, h.weight[6, 12])
"""


def test_what_stands_between_streams_is_an_mlp_width():
    assert kinds(MLP) == {"e": "hidden", "u": "MLP width"}


def test_without_an_addition_there_is_no_stream():
    text = MLP.replace("r[2, 5, 12] = add(e, d)", "r[2, 5, 12] = elementwise(d)")
    assert kinds(text) == {"e": "channel", "u": "channel", "d": "channel"}


def test_an_activation_that_adds_to_its_argument_is_no_stream():
    text = MLP.replace("elementwise(u, g)", "elementwise(t)").replace(
        "g[2, 5, 8] = linear(e, g.weight[8, 12])",
        "w[2, 5, 8] = elementwise(u)\n t[2, 5, 8] = add(u, w)",
    )
    assert kinds(text) == {"e": "hidden", "u": "MLP width"}


def test_a_width_between_layers_that_are_two_is_one_all_the_same():
    text = """
        e[2, 12] = linear(x[2, 3], e.weight[12, 3])
        f[2, 4] = linear(e, f.weight[4, 12])
        u[2, 8] = linear(f, u.weight[8, 4])
        a[2, 8] = elementwise(u)
        g[2, 5] = linear(a, g.weight[5, 8])
        d[2, 12] = linear(g, d.weight[12, 5])
        r[2, 12] = add(e, d)
        h[2, 6] = linear(r, h.weight[6, 12])
    """
    assert kinds(text) == {"e": "hidden", "f": "rank", "u": "MLP width", "g": "rank"}


@pytest.mark.parametrize(("kernel", "kind"), [(1, "MLP width"), (3, "rank")])
def test_a_width_is_made_and_read_position_by_position(kernel, kind):
    shape = f"{kernel}, {kernel}"
    text = f"""
        e[2, 12, 6, 6] = conv(x[2, 3, 6, 6], e.weight[12, 3, 1, 1]) {{'sizes': {{'g': 1}}}}
        u[2, 8, 6, 6] = conv(e, u.weight[8, 12, {shape}]) {{'sizes': {{'g': 1}}}}
        d[2, 12, 6, 6] = conv(u, d.weight[12, 8, {shape}]) {{'sizes': {{'g': 1}}}}
        r[2, 12, 6, 6] = add(e, d)
        p[2, 12] = reduce(r) {{'dims': (2, 3), 'reading': 'contract'}}
        h[2, 6] = linear(p, h.weight[6, 12])
    """
    assert kinds(text) == {"e": "hidden", "u": kind}


def test_a_width_with_a_depthwise_filter_is_a_channel():
    text = """
        e[2, 12, 6, 6] = conv(x[2, 3, 6, 6], e.weight[12, 3, 1, 1]) {'sizes': {'g': 1}}
        u[2, 8, 6, 6] = conv(e, u.weight[8, 12, 1, 1]) {'sizes': {'g': 1}}
        w[2, 8, 6, 6] = conv(u, w.weight[8, 1, 3, 3]) {'sizes': {'g': 8}, 'slots': {'groups': 'g'}}
        d[2, 12, 6, 6] = conv(w, d.weight[12, 8, 1, 1]) {'sizes': {'g': 1}}
        r[2, 12, 6, 6] = add(e, d)
        p[2, 12] = reduce(r) {'dims': (2, 3), 'reading': 'contract'}
        h[2, 6] = linear(p, h.weight[6, 12])
    """
    assert kinds(text) == {"e": "hidden", "u": "channel"}


@pytest.mark.parametrize(
    ("index", "kind"),
    [("ids[2, 5]", "vocabulary"), ("part", "vocabulary"), ("made", None)],
)
def test_a_vocabulary_is_looked_up_in_by_inputs(index, kind):
    text = f"""
        made[2, 5] = constant()
        whole[2, 6] = identity(ids0[2, 6])
        part[2, 5] = slice(whole) {{'ranges': ((0, 2, 1), (0, 5, 1))}}
        e[2, 5, 12] = embedding({index}, e.weight[40, 12])
        h[2, 5, 6] = linear(e, h.weight[6, 12])
    """
    assert kinds(text).get("e") == kind


def test_every_group_has_one_kind_and_one_label():
    for text in (*(QKV + attention + OUT for attention in ATTENTIONS.values()), SHARED, MLP):
        analysis = analyse(graph_of(text))
        items = [*analysis.groups, *analysis.branches]
        assert all(isinstance(item.kind, Kind) for item in items)
        assert len({item.label for item in items}) == len(items)


def test_what_weights_make_and_other_weights_sum_over_is_a_rank():
    text = """
        a[2, 8] = linear(x[2, 6], a.weight[8, 6])
        b[2, 8] = elementwise(a)
        r[2, 4] = linear(b, r.weight[4, 8])
        s[2, 9] = linear(r, s.weight[9, 4])
        t[2, 9] = elementwise(s)
        u[2, 5] = linear(t, u.weight[5, 9])
        v[2, 3] = linear(u, v.weight[3, 5])
        w[2, 3] = linear(u, w.weight[3, 5])
        y[2, 3] = add(v, w)
    """
    assert kinds(text) == {"a": "channel", "r": "rank", "s": "channel", "u": "channel"}
