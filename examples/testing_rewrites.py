"""Is a graph rewrite right? Ask random networks: `fxprune.testing` on rewrites that others wrote.

    python -m examples.testing_rewrites --examples 200

A rewrite is a function from a model to a model. Three steps test it:

1. draw networks of what it claims to handle (`networks(ops=...)`),
2. rewrite them, and leave out what the rewrite says it cannot do,
3. compare (`assert_rewrite_equivalent`), by a tolerance that comes from rounding.

When the comparison fails, Hypothesis makes the network as small as it can, and `network.source()`
is a file that reproduces the failure with torch alone.
"""

import argparse
import copy
import importlib.metadata
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse

from fxprune.testing import (
    Network,
    assert_idempotent,
    assert_no_mutation,
    assert_onnxruntime_agrees,
    assert_rewrite_equivalent,
    networks,
)

OPS = ("conv", "normalisation", "activation", "residual", "depthwise", "shared")
"""What is asked for: convolutions and norms, and all that may stand around them."""


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


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is tested: a check of one network, and where it comes from."""

    name: str
    package: str
    check: Callable[[Network], None]

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
    single = copy.deepcopy(network).float()
    assert_onnxruntime_agrees(single, [x.float() for x in network.inputs])


REWRITES = (
    Rewrite("torch.fx.experimental.optimization.fuse", "torch", of_modules(fused_by_fx)),
    Rewrite("torch.ao.quantization.fuse_modules", "torch", of_modules(fused_by_ao)),
    Rewrite("torch.onnx.export with onnxscript's optimizer", "onnxscript", of_exports),
)


def counterexample(rewrite: Rewrite, examples: int) -> tuple[str, str]:
    """The smallest network found for which a rewrite is wrong, and the error; empty if none is."""
    last: list[Network] = []

    @seed(0)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks(OPS, max_nodes=4))
    def search(network: Network) -> None:
        last[:] = [network]
        rewrite.check(network)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search()
    except Exception as error:
        return last[0].source(), f"{type(error).__name__}: {error}".split("\nFailing")[0]
    return "", ""


def main() -> None:
    """Test every rewrite and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="networks for each rewrite")
    parser.add_argument("--only", default="", help="rewrites whose name contains this")
    options = parser.parse_args()
    for rewrite in REWRITES:
        if options.only not in rewrite.name:
            continue
        source, error = counterexample(rewrite, options.examples)
        print(f"{rewrite}: {error or f'no counter-example in {options.examples} networks'}")
        if source:
            print(source)


if __name__ == "__main__":
    main()
