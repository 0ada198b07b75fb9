"""What opens under a limit: random gates, ties and costs."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.filling import Filling, PointArrayCost
from fxprune.layout import Layout
from fxprune.passes.polynomials import Polynomial
from fxprune.passes.ties import steps_of


@dataclass(frozen=True)
class Case:
    """Gates of random sizes, of which some are tied, with costs, ranks and a limit."""

    layout: Layout
    cost: PointArrayCost
    rank: np.ndarray
    round_to: int
    least: tuple[int, ...]
    share: float

    def filling(self) -> Filling:
        return Filling({"cost": self.cost}, self.layout, self.round_to, self.least)

    def counts(self, flags: np.ndarray) -> np.ndarray:
        parts = np.split(flags, np.cumsum(self.layout.sizes)[:-1])
        return np.array([part.sum() for part in parts], dtype=float)

    @property
    def owners(self) -> list[tuple[int, ...]]:
        """The places of what opens together: tied groups, others alone."""
        tied = {place: tie for tie in self.layout.ties for place in tie}
        return list(dict.fromkeys(tied.get(p, (p,)) for p in range(len(self.layout.sizes))))

    def step(self, places: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """What one step adds to each gate, and how many steps open together."""
        sizes = self.layout.sizes
        known = dict(zip(self.layout.ties, self.layout.steps, strict=True))
        steps = known.get(places, sizes[places[0]])
        added = np.zeros(len(sizes))
        added[list(places)] = [sizes[place] // steps for place in places]
        rounding = self.round_to if places[0] < self.layout.groups else 1
        width = next(n for n in range(1, 99) if not (added[list(places)] * n % rounding).any())
        return added, width


@st.composite
def cases(draw) -> Case:
    steps, ties, sizes = draw(st.integers(2, 5)), draw(st.sampled_from((1, 2, 0))), []
    places: list[tuple[int, ...]] = []
    for _ in range(ties):
        count = draw(st.integers(2, 3))
        places.append(tuple(range(len(sizes), len(sizes) + count)))
        sizes += [steps * draw(st.integers(1, 3)) for _ in range(count)]
    sizes += draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))
    if draw(st.booleans()):  # a group of its own, in steps
        places.append((len(sizes) - 1,))
    branches = draw(st.integers(0, 3))
    subsets = st.sets(st.integers(0, len(sizes) - 1)).map(sorted).map(tuple)
    inside = (*(() for _ in sizes), *(draw(subsets) for _ in range(branches)))
    names = tuple("abcdefghijklm"[: len(sizes) + branches])
    most = (steps_of(sizes[place] for place in tie) for tie in places)
    parts = tuple(draw(st.sampled_from([n for n in range(1, m + 1) if m % n == 0])) for m in most)
    every, fan_out = (*sizes, *(1,) * branches), (1,) * len(names)
    layers = tuple(range(len(sizes), len(names)))
    stay = draw(st.integers(0, len(layers)))
    lists = ((layers, stay),) if len(layers) > 1 and draw(st.booleans()) else ()
    layout = Layout(names, every, len(sizes), inside, fan_out, tuple(places), parts, lists=lists)
    pairs = st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True).map(sorted)
    products = draw(st.lists(pairs.map(tuple), max_size=4)) if len(names) > 1 else []
    terms = [(draw(st.integers(1, 5)), own) for own in (*((name,) for name in names), *products)]
    cost = PointArrayCost([Polynomial(tuple(terms))], {name: i for i, name in enumerate(names)})
    rank = draw(
        st.lists(
            st.sampled_from((0.0, 0.5, 1.0, 1.5, 2.0)),
            min_size=layout.total,
            max_size=layout.total,
        )
    )
    least = tuple(draw(st.sampled_from((1, max(size // 2, 1)))) for size in sizes)
    share = draw(st.sampled_from((0.9, 0.5, 0.2)))
    return Case(layout, cost, np.array(rank), draw(st.sampled_from((1, 2, 3))), least, share)


def limit_of(case: Case) -> dict[str, float]:
    """Between the cost of the smallest and of everything, so that it can be met."""
    nothing = case.filling().choose(case.rank, {"cost": 0.0})
    least, full = (case.cost(counts) for counts in (case.counts(nothing), sizes_of(case)))
    return {"cost": least + case.share * (full - least)}


def sizes_of(case: Case) -> np.ndarray:
    return np.array(case.layout.sizes, dtype=float)


@settings(max_examples=300)
@given(cases())
def test_tied_groups_keep_equal_shares_in_whole_steps_within_the_limit(case):
    limit = limit_of(case)
    counts = case.counts(case.filling().choose(case.rank, limit))
    assert case.cost(counts) <= limit["cost"] * (1 + 1e-9)
    sizes = sizes_of(case)
    for places in case.owners:
        added, width = case.step(places)
        steps = {counts[place] / added[place] for place in places}
        assert len(steps) == 1
        whole = steps.pop()
        assert whole % width == 0 or all(counts[p] == sizes[p] for p in places)
        for place in places:
            if place < case.layout.groups:
                assert counts[place] >= case.least[place]


@settings(max_examples=300)
@given(cases())
def test_no_step_that_fits_stays_closed(case):
    limit = limit_of(case)
    counts, sizes = case.counts(case.filling().choose(case.rank, limit)), sizes_of(case)
    for places in case.owners:
        added, width = case.step(places)
        more = np.minimum(counts + added * width, sizes)
        assert np.array_equal(more, counts) or case.cost(more) > limit["cost"] * (1 + 1e-12)


@settings(max_examples=300)
@given(cases())
def test_the_best_layers_of_a_list_stay(case):
    wanted = [len(layers) // 2 for layers, _ in case.layout.lists]
    asked = replace(case, least=(*case.least, *wanted))
    starts = np.cumsum([0, *case.layout.sizes])
    for each, more in ((case, [0] * len(wanted)), (asked, wanted)):
        flags = each.filling().choose(case.rank, {"cost": 0.0})
        for (layers, stay), own in zip(case.layout.lists, more, strict=True):
            positions = starts[list(layers)]
            ranks, is_open = case.rank[positions], flags[positions]
            assert is_open.sum() == max(stay, own)
            assert ranks[is_open].min(initial=9) >= ranks[~is_open].max(initial=0)


@settings(max_examples=300)
@given(cases())
def test_ranks_decide_within_a_group(case):
    flags = case.filling().choose(case.rank, limit_of(case))
    starts = np.cumsum([0, *case.layout.sizes])
    for place in range(case.layout.groups):
        own = slice(starts[place], starts[place + 1])
        ranks, is_open = case.rank[own], flags[own]
        if ranks.any() and not is_open.all():
            assert ranks[is_open].min() >= ranks[~is_open].max()
