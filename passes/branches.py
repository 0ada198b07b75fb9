"""Which operands of additions can be removed whole?

A branch is an operand whose producers serve that addition alone and that starts from a single
value, or where the skip starts (a mask or rotary angles may come in beside it), so that without
it the addition becomes its other operand. It has weights: what has none, or a table by position
alone, as the sine term of rotary positions, is cheap and no part of the model that anybody means.
Every addition keeps the operand with the fewest exclusive producers: its skip.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.kinds import ADDITIONS, ELEMENTWISE, PARTIAL_ADDITIONS, RESHAPED
from fxprune.passes.roles import Kind

_ROOT = "network input"
_SUMS = ADDITIONS | PARTIAL_ADDITIONS
_DEEPEST = 64
"""What lies in so many branches is in no further one: a sum of thousands of terms, written one
after the other, would else have as many branches inside of one another."""

_FEW = 32
"""The steps of a norm that is written out, and more."""


Summand = tuple[str, int]
"""An addition and the number of one of its operands."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Something that can be removed: `nodes` go with it.

    A model that does different things in training and in evaluation, or on several examples, has it
    once in each of these ways, so there may be several places. `place` is the module that it
    belongs to, `label` says so, for people. A layer `joins` branches, by name, which go together.
    """

    name: str
    places: tuple[Summand, ...]
    nodes: tuple[str, ...]
    place: str = ""
    label: str = ""
    kind: Kind = Kind.BRANCH
    joins: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = " and ".join(f"operand {operand} of {node}" for node, operand in self.places)
        return f"{self.name}: {where}, {len(self.nodes)} nodes"


@dataclass(frozen=True, slots=True)
class _Candidate:
    place: Summand
    cone: tuple[Node, ...]

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(name for node in self.cone for name in _parameters(node))


def _parameters(node: Node) -> list[str]:
    kinds = ((value.name, value.kind) for value in node.inputs if value is not None)
    return [name for name, kind in kinds if kind is ValueKind.PARAMETER]


def parameters_of(graph: Graph, nodes: Collection[str]) -> frozenset[str]:
    """The parameters that some nodes read, by their names."""
    inside = set(nodes)
    return frozenset(name for n in graph.nodes if n.name in inside for name in _parameters(n))


def ends_of(
    branch: Branch, nodes: Mapping[str, Node]
) -> tuple[tuple[Value, tuple[Value, ...]], ...]:
    """The sums that a branch ends in, each with what it is without the branch.

    What adds to its own sum, as a layer does, ends where it has added all; without it that is what
    it begins with.
    """
    ends: dict[str, tuple[Value, tuple[Value, ...]]] = {}
    for addition, operand in branch.places:
        node = nodes[addition]
        summands = node.inputs[:1] if node.op in PARTIAL_ADDITIONS else node.inputs
        others: list[Value] = []
        for place, value in enumerate(summands):
            if value is not None and place != operand:
                others += ends.pop(value.name, (value, (value,)))[1]
        whole = node.outputs[0]
        ends[whole.name] = whole, tuple(others)
    return tuple(ends.values())


def find_branches(graph: Graph) -> tuple[Branch, ...]:
    """The removable branches, in graph order.

    Ensures: names are unique; at least one operand of every addition is no branch; what several
    ways of the model each have a version of is one branch.
    """
    ways = [graph.evaluated(), *map(graph.needed, graph.others)]
    found = [_Search(graph, running).all_candidates() for running in ways]
    read = [parameters_of(graph, running) for running in ways]
    names = _Names()
    branches = []
    for versions in _matched(found, ways, read):
        if not any(map(_holds_weights, (node for version in versions for node in version.cone))):
            continue
        nodes = (node.name for version in versions for node in version.cone)
        branches.append(
            Branch(
                names.unique(versions[0]),
                tuple(dict.fromkeys(version.place for version in versions)),
                tuple(dict.fromkeys(nodes)),
            )
        )
    return tuple(branches)


def _holds_weights(node: Node) -> bool:
    """Whether a node reads parameters that are no numbers and no table by position."""
    read = [v for v in node.inputs if v is not None and v.kind is ValueKind.PARAMETER]
    vectors = (value for value in read if sum(size > 1 for size in value.shape) == 1)
    return bool(read) if node.op not in ELEMENTWISE else any(vectors)


def _matched(
    found: list[list[_Candidate]], ways: list[set[str]], read: list[frozenset[str]]
) -> list[list[_Candidate]]:
    """The versions that the ways of a model have of one branch: one way each, the first foremost.

    They are at the same place, or have the same parameters, in order. A way without a version runs
    nothing of the branch, and nothing of its parameters.
    """
    first, waiting = found[0], [list(candidates) for candidates in found[1:]]
    matched = []
    for candidate in first:
        versions: list[_Candidate] | None = [candidate]
        for candidates, running, known in zip(waiting, ways[1:], read[1:], strict=True):
            twin = next((c for c in candidates if c.place == candidate.place), None) or next(
                (c for c in candidates if c.parameters and c.parameters == candidate.parameters),
                None,
            )
            if twin:
                candidates.remove(twin)
                if versions is not None:
                    versions.append(twin)
            elif known & candidate.parameters or any(n.name in running for n in candidate.cone):
                versions = None
        if versions is not None:
            matched.append(versions)
    return matched


class _Names:
    """Names for branches, each given once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, candidate: _Candidate) -> str:
        """The longest module path shared by the parameters inside, else the addition."""
        paths = [name.split(".")[:-2] for name in sorted(candidate.parameters)]
        common = _common_prefix(paths)
        name = ".".join(common) + "+" if common else candidate.place[0] + "+"
        while name in self._taken:
            name += "+"
        self._taken.add(name)
        return name


def readers_through(user: Node) -> tuple[str, ...]:
    """Who reads a value through `user`: those that a size feeds stand for the question itself."""
    feeds = user.attributes.get("feeds", ()) if user.op == "size" else (user.name,)
    assert isinstance(feeds, tuple)
    return feeds


class _Search:
    """The graph's readers and producers, and what depends on its input, computed once."""

    def __init__(self, graph: Graph, running: set[str]) -> None:
        """`running` are the nodes of the mode that is looked at."""
        self._additions = [n for n in graph.nodes if n.op in _SUMS and n.name in running]
        self._producers = graph.producers()
        users = graph.users()
        self._readers: dict[str, set[str]] = {
            name: {reader for user in own for reader in readers_through(user) if reader in running}
            for name, own in users.items()
        }
        self._takers = {
            name: {user.name for user in own if user.op != "size" and user.name in running}
            for name, own in users.items()
        }
        for value in graph.outputs:
            self._readers.setdefault(value.name, set()).add("network output")
        self._from_input = nx.descendants(self._flow(graph), _ROOT)
        self._enclosing: Counter[Node] = Counter()
        self._deep: set[Node] = set()

    def _flow(self, graph: Graph) -> "nx.DiGraph[str]":
        edges: dict[tuple[str, str], None] = {}
        for node in graph.nodes:
            shaping = node.op in RESHAPED  # a second operand only lends its shape
            for value in node.inputs[:1] if shaping else node.inputs:
                if value is None or value.kind is ValueKind.PARAMETER:
                    continue
                producer = self._producers.get(value.name)
                edges[producer.name if producer else _ROOT, node.name] = None
        flow: nx.DiGraph[str] = nx.DiGraph()
        flow.add_node(_ROOT)
        flow.add_edges_from(edges)
        return flow

    def all_candidates(self) -> list[_Candidate]:
        """The removable operands of every addition, in order."""
        found: list[_Candidate] = []
        for addition in self._additions:
            candidates = self._candidates(addition)
            found.extend(candidates)
            self._enclosing.update(node for each in candidates for node in each.cone)
        return found

    def _candidates(self, addition: Node) -> list[_Candidate]:
        """The removable operands of one addition."""
        operands = self._operands(addition)
        if not operands or not all(map(self._depends_on_input, operands.values())):
            return []
        names = {value.name for value in operands.values()}
        cones = {
            index: self._cone(value, addition, names - {value.name})
            for index, value in operands.items()
        }
        deep = [index for index, cone in cones.items() if self._reaches_deep(cone)]
        if addition.op in PARTIAL_ADDITIONS:  # what is added to positions of a whole is the branch
            skip = 0
        else:
            skip = min(cones, key=lambda i: (i not in deep, *_length(operands[i], cones[i])))
        around = {operands[skip].name} | self._entries(cones[skip])
        return [
            _Candidate((addition.name, index), tuple(cone))
            for index, cone in cones.items()
            if index != skip and index not in deep and cone and self._goes_around(cone, around)
        ]

    def _operands(self, addition: Node) -> dict[int, Value]:
        """What is added up, by place: values of the shape of the sum, or a whole and a part."""
        if addition.op in PARTIAL_ADDITIONS:
            whole, _, part = addition.inputs
            assert whole is not None and part is not None
            return {0: whole, 2: part} if whole is not part else {}
        operands = {index: v for index, v in enumerate(addition.inputs) if v is not None}
        shapes = {value.shape for value in operands.values()} | {addition.outputs[0].shape}
        distinct = len(set(operands.values())) == len(operands) > 1
        return operands if distinct and len(shapes) == 1 else {}

    def _depends_on_input(self, value: Value) -> bool:
        producer = self._producers.get(value.name)
        return producer.name in self._from_input if producer else value.kind is ValueKind.INPUT

    def _cone(self, value: Value, addition: Node, others: set[str]) -> list[Node]:
        """The nodes whose results reach nothing but this operand, last first."""
        inside = {addition.name}
        cone: dict[Node, None] = {}  # by object: one call may be several nodes
        candidates = [value]
        waiting: list[Value] = []  # until a node that asks for their size is inside
        while candidates:
            candidate = candidates.pop()
            producer = self._producers.get(candidate.name)
            if producer is None or producer in cone:
                continue
            names = [out.name for out in producer.outputs]
            if others.isdisjoint(names) and all(
                self._readers.get(name, set()) <= inside for name in names
            ):
                inside.add(producer.name)
                cone[producer] = None
                if self._is_deep(producer):
                    break
                candidates.extend(waiting)
                candidates.extend(v for v in producer.inputs if v is not None)
                waiting.clear()
            else:
                waiting.append(candidate)
        return list(cone)

    def _is_deep(self, node: Node) -> bool:
        return node in self._deep or self._enclosing[node] >= _DEEPEST

    def _reaches_deep(self, cone: list[Node]) -> bool:
        """Whether a cone ended at something that is in no further branch: nor is then all of it."""
        if not cone or not self._is_deep(cone[-1]):
            return False
        self._deep.add(cone[0])
        return True

    def _goes_around(self, cone: list[Node], around: set[str]) -> bool:
        """Whether a cone starts where the skip does, or at one value, or behind a norm of the skip
        that other branches read as well; beside masks and the like."""
        entries = self._entries(cone)
        if len(entries) == 1 or not entries.isdisjoint(around):
            return True
        near = ((name, *self._near(name, around)) for name in entries)
        behind = [(name, alone) for name, found, alone in near if found]
        if [alone for _, alone in behind] != [True]:
            return False  # another would be made of the norm
        return not self._takers[behind[0][0]] <= {node.name for node in cone}

    def _near(self, name: str, sources: set[str]) -> tuple[bool, bool]:
        """Whether a value is soon computed from one of `sources`, and whether from these alone."""
        pending, seen, found, alone = [name], {name}, False, True
        while pending:
            name = pending.pop(0)
            producer = self._producers.get(name)
            if name in sources:
                found = True
            elif producer is None or len(seen) > _FEW:
                alone = False
            else:
                read = (v for v in producer.inputs if v and v.kind is not ValueKind.PARAMETER)
                more = [v.name for v in read if v.name not in seen]
                pending += more
                seen.update(more)
        return found, alone

    def _entries(self, cone: list[Node]) -> set[str]:
        """The values from outside that a cone reads, parameters aside."""
        inside = {node.name for node in cone}
        return {
            value.name
            for node in cone
            for value in node.inputs
            if value is not None
            and value.kind is not ValueKind.PARAMETER
            and getattr(self._producers.get(value.name), "name", None) not in inside
        }


def _length(value: Value, cone: list[Node]) -> tuple[int, bool, int]:
    """How long the way to a value through its cone is: the nodes of the shortest, whether the value
    is no sum itself, all nodes."""
    inside = {output.name: node for node in cone for output in node.outputs}
    steps, reached = 0, {value.name}
    while reached and reached <= inside.keys():
        steps += 1
        read = (v for name in reached for v in inside[name].inputs if v is not None)
        reached = {v.name for v in read if v.kind is not ValueKind.PARAMETER}
    return steps, not cone or cone[0].op not in _SUMS, len(cone)


def _common_prefix(paths: list[list[str]]) -> list[str]:
    if not paths:
        return []
    prefix = paths[0]
    for path in paths[1:]:
        length = next(
            (i for i, (a, b) in enumerate(zip(prefix, path, strict=False)) if a != b),
            min(len(prefix), len(path)),
        )
        prefix = prefix[:length]
    return prefix
