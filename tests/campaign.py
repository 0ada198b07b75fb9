"""Random networks by the thousand: does all that fxprune makes of them compute the same?

    python -m tests.campaign --examples 20000 --seed 0 --json summary.json --resume

For every network and keep-set: gated equals folded within rounding, and predicted costs are those
counted. For every network: open gates change no bit, a saved model loads with the same bits, and
shrinking keeps the function. For every fortieth network: ONNX Runtime computes what the folded
model does, and the exported original is pruned as an ONNX file, under keep-sets of its own.

Progress is kept in the JSON file after every twentieth network; `--resume` goes on from there. A
failure is shrunk and listed as Python source. Exit status 1 says that there is one.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from torch import nn
from torch.optim import SGD

import fxprune
from fxprune.files import draft_of
from fxprune.passes.analyse import Analysis
from fxprune.testing import (
    OPS,
    Network,
    OnnxModel,
    assert_close,
    assert_costs,
    assert_rewrite_equivalent,
    keep_sets,
    networks,
    onnx_models,
)
from fxprune.testing.onnx.counting import count_onnx_macs
from fxprune.testing.torch.rounding import allowed_errors, converted, least_error, run
from fxprune.torch.record import record_of
from tests.showing import something_to_show

NETWORKS = 20
"""Networks between two states on disk."""
KEEP_SETS = 20
ONNX_EVERY = 40
ONNX_CHUNKS = 4
"""Of so many chunks one draws ONNX models."""
SORTS = tuple((dims, inputs) for dims in OPS for inputs in (1, 2))


@dataclass
class Summary:
    """What was run, and what was found."""

    seed: int
    chunks: int = 0
    pairs: int = 0
    networks: int = 0
    onnx_exports: int = 0
    onnx_pairs: int = 0
    models: int = 0
    model_pairs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    largest_rounding: float = 0.0
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Go on from a file."""
        values = json.loads(path.read_text())
        for name in ("refused", "operators"):
            values[name] = Counter(values[name])
        return cls(**values)

    def write(self, path: Path) -> None:
        """Put the file in place whole."""
        with draft_of(path, overwrite=True) as draft:
            draft.write_text(json.dumps(vars(self), indent=1))

    @property
    def all_pairs(self) -> int:
        """Pairs of networks and of models."""
        return self.pairs + self.model_pairs

    def __str__(self) -> str:
        failed = f"{len(self.failures)} failures"
        onnx = f"{self.onnx_exports} exported, {self.onnx_pairs} pairs on ONNX files"
        return (
            f"{self.pairs} network x keep-set pairs, {self.networks} networks ({onnx}), "
            f"{self.model_pairs} pairs of {self.models} ONNX models, "
            f"{len(self.operators)} operators, {failed}, refused: {dict(self.refused)}; an error "
            f"of at most {self.largest_rounding:.2g} of what rounding allows; {self.seconds:.0f} s"
        )


Draw = Callable[[st.SearchStrategy[Any], str], Any]


def check_network(network: Network, draw: Draw, summary: Summary, onnx: bool) -> None:
    """Everything that must hold for one network, under keep-sets that `draw` returns."""
    in_kind = draw(st.booleans(), "in_kind")
    gated = fxprune.prepare(network, network.inputs, target=1.0, in_kind=in_kind)
    assert_rewrite_equivalent(network, gated, inputs=network.inputs, rtol=0.0)
    record = record_of(gated)
    assert record is not None
    for number in range(KEEP_SETS):
        fxprune.set_keep_set(gated, draw(keep_sets(gated), f"keep-set {number}"))
        folded = fxprune.fold(gated)
        check_function(gated, folded, network, summary)
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        assert_costs(folded, network.inputs, record.analysis.costs.at(sizes))
        summary.pairs += 1
    check_checkpoint(network, folded)
    check_shrinking(gated, folded, network)
    if onnx:
        check_onnx(network, folded, draw, summary)
    summary.operators.update({node.op for node in record.program.ir.nodes})
    summary.networks += 1


def check_function(gated: nn.Module, folded: nn.Module, network: Network, summary: Summary) -> None:
    """Gated equals folded; the share of the allowed error that is used is noted.

    Rounding is measured in both: a kernel of torch may lose more than the masked form beside it.
    """
    (expected,), (got,) = run(gated, network.inputs), run(folded, network.inputs)
    allowed = least_error(expected, torch.float64)
    difference = (expected - got).abs().max().item()
    if not difference <= allowed:
        measured = [allowed_errors(m, network.inputs, torch.float64) for m in (gated, folded)]
        allowed = max(errors[0] for errors in measured)
        assert_close("output", expected, got, atol=allowed)
    summary.largest_rounding = max(summary.largest_rounding, difference / (allowed or 1))


def check_checkpoint(network: Network, folded: nn.Module) -> None:
    """What is saved loads onto the original constructor, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        fxprune.save(folded, folder)
        loaded = fxprune.load(folder, copy.deepcopy(network))
    assert_rewrite_equivalent(folded, loaded.eval(), inputs=network.inputs, rtol=0.0)


def check_shrinking(gated: nn.Module, folded: nn.Module, network: Network) -> None:
    """What shrinking leaves computes what folding does."""
    shrunk = copy.deepcopy(gated)
    fxprune.shrink(shrunk, SGD(shrunk.parameters(), lr=0.1))
    assert_rewrite_equivalent(folded, fxprune.fold(shrunk).eval(), inputs=network.inputs)


def check_onnx(network: Network, folded: nn.Module, draw: Draw, summary: Summary) -> None:
    """ONNX Runtime agrees with the folded model, and the ONNX front end prunes the original."""
    inputs = tuple(converted(network.inputs, torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        try:
            fxprune.export_onnx(folded.float(), Path(folder) / "folded.onnx", inputs)
            file = fxprune.export_onnx(network.float(), Path(folder) / "model.onnx", inputs)
        except fxprune.FxpruneError as error:  # no file is written then
            summary.refused[f"export: {type(error).__name__}"] += 1
            return
        summary.onnx_exports += 1
        analysis = fxprune.inspect_onnx(file)
        for number in range(KEEP_SETS if analysis.free_groups or analysis.branches else 0):
            keep = draw(keep_sets(analysis), f"ONNX keep-set {number}")
            with something_to_show():
                fxprune.fold_onnx(file, keep)  # compares masked with folded, and raises
            summary.onnx_pairs += 1


def check_model(model: OnnxModel, draw: Draw, summary: Summary) -> None:
    """Everything that must hold for one ONNX model, under keep-sets that `draw` returns."""
    analysis = fxprune.inspect_onnx(model.proto)
    for number in range(KEEP_SETS):
        keep = draw(keep_sets(analysis), f"keep-set {number}")
        with something_to_show():
            result = fxprune.fold_onnx(model.proto, keep)
        check_costs(model, result)  # folding has compared masked with folded
        summary.model_pairs += 1
    check_open(model, analysis)
    summary.operators.update({node.op for node in analysis.graph.nodes})
    summary.models += 1


def check_costs(model: OnnxModel, result: fxprune.OnnxResult) -> None:
    """Predicted costs are those counted in a run of the folded file, and those of it read anew."""
    folded = onnx_ir.to_proto(result.model)
    samples = len(next(iter(model.inputs.values())))
    counted = count_onnx_macs(folded, model.inputs)
    predicted = dict(result.costs_after)
    assert counted == samples * predicted["macs"], f"{counted} MACs counted, {predicted}"
    costs = fxprune.inspect_onnx(folded).costs
    found = costs.at(costs.full)
    if shares_weights(model.proto):  # a shared matrix that became a vector has many readers
        for name in ("params", "bytes"):
            del found[name], predicted[name]
    assert found == predicted, f"read anew: {found}, predicted: {predicted}"


def shares_weights(model: onnx.ModelProto) -> bool:
    """Whether several nodes read one stored array."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    return any(readers[tensor.name] > 1 for tensor in model.graph.initializer)


def check_open(model: OnnxModel, analysis: Analysis) -> None:
    """Folding with everything open changes no bit."""
    keep = {name: [True] * size for name, size in analysis.costs.full.items()}
    with something_to_show():
        folded = fxprune.fold_onnx(model.proto, keep).model
        verdict = fxprune.verify_onnx(model.proto, folded, inputs=[model.inputs])
    assert all(item.error == 0 for item in verdict.comparisons), str(verdict)


def sorts(summary: Summary, only: str) -> st.SearchStrategy[Any]:
    """What a chunk draws: networks, or ONNX models, of every sort."""
    drawn: Any = networks
    if only == "onnx" or (not only and summary.chunks % ONNX_CHUNKS == ONNX_CHUNKS - 1):
        drawn = onnx_models

    def of_sort(index: int) -> st.SearchStrategy[Any]:
        dims, inputs = SORTS[(summary.chunks + index) % len(SORTS)]
        return drawn(dims=dims, inputs=inputs, max_nodes=8)

    return st.sampled_from(range(len(SORTS))).flatmap(of_sort)


def run_chunk(summary: Summary, number: int = NETWORKS, only: str = "") -> None:
    """Draw some networks or models and check them; note the smallest failure."""
    last: list[str] = []
    failed = False

    @seed(hash((summary.seed, summary.chunks)))
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(sorts(summary, only), st.data())
    def check(subject: Network | OnnxModel, data: st.DataObject) -> None:
        nonlocal failed
        last[:] = [subject.source()]

        def draw(strategy: st.SearchStrategy[Any], label: str) -> Any:
            value = data.draw(strategy, label)
            last.append(f"# {label}: {value}")
            return value

        counts = copy.deepcopy(summary) if failed else summary  # shrinking counts for nothing
        try:
            if isinstance(subject, OnnxModel):
                check_model(subject, draw, counts)
            else:
                check_network(subject, draw, counts, onnx=counts.networks % ONNX_EVERY == 0)
        except Exception:
            failed = True
            raise

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except Exception as error:
        reason = "".join(traceback.format_exception_only(error)).split("Failing test case")[0]
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        summary.failures.append({"error": reason + where, "source": "\n".join(last)})
    summary.chunks += 1


def main(arguments: list[str] | None = None) -> int:
    """Run chunks until there are as many pairs as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument(
        "--examples", type=int, default=300, help="pairs of a network and a keep-set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="the summary, and the state to resume from")
    parser.add_argument("--only", choices=["", "torch", "onnx"], default="", help="what is drawn")
    parser.add_argument("--resume", action="store_true", help="go on from the summary")
    options = parser.parse_args(arguments)
    summary = Summary(options.seed)
    if options.resume and options.json and options.json.exists():
        summary = Summary.read(options.json)
    spent, start = summary.seconds, time.monotonic()
    columns = (
        *Progress.get_default_columns(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(
            "pairs", total=options.examples, completed=summary.all_pairs, failed=""
        )
        while summary.all_pairs < options.examples:
            missing = -(-(options.examples - summary.all_pairs) // KEEP_SETS)
            run_chunk(summary, min(NETWORKS, missing), options.only)
            summary.seconds = spent + time.monotonic() - start
            if options.json:
                summary.write(options.json)
            failed = f"{len(summary.failures)} failures"
            progress.update(task, completed=summary.all_pairs, failed=failed)
    print(summary)
    for failure in summary.failures:
        print(f"\n{failure['error']}\n{failure['source']}")
    return bool(summary.failures)


if __name__ == "__main__":
    sys.exit(main())
