"""Graphs and types as text, so that a test shows what goes in and what comes out.

    graph_of('''
        y[2, 8, 5, 5] = conv(x[2, 3, 5, 5], first.weight[8, 3, 1, 1])
        z[2, 8, 5, 5] = elementwise(y)
    ''')

Shapes stand where a name is first seen. A name with a dot is a trained parameter (a buffer if it
ends in `running`), one that nobody computes an input, `-` an absent operand. Attributes follow in
braces, as Python. The last line computes the output, unless outputs are named.
"""

import re
from string import ascii_lowercase

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.axes import Axis, Unifier, spaces
from fxprune.passes.facts import Types

_LINE = re.compile(r"(?P<left>.*?) = (?P<op>[\w.]+)\((?P<right>.*?)\)\s*(?P<attributes>\{.*\})?$")
_VALUE = re.compile(r"(?P<name>[\w.]+|-)(?:\[(?P<shape>[\d, ]*)\])?")


def graph_of(text: str, outputs: tuple[str, ...] = (), batch: int = 2) -> Graph:
    """Build a graph from its text."""
    values: dict[str, Value] = {}
    nodes = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _LINE.match(line)
        assert match, f"not a line of a graph: {line}"
        inputs = tuple(_values(match["right"], values, ValueKind.INPUT))
        results = tuple(filter(None, _values(match["left"], values, ValueKind.COMPUTED)))
        attributes = eval(match["attributes"] or "{}")
        name = results[0].name if results else f"{match['op']}_{len(nodes)}"
        nodes.append(Node(name, match["op"], inputs, results, attributes))
    returned = tuple(values[name] for name in outputs) or nodes[-1].outputs
    return Graph(
        inputs=tuple(v for v in values.values() if v.kind is ValueKind.INPUT),
        nodes=tuple(nodes),
        outputs=returned,
        results=returned,
        parameters=tuple(v for v in values.values() if v.kind is ValueKind.PARAMETER),
        batch=batch,
    )


def _values(text: str, values: dict[str, Value], kind: ValueKind) -> list[Value | None]:
    found: list[Value | None] = []
    for match in _VALUE.finditer(text):
        name, shape = match["name"], match["shape"]
        if name == "-":
            found.append(None)
            continue
        if name not in values:
            assert shape is not None, f"{name} has no shape"
            sizes = tuple(int(size) for size in shape.split(",") if size.strip())
            own = ValueKind.PARAMETER if "." in name else kind
            trained = own is ValueKind.PARAMETER and not name.endswith("running")
            values[name] = Value(name, sizes, own, trained)
        found.append(values[name])
    return found


def lettered(*items: object) -> str:
    """The text of types or axes with spaces called a, b, c in the order in which they appear."""
    letters: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return letters.setdefault(match[0], ascii_lowercase[len(letters)]) + match[1]

    return "\n".join(re.sub(r"\bs-?\d+(:\d+)", rename, str(item)) for item in items)


def written(unifier: Unifier, *axes: Axis) -> str:
    """Resolved axes, lettered, pinned spaces with their reasons below."""
    resolved = [unifier.resolve(axis) for axis in axes]
    return lettered(*resolved)


def facts(types: Types) -> str:
    """Types, then what readers read, then which literals are sizes of free axes; lettered."""
    free = [item for item in types.literals if not all(s in types.pins for s in spaces(item.axis))]
    return lettered(
        types,
        *(
            f"{r.node} reads {r.operand}:{r.dim} {r.axis} ({r.reading.value})"
            for r in types.readers
        ),
        *(f"{item.node}.{item.slot[0]}[{item.slot[1]}] is {item.axis}" for item in free),
    )


def lines(text: str) -> str:
    """A text block without its indentation."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))
