"""Training in two processes: one keep-set, that of training in one process on the joint batch."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fxprune
from tests.recipes import sharded
from tests.recipes.ranks import METHODS_BY_KIND, train_part
from tests.recipes.training import Plain, assert_prunes, assert_same_gates, begin
from tests.test_packaging import ROOT

TEARDOWN = "terminate called without an active exception"
"""A process of torch aborts now and then on its way out, when its work is done."""


def run_in_two_processes(*command: str) -> str:
    """Run a script or module under torchrun on this machine; its output."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        done = subprocess.run(
            [*launch, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if TEARDOWN not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Callable[[str], list[dict[str, Any]]]:
    """What each of two processes has after training with a kind of parallelism."""
    folder: Path = tmp_path_factory.mktemp("ranks")

    @functools.cache
    def trained_as(kind: str) -> list[dict[str, Any]]:
        run_in_two_processes("-m", "tests.recipes.ranks", str(folder), kind)
        return [torch.load(folder / f"{kind}{rank}.pt", weights_only=True) for rank in range(2)]

    return trained_as


FAST_OR_SLOW: dict[str, Any] = {"ddp": (), "fsdp": pytest.mark.slow}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, marks=FAST_OR_SLOW[kind])
        for kind, methods in METHODS_BY_KIND.items()
        for method in methods
    ],
)
def test_all_processes_agree_with_one_that_sees_the_joint_batch(ranks, kind, method):
    alone, together = begin(method, Plain()), begin(method, Plain())
    if method == "hard_concrete":  # noise is drawn for every part of a batch
        train_part(alone, parts=2)
    else:
        train_part(alone)
    states = [rank[method] for rank in ranks(kind)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    together.load_state_dict(states[0])
    assert_prunes(together)
    if method == "consensus":  # its terms are means over the parts of a batch, not over the batch
        return
    assert_same_gates(alone, together, rtol=1e-3)
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter, alone.get_parameter(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=marks) for kind, marks in FAST_OR_SLOW.items()]
)
def test_processes_agree_where_their_batch_statistics_do_not(ranks, kind):
    first, second = (rank["keep-set with batch norm"] for rank in ranks(kind))
    assert not all(bool(flags.all()) for flags in first.values())
    for name, flags in first.items():
        assert torch.equal(flags, second[name]), name


@pytest.mark.slow
def test_sharded_models_are_refused_with_the_way_out(ranks):
    said = ranks("fsdp")[0]["refusals"]
    assert said.keys() == {"fold", "verify", "prepare", "consensus"}
    for verb in ("fold", "verify"):
        assert "is sharded over processes: call torch.distributed.checkpoint" in said[verb]
    assert said["prepare"].endswith("prepare the model first, then shard what prepare returns")
    assert "train it with DistributedDataParallel" in said["consensus"]


@pytest.mark.slow
def test_example_of_distributed_training_runs():
    output = run_in_two_processes(str(ROOT / "examples" / "recipes" / "distributed.py"))
    assert output.count("gated == folded") == 2 * 8, output
    assert len(re.findall(r"macs .* 50\.0%", output)) == 2, output


@pytest.mark.slow
def test_a_language_model_that_accelerate_shards_folds_as_one_trained_alone(tmp_path):
    run_in_two_processes("-m", "tests.recipes.sharded", str(tmp_path / "rank"))
    first, second = (torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2))
    assert first["sharded"] == second["sharded"]
    assert {"", "model.layers.0", "model.layers.1"} <= set(first["sharded"])
    gated = sharded.alone()
    keep = {name: flags.tolist() for name, flags in fxprune.keep_set(gated).items()}
    assert first["keep"] == second["keep"] == keep
    assert not all(all(flags) for flags in keep.values())
    before, folded = sharded.llama().state_dict(), fxprune.fold(gated).state_dict()
    assert first["folded"].keys() == second["folded"].keys() == folded.keys()
    for name, tensor in folded.items():
        assert torch.equal(first["folded"][name], second["folded"][name]), name
        torch.testing.assert_close(first["folded"][name], tensor, rtol=1e-4, atol=1e-6)
        same = tensor.shape == before[name].shape and torch.equal(tensor, before[name])
        assert not same, f"{name} was not trained"


@pytest.mark.slow
def test_example_of_sharding_with_accelerate_runs():
    output = run_in_two_processes(
        "-m", "tests.recipes.launch", str(ROOT / "examples" / "recipes" / "accelerate_fsdp.py")
    )
    assert output.count("gated == folded") == 8, output
    assert 40 < float(re.findall(r"macs .* (\d+\.\d)%", output)[0]) <= 50, output


def test_penalty_that_is_counted_twice_would_be_seen():
    once, twice = (begin("autobot, weights learn", Plain()) for _ in range(2))
    method = twice.fxprune_gates.method
    penalty = method.penalty
    method.penalty = lambda logits: 2 * penalty(logits)
    for gated in (once, twice):
        train_part(gated)
    with pytest.raises(AssertionError):
        assert_same_gates(once, twice, rtol=1e-3)
    fxprune.verify(twice, fxprune.fold(twice))
