"""Is a graph rewrite right? Ask random networks: `fxprune.testing` on rewrites that others wrote.

    python -m examples.testing_rewrites --examples 200
    python -m examples.testing_rewrites --examples 200 --only onnxsim

The first tests all rewrites below, the second those whose name contains a word.

A rewrite is a function from a model to a model. Three steps test it:

1. draw networks of what it claims to handle (`networks(ops=...)`, `onnx_models(ops=...)`),
2. rewrite them, and leave out what the rewrite says it cannot do,
3. compare (`assert_rewrite_equivalent`, or `assert_onnx_rewrite_equivalent` for ONNX files), by a
   tolerance that comes from rounding.

When the comparison fails, Hypothesis makes the network as small as it can, and `source()` is a file
that reproduces the failure with torch alone, or with onnx alone.
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from onnx import ModelProto
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse

from fxprune import FxpruneError
from fxprune.testing import (
    ONNX_OPS,
    OPS,
    Network,
    OnnxModel,
    assert_idempotent,
    assert_no_mutation,
    assert_onnx_rewrite_equivalent,
    assert_onnxruntime_agrees,
    assert_rewrite_equivalent,
    networks,
    onnx_models,
)

CONVOLUTIONS = networks(
    ("conv", "normalisation", "activation", "residual", "depthwise", "shared"), max_nodes=4
)
"""Convolutions and norms, and all that may stand around them."""

SEQUENCES = tuple(name for name in OPS["sequence"] if name != "recurrent")  # exported unrolled

EXPORTS = st.one_of(
    networks(dims=2, max_nodes=4),
    networks(SEQUENCES, dims="sequence", max_nodes=4),
    networks(dims=1, max_nodes=4),
    networks(dims=3, max_nodes=4),
)
"""All operators but recurrent layers, on images of one to three dimensions and on sequences."""

MODELS = st.sampled_from(tuple(ONNX_OPS)).flatmap(lambda dims: onnx_models(dims=dims, max_nodes=4))
"""ONNX's own operators, as many exporters write them, in several versions of ONNX."""


def fused_by_fx(network: Network) -> nn.Module:
    """`torch.fx.experimental.optimization.fuse`: batch norms go into the convolutions before."""
    return fuse(network)


def fused_by_ao(network: Network) -> nn.Module:
    """`torch.ao.quantization.fuse_modules` on every convolution that only a batch norm follows."""
    traced = torch.fx.symbolic_trace(copy.deepcopy(network))
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes)
    pairs = []
    for node in traced.graph.find_nodes(op="call_module"):
        before = node.all_input_nodes[0]
        conv, norm = modules.get(str(before.target)), modules[str(node.target)]
        once = calls[before.target] == calls[node.target] == len(before.users) == 1
        fits = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if fits and once and norm.track_running_stats:
            pairs.append([str(before.target), str(node.target)])
    return fuse_modules(traced, pairs) if pairs else traced  # type: ignore[no-any-return]


def optimised_by_onnxscript(model: ModelProto) -> ModelProto:
    """`onnxscript.optimizer.optimize`: constant folding, and the default rewrite rules.

    It is given a copy, because it renames tensors inside of the model that it is given.
    """
    from onnxscript.optimizer import optimize

    return optimize(copy.deepcopy(model))


def simplified_by_onnxsim(model: ModelProto) -> ModelProto:
    """`onnxsim.simplify`: shape inference, constant folding, and onnx-optimizer's passes."""
    from onnxsim import simplify

    simplified, _ = simplify(model)
    return simplified


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is tested: a check of one network or file, where it comes from, and what is drawn."""

    name: str
    package: str
    check: Callable[[Any], None]
    drawn: st.SearchStrategy[Any] = CONVOLUTIONS

    def __str__(self) -> str:
        return f"{self.name} ({self.package} {importlib.metadata.version(self.package)})"


def of_modules(rewrite: Callable[[Network], nn.Module]) -> Callable[[Network], None]:
    """The rewritten module is the same function, the original stays, and again is the same."""

    def check(network: Network) -> None:
        after = assert_no_mutation(rewrite, network)
        assert_rewrite_equivalent(network, after)
        assert_idempotent(rewrite, network)

    return check


def of_exports(network: Network) -> None:
    """torch's exporter, which runs onnxscript's optimizer: ONNX Runtime computes the same."""
    assert_onnxruntime_agrees(*in_float32(network))


def of_files(
    rewrite: Callable[[ModelProto], ModelProto],
) -> Callable[[Network | OnnxModel], None]:
    """The rewritten file computes what the file did; what cannot be exported is left out."""

    def check(drawn: Network | OnnxModel) -> None:
        given = (drawn,) if isinstance(drawn, OnnxModel) else in_float32(drawn)
        try:
            assert_onnx_rewrite_equivalent(rewrite, *given)
        except FxpruneError:
            reject()

    return check


def in_float32(network: Network) -> tuple[nn.Module, list[Tensor]]:
    """A copy and its inputs in the precision that ONNX Runtime has kernels for."""
    inputs = [x.float() if x.is_floating_point() else x for x in network.inputs]
    return copy.deepcopy(network).float(), inputs


REWRITES = (
    Rewrite("torch.fx.experimental.optimization.fuse", "torch", of_modules(fused_by_fx)),
    Rewrite("torch.ao.quantization.fuse_modules", "torch", of_modules(fused_by_ao)),
    Rewrite("torch.onnx.export", "torch", of_exports),
    *(
        Rewrite(f"{name} on {what}", name.split(".")[0], of_files(rewrite), drawn)
        for name, rewrite in (
            ("onnxscript.optimizer.optimize", optimised_by_onnxscript),
            ("onnxsim.simplify", simplified_by_onnxsim),
        )
        for what, drawn in (("torch's exports", EXPORTS), ("ONNX models", MODELS))
    ),
)


def counterexample(rewrite: Rewrite, examples: int, number: int = 0) -> tuple[str, str, int]:
    """The smallest network found for which a rewrite is wrong, the error, and how many were right.

    The first two are empty if there is none; `number` seeds the networks.
    """
    last: list[Network | OnnxModel] = []
    right = 0

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(rewrite.drawn)
    def search(drawn: Network | OnnxModel) -> None:
        nonlocal right
        last[:] = [drawn]
        rewrite.check(drawn)
        right += 1

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\nFailing")[0]
        return last[0].source(), reason, right
    return "", "", right


def main() -> None:
    """Test every rewrite and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="networks for each rewrite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="rewrites whose name contains this")
    options = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    chosen = [rewrite for rewrite in REWRITES if options.only in rewrite.name]
    for package in {rewrite.package for rewrite in chosen}:
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is not installed: pip install {package}")
    for rewrite in chosen:
        source, error, right = counterexample(rewrite, options.examples, options.seed)
        print(f"{rewrite}: {error or f'no counter-example in {right} networks'}")
        if source:
            print(source)


if __name__ == "__main__":
    main()
