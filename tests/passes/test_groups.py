"""Which channels belong together and what they are called."""

from fxprune.passes.analyse import analyse
from fxprune.passes.groups import find_groups
from fxprune.passes.infer import infer
from tests.passes.example import example
from tests.passes.written import graph_of, lines


def groups_of(text, **options):
    return "\n".join(map(str, analyse(graph_of(text), **options).groups))


def test_members_are_all_parameter_axes_of_the_space():
    assert "\n".join(map(str, example().groups)) == lines(
        """
        a 8 free [a.weight:0, a.bias:0, b.weight:1, c.weight:0, e.weight:1, h.weight:1]
        a.weight:1 3 pinned: network input [a.weight:1]
        b 6 free [b.weight:0, m.running:0, v.running:0, n.weight:0, n.bias:0, c.weight:1]
        e 5 free [e.weight:0, h.weight:1]
        h 4 pinned: network output [h.weight:0]
        """
    )


def test_parts_and_factors_are_named_by_where_they_stand():
    assert groups_of(
        """
        a[2, 12] = linear(x[2, 3], a.weight[12, 3])
        b[2, 4], c[2, 8] = split(a) {'dim': 1}
        d[2, 4, 2] = reshape(c)
        e[2, 4] = reduce(d) {'dims': (2,), 'reading': 'contract'}
        f[2, 4] = add(b, e)
        g[2, 3] = linear(b, g.weight[3, 4])
        h[2, 3] = linear(e, h.weight[3, 4])
        i[2, 3] = add(g, h)
        """
    ) == lines(
        """
        a[0:4] 4 free [a.weight:0, g.weight:1, h.weight:1]
        a[4:12]/1 2 free [a.weight:0]
        a.weight:1 3 pinned: network input [a.weight:1]
        g 3 pinned: network output [g.weight:0, h.weight:0]
        """
    )


def test_spaces_that_nobody_reads_are_no_groups():
    assert (
        groups_of(
            """
        a[2, 4] = linear(x[2, 3], a.weight[4, 3])
        b[2, 3] = elementwise(x)
        """
        )
        == "a.weight:1 3 pinned: network input [a.weight:1]"
    )


def test_kernel_positions_are_no_groups():
    found = find_groups(example().graph, example().types)
    assert not any(group.name.endswith((":2", ":3")) for group in found)


def test_names_are_unique_where_two_spaces_share_a_parameter():
    text = """
        a[2, 4, 4] = conv(x[2, 3, 4], a.weight[4, 3, 1]) {'sizes': {'g': 1}}
        b[2, 6, 4] = conv(a, b.weight[6, 2, 1]) {'sizes': {'g': 2}, 'slots': {'groups': 'g'}}
        c[2, 3, 4] = conv(b, c.weight[3, 6, 1]) {'sizes': {'g': 1}}
    """
    names = [group.name for group in find_groups(graph_of(text), infer(graph_of(text)))]
    assert len(set(names)) == len(names)
    assert groups_of(text) == lines(
        """
        a/0 2 free [a.weight:0, b.weight:0, c.weight:1]
        a/1 2 free [a.weight:0, b.weight:1]
        a.weight:1 3 pinned: network input [a.weight:1]
        b/1 3 free [b.weight:0, c.weight:1]
        c 3 pinned: network output [c.weight:0]
        """
    )


def test_ignored_module_pins_its_group():
    text = """
        a[2, 8] = linear(x[2, 3], a.weight[8, 3])
        b[2, 4] = linear(a, b.weight[4, 8])
    """
    assert groups_of(text, ignored=["a.weight"]).startswith("a 8 pinned: ignored by the caller")
