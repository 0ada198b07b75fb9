"""The network that the tests of plans look at: a residual branch, a concatenation, a flattening."""

from fxprune.passes.analyse import Analysis, analyse
from tests.passes.written import graph_of

TEXT = """
    a[2, 8, 6, 6] = conv(x[2, 3, 6, 6], a.weight[8, 3, 3, 3], a.bias[8]) {PLAIN}
    b[2, 6, 6, 6] = conv(a, b.weight[6, 8, 1, 1]) {PLAIN}
    n[2, 6, 6, 6] = batch_norm(b, m.running[6], v.running[6], n.weight[6], n.bias[6]) {NORM}
    c[2, 8, 6, 6] = conv(n, c.weight[8, 6, 1, 1]) {PLAIN}
    d[2, 8, 6, 6] = add(a, c)
    e[2, 5, 6, 6] = conv(a, e.weight[5, 8, 1, 1]) {PLAIN}
    f[2, 13, 6, 6] = cat(d, e) {'dim': 1}
    g[2, 468] = reshape(f)
    h[2, 4] = linear(g, h.weight[4, 468])
""".replace("{PLAIN}", "{'sizes': {'g': 1}, 'slots': {'out_channels': 'g o'}}").replace(
    "{NORM}", "{'slots': {'num_features': 'c'}}"
)


def example() -> Analysis:
    """The analysed network."""
    return analyse(graph_of(TEXT))
