"""What should notice a sabotage: laws on drawn networks, samples of ONNX operators, unit tests.

The bodies of the laws are those of `tests/torch/test_laws.py`. The networks are drawn once, some
around every kind of step. A sabotage is tried in a child process, which ends at the first failure;
what has failed must pass in another child without the sabotage.
"""

import copy
import functools
import io
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fxprune.testing import OPS, Network, networks
from tests.forking import fork
from tests.mutation.table import Sabotage
from tests.onnx import test_criteria, test_fold, test_prune, test_refit
from tests.onnx.frontend.test_spellings import SAMPLES, test_masked_and_folded_models_agree
from tests.torch import test_criteria_on_data, test_factorise, test_ranking
from tests.torch import test_laws as laws
from tests.torch import test_refit as test_torch_refit
from tests.torch.backend import test_ties

LAWS = (
    laws.test_gated_equals_folded,
    laws.test_predicted_costs_are_counted_on_the_folded_model,
    laws.test_predicted_costs_are_those_of_the_folded_model_read_anew,
    laws.test_gated_equals_folded_while_training,
)
OPEN_LAWS = (laws.test_open_gates_change_no_bit,)
PLAIN = {2: "conv", "sequence": "linear"}
AROUND = {f"{dims} {op}": (dims, op) for dims in PLAIN for op in OPS[dims]}  # type: ignore[index]
"""What networks are drawn around, by name."""

TESTS = Path(__file__).parent.parent


def quick_tests(module: ModuleType) -> list[str]:
    """The names of the tests of a module but for slow ones, which would not run."""
    return [
        name
        for name, test in vars(module).items()
        if name.startswith("test_")
        and all(mark.name != "slow" for mark in getattr(test, "pytestmark", ()))
    ]


FILES = (
    *(f"tests/passes/{file.name}" for file in sorted(TESTS.glob("passes/test_*.py"))),
    "tests/torch/backend/test_in_kind.py",
    "tests/torch/backend/test_gate_in_kind.py",
    "tests/torch/backend/test_masked_forms.py",
    "tests/torch/backend/test_owned.py",
    "tests/torch/backend/test_places.py",
    "tests/torch/backend/test_constructor.py",
    "tests/torch/backend/test_depth.py",
    "tests/torch/backend/test_proof.py",
    *(f"tests/torch/backend/test_ties.py::{test}" for test in quick_tests(test_ties)),
    "tests/torch/backend/test_elimination.py",
    *(
        f"tests/test_selectors.py::test_what_is_ignored_is_not_closed[torch-ignore{number}-"
        f"whole{number}-free{number}]"
        for number in (0, 2)
    ),
    *(
        f"tests/test_certificates.py::{test}"
        for test in (
            "test_a_changed_byte_is_noticed[file]",
            "test_another_source_is_noticed[file]",
            "test_a_tampered_error_is_noticed_with_the_source[file-0.9]",
            "test_weights_that_were_solved_anew_are_compared_by_size",
        )
    ),
    "tests/torch/frontend/test_numbers.py",
    "tests/torch/gates/test_methods.py",
    "tests/torch/test_storage.py",
    *(
        f"tests/torch/test_uniform.py::{test}"
        for test in (
            "test_groups_of_other_sizes_are_not_at_one_place",
            "test_the_stream_follows_heads_where_a_configuration_divides_one_by_the_other",
            "test_every_number_of_a_configuration_follows",
            "test_a_stream_keeps_multiples_of_heads_where_the_configuration_wants_them",
            "test_a_decoder_of_fewer_layers_comes_back_from_its_configuration[llama-0]",
            "test_lists_keep_the_share_of_layers_that_is_asked_for[True-0.6-2]",
        )
    ),
    *(
        f"tests/torch/test_factorise.py::{test}"
        for test in quick_tests(test_factorise)
        if not test.startswith("test_random")
    ),
    "tests/torch/test_mixture.py",
    "tests/test_tradeoffs.py",
    "tests/torch/test_consuming.py",
    "tests/torch/test_hankel.py",
    "tests/torch/test_prune_checkpoint.py",
    "tests/torch/test_several_examples.py",
    "tests/torch/frontend/test_in_place.py",
    "tests/torch/frontend/test_compiled.py::test_removed_branches_are_not_asked_for_their_type",
    "tests/torch/frontend/test_compiled.py::"
    "test_both_results_of_broadcast_tensors_have_the_channels_of_their_operands",
    "tests/torch/frontend/test_global_state.py::"
    "test_what_forward_imports_sees_nothing_of_the_trace",
    "tests/torch/frontend/test_global_state.py::"
    "test_bounds_of_slices_are_plain_numbers_after_a_fold",
    "tests/torch/frontend/test_global_state.py::test_forward_keeps_nothing_of_the_trace",
    "tests/torch/frontend/test_global_state.py::"
    "test_what_keeps_results_from_the_second_run_on_keeps_nothing_of_the_trace",
    "tests/torch/frontend/test_formulas.py::"
    "test_layers_one_after_another_are_those_of_torch_with_their_hooks",
    "tests/test_files.py",
    "tests/test_filling.py",
    "tests/test_ranking.py",
    "tests/test_flow.py",
    *(
        f"tests/torch/{file.__name__.rpartition('.')[2]}.py::{test}"
        for file in (test_criteria_on_data, test_torch_refit)
        for test in quick_tests(file)
    ),
    *(f"tests/torch/test_ranking.py::{test}" for test in quick_tests(test_ranking)),
    "tests/torch/test_schedule.py",
    "tests/torch/test_search.py",
    "tests/torch/test_sensitivity.py",
    "tests/torch/test_zero_cost.py",
    "tests/test_overwriting.py",
    "tests/test_arguments.py",
    "tests/test_agreement.py",
    "tests/test_time_search.py",
    "tests/test_timing.py",
    "tests/torch/test_what_is_shown.py",
    "tests/onnx/test_what_is_shown.py",
    "tests/onnx/test_left_out.py",
    "tests/onnx/test_factorise.py",
    "tests/onnx/test_quantize.py",
    "tests/torch/test_sizes.py",
    "tests/onnx/frontend/test_sizes.py",
    *(
        f"tests/onnx/{file.__name__.rpartition('.')[2]}.py::{test}"
        for file in (test_prune, test_criteria, test_refit, test_fold)
        for test in quick_tests(file)
    ),
)
NAMES = (*AROUND, *(f"onnx {op_type}" for op_type in SAMPLES), *FILES)
"""All that can notice something: steps of networks, operators of ONNX, files of tests, tests."""

DRAWN = 60
CHOSEN = 12
KEEP_SETS = 3
QUIET = ("-x", "-q", "-p", "no:cacheprovider", "-W", "default")
"""Up to the first failure; modules that are imported already are no error."""

Check = Callable[[], None]


def names_by_distance(first: str) -> tuple[list[str], list[str]]:
    """The names that contain `first`, and the others: files, which are quick, then its family."""
    near = [name for name in NAMES if first in name]
    far = [name for name in NAMES if first not in name]
    family = first.partition(" ")[0]
    return near, sorted(far, key=lambda name: (name not in FILES, not name.startswith(family)))


def examples(count: int) -> settings:
    """Drawn once and for all, and not shrunk."""
    return settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def drawn(strategy: st.SearchStrategy[Any], number: int) -> Any:
    """An example; those of different numbers have nothing to do with one another."""
    found = []

    @seed(number)
    @examples(2)
    @given(strategy)
    def look(example: Any) -> None:
        found.append(example)  # the first is the simplest, always

    look()
    return found[-1]


@functools.cache
def networks_around(name: str) -> tuple[Network, ...]:
    """Some networks around a kind of step, in which many different lines stand twice."""
    dims, op = AROUND[name]
    around = networks((op, PLAIN[dims]), dims=dims, max_nodes=2)  # type: ignore[arg-type]
    found = [drawn(around, number) for number in range(DRAWN)]
    chosen: list[Network] = []
    known: Counter[str] = Counter()
    for _ in range(CHOSEN):
        chosen.append(max(found, key=lambda each: sum(known[line] < 2 for line in _lines(each))))
        known.update(_lines(chosen[-1]))
        found.remove(chosen[-1])
    return tuple(chosen)


def _lines(network: Network) -> set[str]:
    """What stands in a network, sizes aside."""
    return {re.sub(r"\d+", "", line.strip()) for line in str(network).splitlines()}


def checks(names: Iterable[str]) -> Iterator[tuple[str, Check]]:
    """Everything under these names, each with what it is called."""
    for name in names:
        if name in AROUND:
            yield from _laws_around(name)
        elif name.startswith("onnx "):
            op_type = name.removeprefix("onnx ")
            yield name, functools.partial(test_masked_and_folded_models_agree, op_type)
        else:
            yield name, functools.partial(_run_tests, name)


def _laws_around(name: str) -> Iterator[tuple[str, Check]]:
    for network in networks_around(name):
        for law in (*OPEN_LAWS, *LAWS):
            if law is laws.test_gated_equals_folded_while_training and "dropout" in name:
                continue
            inner = law.hypothesis.inner_test  # type: ignore[attr-defined]
            yield f"{law.__name__} ({name})", functools.partial(_law, inner, network)


def _law(inner: Callable[..., None], network: Network) -> None:
    @seed(0)
    @examples(KEEP_SETS)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        second = True if inner is OPEN_LAWS[0].hypothesis.inner_test else data  # type: ignore[attr-defined]
        torch.manual_seed(0)
        inner(copy.deepcopy(network), second)

    law()


def _run_tests(file: str) -> None:
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = pytest.main([*QUIET, str(TESTS.parent / file)])
    failed = [line for line in output.getvalue().splitlines() if line.startswith("FAILED")]
    if failed:
        raise AssertionError(failed[0])
    if status != 0:
        raise SystemExit(output.getvalue()[-500:])  # they did not run: nobody has noticed anything


def killer_of(sabotage: Sabotage, names: Sequence[str]) -> str:
    """What notices a sabotage, of all that goes by these names; empty if nothing does.

    Raises:
        AssertionError: what notices it fails without the sabotage, too.
    """
    all_ = list(checks(names))  # drawn without the sabotage, and shared with the child
    index, killer = _first_failure(sabotage, all_)
    if killer:
        _, also = _first_failure(None, [all_[index]])
        assert not also, f"without {sabotage.name!r}: {also}"
    return killer


def _first_failure(sabotage: Sabotage | None, all_: Sequence[tuple[str, Check]]) -> tuple[int, str]:
    """The number of the first check that fails in a child process, and why."""
    receiver, sender = os.pipe()

    def look() -> None:
        os.close(receiver)
        found = 0, ""
        quiet = redirect_stderr(io.StringIO())  # torch.fx prints the code that fails
        with sabotage.applied() if sabotage else nullcontext(), warnings.catch_warnings(), quiet:
            warnings.simplefilter("ignore")
            for index, (name, check) in enumerate(all_):
                try:
                    check()
                except Exception as error:
                    detail = str(error).splitlines()[0][:80] if str(error) else ""
                    found = index, f"{name}: {type(error).__name__} {detail}"
                    break
        os.write(sender, json.dumps(found).encode())

    child = fork(look)
    os.close(sender)
    with os.fdopen(receiver) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    assert answer, f"{sabotage.name if sabotage else 'nothing'}: the child ended without an answer"
    index, killer = json.loads(answer)
    return index, killer
