"""Random networks are valid from the start, cover what they claim, print and shrink."""

import gc
import subprocess
import sys
import traceback

import pytest
import torch
from hypothesis import Phase, find, given, seed, settings
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.passes.operators import OPERATORS
from fxprune.testing import OPS, assert_rewrite_equivalent, inputs, keep_sets, networks
from fxprune.testing.torch.rounding import run
from fxprune.torch.frontend.program import read_model
from tests.torch.samples import ONNX_ONLY

RARE = ("channel_shuffle", "patches", "pixel_shuffle", "pixel_unshuffle")
SEARCH = settings(max_examples=50, derandomize=True, database=None)
FIRST = settings(SEARCH, max_examples=1, phases=[Phase.generate])


def drawn(**settings):
    """Networks of every sort."""
    return st.sampled_from(list(OPS)).flatmap(lambda dims: networks(dims=dims, **settings))


def smallest(strategy, condition=lambda example: True):
    return find(strategy, condition, settings=SEARCH)


def first(strategy):
    """What Hypothesis draws before everything else: the simplest choice, every time."""
    return find(strategy, lambda example: True, settings=FIRST)


def test_no_network_is_smaller_than_the_first():
    found = find(networks(), lambda network: True, settings=settings(SEARCH, max_examples=10))
    assert found.source() == first(networks()).source()


def lines(network):
    """The source of a network after its imports, up to `randomise`."""
    text = network.source()
    return text[text.index("class") : text.index("def randomise")].strip().splitlines()


def test_smallest_network_is_plain():
    network = first(networks())
    assert lines(network) == [
        "class Network(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.first = nn.Conv2d(3, 4, 3, padding=1)",
        "        self.second = nn.Conv2d(4, 4, 3, padding=1)",
        "        self.conv = nn.Conv2d(4, 3, 1)",
        "",
        "    def forward(self, x):",
        "        x = self.second(F.relu(self.first(x)))",
        "        return self.conv(x)",
    ]
    assert network.source().splitlines()[-4:] == [
        "generator = torch.Generator().manual_seed(0)",
        "inputs = (torch.randn((2, 3, 6, 6), dtype=torch.float64, generator=generator),)",
        "network = Network().double().eval()",
        "randomise(network, generator)",
    ]


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (1, "x = self.second(F.relu(self.first(x))) | return self.conv(x)"),
        (3, "x = self.second(F.relu(self.first(x))) | return self.conv(x)"),
        ("sequence", "x = self.second(F.relu(self.first(x))) | return self.linear(x)"),
    ],
)
def test_smallest_network_of_every_sort_is_plain(dims, expected):
    text = lines(first(networks(dims=dims)))
    assert " | ".join(line.strip() for line in text[-2:]) == expected


def test_smallest_network_on_tokens_embeds_them():
    network = smallest(
        networks(dims="sequence"), lambda network: not network.inputs[0].is_floating_point()
    )
    assert [line.strip() for line in lines(network)[-3:]] == [
        "x = self.embedding(x) + self.position",
        "x = x + self.down(F.gelu(self.up(x)))",
        "return self.linear(x)",
    ]


@pytest.mark.parametrize("dims", [2, "sequence"])
def test_network_is_given_as_many_inputs_as_asked_for(dims):
    network = first(networks(dims=dims, inputs=3))
    assert len(network.inputs) == 3
    assert "    def forward(self, x, y, y2):" in lines(network)


@pytest.mark.parametrize(
    ("dims", "op", "line"),
    [
        (2, "residual", "x = x + self.inner(x)"),
        ("sequence", "attention", "x = self.attention(x)"),
        ("sequence", "recurrent", "x, _ = self.cell(x)"),
        ("sequence", "slice_write", "x = y + self.bias"),
        (3, "depthwise", "x = self.conv(x)"),
    ],
)
def test_network_shrinks_to_one_step_of_a_kind(dims, op, line):
    def has_line(network):
        return line in map(str.strip, lines(network))

    assert len(lines(smallest(networks((op,), dims=dims, max_nodes=1), has_line))) <= 42


def test_nested_steps_are_classes_of_their_own():
    network = smallest(networks(("residual",), max_nodes=1), lambda n: "Block1" in n.source())
    text = network.source()
    assert text.index("class Block1(nn.Module):") < text.index("class Network(nn.Module):")
    assert "self.inner = Block1()" in text


def test_parts_of_one_name_are_numbered():
    network = smallest(networks(("conv",)), lambda network: "conv_3" in network.source())
    assert [name for name, _ in network.named_children()][2:] == ["conv", "conv_2", "conv_3"]


def test_tracebacks_show_the_lines_of_a_network():
    network = first(networks())
    with pytest.raises(RuntimeError) as error:
        network(torch.zeros(1, 5, 6, 6).double())
    text = "".join(traceback.format_exception(error.value))
    first(networks())  # another of the same source comes and goes
    gc.collect()
    assert "".join(traceback.format_exception(error.value)) == text
    assert "    x = self.second(F.relu(self.first(x)))" in text.splitlines()


@settings(max_examples=40)
@given(drawn())
def test_network_runs_without_being_filtered(network):
    (output,) = run(network, network.inputs)
    assert output.isfinite().all()
    assert output.dtype is torch.float64
    assert not network.training


@settings(max_examples=20)
@given(drawn(inputs=2))
def test_source_is_the_network_bit_for_bit(network):
    copied = {}
    exec(network.source(), copied)
    assert_rewrite_equivalent(network, copied["network"], inputs=copied["inputs"], rtol=0.0)
    assert all(torch.equal(*pair) for pair in zip(network.inputs, copied["inputs"], strict=True))
    assert list(copied["network"].state_dict()) == list(network.state_dict())


def test_source_runs_without_hypothesis_and_without_us(tmp_path):
    network = smallest(networks(dims="sequence"), lambda network: "attention" in network.source())
    (tmp_path / "failure.py").write_text(
        "import sys\nsys.modules.update(hypothesis=None, fxprune=None)\n"
        f"{network.source()}\nprint(network(*inputs).sum().item().hex())\n"
    )
    command = [sys.executable, "-P", "failure.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == network(*network.inputs).sum().item().hex()


def test_one_seed_draws_one_network():
    def sources():
        found = []

        @seed(7)
        @settings(max_examples=10, database=None, phases=[Phase.generate])
        @given(drawn())
        def look(network):
            found.append(network.source())

        look()
        return found

    assert sources() == sources()


@settings(max_examples=20)
@given(drawn())
def test_weights_and_statistics_hide_nothing(network):
    for name, parameter in network.named_parameters():
        assert parameter.abs().min() > 0, name
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            assert buffer.abs().min() > 0, name


def test_nested_steps_are_of_the_kinds_asked_for_too():
    @settings(max_examples=20)
    @given(networks(("residual", "activation")))
    def nothing_else(network):
        assert "BatchNorm" not in network.source()
        assert "cat(" not in network.source()

    nothing_else()


@pytest.mark.slow
def test_networks_cover_the_operator_table():
    missing = set(OPERATORS) - ONNX_ONLY
    kinds = [(dims, name) for dims in (2, "sequence") for name in OPS[dims]]
    for dims, name in sorted(kinds, key=lambda kind: kind[1] in RARE):

        @settings(
            max_examples=30 if name in RARE else 6,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
        )
        @given(networks((name,), dims=dims, max_nodes=2))
        def look(network):
            nodes = read_model(network, [network.inputs]).ir.nodes
            missing.difference_update(node.op for node in nodes)

        look()
        if not missing:
            return
    raise AssertionError(missing)


# Keep-sets and inputs ------------------------------------------------------------------------


def gated():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1))
    return fxprune.prepare(model, torch.randn(1, 3, 4, 4), target=1.0)


def test_smallest_keep_set_is_open():
    assert smallest(keep_sets(gated())) == {"0": [True] * 4, "2": [True] * 6}


def test_smallest_keep_set_that_closes_anything_closes_one_position():
    keep = smallest(keep_sets(gated()), lambda keep: not all(map(all, keep.values())))
    assert sum(flags.count(False) for flags in keep.values()) == 1


def test_keep_sets_are_never_empty():
    module = gated()

    @given(keep_sets(module))
    def every_group_keeps_something(keep):
        assert all(map(any, keep.values()))
        fxprune.set_keep_set(module, keep)

    every_group_keeps_something()


@settings(max_examples=20)
@given(drawn(inputs=2), st.data())
def test_network_runs_on_the_inputs_drawn_for_it(network, data):
    batch = data.draw(inputs(network))
    (output,) = run(network, batch)
    assert len({len(x) for x in (*batch, output)}) == 1


def test_smallest_inputs_are_two_normal_samples():
    (x,) = smallest(inputs(gated(), [torch.zeros(3, 1)]))
    assert x.shape == (2, 1)
    assert not torch.equal(x[0], x[1])
