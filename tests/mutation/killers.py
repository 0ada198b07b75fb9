"""What should notice a sabotage: laws on a fixed set of drawn networks, and the tests of passes.

The bodies of the laws are those of `tests/test_laws.py`. The networks are drawn once, some around
every kind of step; a sabotage is tried in a child process, which ends at the first failure.
"""

import copy
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fxprune.testing import OPS, Network, networks
from tests import test_laws as laws
from tests.forking import fork
from tests.mutation.table import Sabotage

LAWS = (
    laws.test_gated_equals_folded,
    laws.test_predicted_costs_are_counted_on_the_folded_model,
    laws.test_predicted_costs_are_those_of_the_folded_model_read_anew,
    laws.test_gated_equals_folded_while_training,
)
OPEN_LAWS = (laws.test_open_gates_change_no_bit,)
PASS_TESTS = Path(__file__).parent.parent / "passes"
NO_ERROR = ("-W", "default")  # warnings that modules are imported already, or hypothesis in use
QUIET = list(HealthCheck)
Check = Callable[[], None]


def drawn(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """The last few of some examples, which are the largest, always the same."""
    found: list[Any] = []

    @seed(0)
    @settings(max_examples=16, database=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(strategy)
    def look(value: Any) -> None:
        found.append(value)

    look()
    return found[-number:]


PLAIN = {2: "conv", "sequence": "linear"}
AROUND = {f"{dims} {op}": (dims, op) for dims in PLAIN for op in OPS[dims]}  # type: ignore[index]
"""What networks are drawn around, by name."""


@functools.cache
def networks_around(name: str) -> tuple[Network, ...]:
    """Some networks around a kind of step."""
    dims, op = AROUND[name]
    around = networks((op, PLAIN[dims]), dims=dims, max_nodes=4)  # type: ignore[arg-type]
    return tuple(drawn(around, 6))


def ordered(first: str) -> list[str]:
    """All names, those that contain `first` at the beginning."""
    return sorted(AROUND, key=lambda name: first not in name)


def checks(names: Iterable[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The laws on networks of these names, each with what it is called."""
    for name in names:
        for network in networks_around(name):
            for law in (*OPEN_LAWS, *LAWS):
                if law is laws.test_gated_equals_folded_while_training and "dropout" in name:
                    continue
                inner = law.hypothesis.inner_test  # type: ignore[attr-defined]
                yield f"{law.__name__} ({name})", functools.partial(_law, inner, network)


def _law(inner: Callable[..., None], network: Network) -> None:
    @seed(0)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=QUIET,
    )
    @given(st.data())
    def law(data: st.DataObject) -> None:
        second = True if inner is OPEN_LAWS[0].hypothesis.inner_test else data  # type: ignore[attr-defined]
        torch.manual_seed(0)
        inner(copy.deepcopy(network), second)

    law()


def _pass_tests() -> None:
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *NO_ERROR, str(PASS_TESTS)])
    failed = [line for line in output.getvalue().splitlines() if line.startswith("FAILED")]
    if failed:
        raise AssertionError(failed[0])
    if status != 0:
        sys.exit(output.getvalue()[-500:])  # they did not run, so nobody has noticed anything


def killer_of(sabotage: Sabotage, names: Sequence[str], last: Check = _pass_tests) -> str:
    """What notices a sabotage: a law on networks of these names, the last check, or nothing."""
    for name in names:
        networks_around(name)  # drawn without the sabotage, and shared with the child
    receiver, sender = os.pipe()

    def look() -> None:
        os.close(receiver)
        os.write(sender, _first_failure(sabotage, names, last).encode())

    child = fork(look)
    os.close(sender)
    with os.fdopen(receiver) as stream:
        killer = stream.read()
    os.waitpid(child, 0)
    return killer


def _first_failure(sabotage: Sabotage, names: Sequence[str], last: Check) -> str:
    quiet = redirect_stderr(io.StringIO())  # torch.fx prints the code that fails
    with sabotage.applied(), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        for name, check in (*checks(names), ("tests/passes", last)):
            try:
                check()
            except Exception as error:
                detail = str(error).splitlines()[0][:80] if str(error) else ""
                return f"{name}: {type(error).__name__} {detail}"
    return ""
