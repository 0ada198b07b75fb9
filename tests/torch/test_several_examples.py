"""Several examples: what a model does on any of them stays exact, and is told apart."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.frontend.program import read_model
from fxprune.torch.precision import relative_error
from tests.torch.models import half, images, randomise


class Block(nn.Module):
    """A residual branch of two convolutions."""

    def __init__(self, width: int, inner: int = 8) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(width, inner, 3, padding=1),
            nn.Conv2d(inner, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Cutting(Block):
    """Cuts its inner channels into parts of uneven sizes once folded: no attribute says which."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        return x + self.b(torch.cat([left.relu(), right.tanh()], dim=1))


class BySize(nn.Module):
    """Halves large pictures by a layer of its own, whose channels small ones do not see."""

    def __init__(self, block: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), block or Block(8)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x))
        y = self.up(torch.relu(self.down(y))) if x.shape[-1] > 16 else y * 2
        return self.head(y.mean(dim=[2, 3]))


class Labelled(nn.Module):
    """Returns a loss where it is given labels, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 4)
        self.rest = nn.Linear(16, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None, extra: bool = False) -> Any:
        y = torch.relu(self.inner(x))
        logits = self.outer(y)
        if labels is None:
            return (logits, self.rest(y)) if extra else logits
        return logits, nn.functional.cross_entropy(logits, labels)


SMALL, LARGE = (2, 3, 12, 12), (3, 3, 24, 20)


def pair(model: nn.Module, examples: Any, seed: int = 0) -> tuple[Any, Any]:
    """Gated at half of every group, and folded."""
    gated = fxprune.prepare(randomise(model, seed).eval(), examples, target=1.0)
    fxprune.set_keep_set(gated, half(gated, seed, branches=1.0))
    return gated.eval(), fxprune.fold(gated).eval()


def assert_same(gated: nn.Module, folded: nn.Module, *inputs: Any) -> None:
    with torch.no_grad():
        assert relative_error(gated(*inputs), folded(*inputs)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shapes", [(SMALL, LARGE), (LARGE, SMALL)], ids=["small", "large"])
def test_what_size_decides_is_exact_at_every_size(shapes, seed):
    gated, folded = pair(BySize(), [torch.randn(shape) for shape in shapes], seed)
    assert generated_code(gated) == generated_code(folded) == {}
    assert folded.down.out_channels < 12  # of large pictures alone
    for size in (4, 12, 16, 17, 40):
        assert_same(gated, folded, torch.randn(2, 3, size, size))
    fxprune.verify(gated, folded)


def test_one_example_leaves_whole_what_it_does_not_run():
    gated, _ = pair(BySize(), torch.randn(SMALL))
    assert "down" not in fxprune.keep_set(gated)


def test_costs_are_those_of_the_first_example():
    one, other = (fxprune.prepare(BySize(), torch.randn(shape)) for shape in (SMALL, LARGE))
    both = fxprune.prepare(BySize(), [torch.randn(SMALL), torch.randn(LARGE)])
    turned = fxprune.prepare(BySize(), [torch.randn(LARGE), torch.randn(SMALL)])
    macs = [fxprune.report(each).before["macs"] for each in (one, both, other, turned)]
    assert macs[0] == macs[1] < macs[2] == macs[3]


def test_a_branch_of_all_examples_is_one():
    gated, _ = pair(BySize(), [torch.randn(SMALL), torch.randn(LARGE)])
    fxprune.set_keep_set(gated, {"block+": [False]})
    folded = fxprune.fold(gated).eval()
    for size in (12, 24):
        assert_same(gated, folded, torch.randn(2, 3, size, size))


class Bypassing(BySize):
    """Lets the branch of its block replace the stream of small pictures: there it is no branch."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 16:
            return super().forward(x)
        y = self.block.b(torch.relu(self.block.a(self.stem(x))))
        return self.head(y.mean(dim=[2, 3]))


def test_what_is_no_branch_on_one_example_is_none():
    both = fxprune.prepare(Bypassing(), [torch.randn(LARGE), torch.randn(SMALL)])
    one = fxprune.prepare(Bypassing(), torch.randn(LARGE))
    assert "block+" in fxprune.keep_set(one)
    assert "block+" not in fxprune.keep_set(both)


@pytest.mark.parametrize("kind", ["size", "labels"])
def test_generated_code_takes_the_way_of_the_arguments(kind):
    x, labels = torch.randn(3, 6), torch.tensor([0, 3, 1])
    if kind == "size":
        gated, folded = pair(BySize(Cutting(8, 12)), [torch.randn(SMALL), torch.randn(LARGE)])
        calls = [(torch.randn(2, 3, size, size),) for size in (10, 12, 24, 30)]
    else:
        gated, folded = pair(Labelled(), [(x,), (x, labels), (x, None, True)])
        calls = [(x,), (x, labels), (x, None, True), (torch.randn(5, 6),)]
    for call in calls:
        assert_same(gated, folded, *call)
    assert set(generated_code(folded)) <= {"block"}
    copies = pickle.loads(pickle.dumps(folded))
    for call in calls:
        assert_same(folded, copies, *call)


class Everything(Labelled):
    """Has a size in the code of the model itself."""

    def forward(self, x: Tensor, labels: Tensor | None = None, extra: bool = False) -> Any:
        y = torch.relu(self.inner(x)).view(-1, 16)
        if labels is None:
            return self.outer(y)
        return self.outer(y), nn.functional.cross_entropy(self.outer(y), labels)


def test_generated_code_of_the_model_tells_examples_apart_by_their_arguments():
    x, labels = torch.randn(3, 6), torch.tensor([0, 3, 1])
    gated = fxprune.prepare(Everything().eval(), [(x,), (x, labels)], in_kind=False)
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated).eval()
    assert list(generated_code(folded)) == [""]
    for call in [(x,), (x, labels)]:
        assert_same(gated.eval(), folded, *call)
    with pytest.raises(fxprune.InputError, match="traced with labels=None"):
        folded(x, "labels", True)


def test_it_is_saved_and_loaded_and_shrunk(tmp_path):
    examples = [torch.randn(SMALL), torch.randn(LARGE)]
    gated, folded = pair(BySize(), examples)
    fxprune.save(folded, tmp_path / "model")
    loaded = fxprune.load(tmp_path / "model", BySize()).eval()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.0)
    fxprune.shrink(gated, optimizer)
    for shape in (SMALL, LARGE, (2, 3, 9, 31)):
        assert_same(folded, loaded, torch.randn(shape))
        assert_same(folded, gated.eval(), torch.randn(shape))


def test_verify_tells_what_differs_on_a_later_example_only():
    gated, folded = pair(BySize(), [torch.randn(SMALL), torch.randn(LARGE)])
    with torch.no_grad():
        folded.up.weight.mul_(1.01)  # nothing that a small picture sees
    assert_same(gated, folded, torch.randn(SMALL))
    with pytest.raises(fxprune.VerificationError, match="up"):
        fxprune.verify(gated, folded)


def test_the_graph_of_all_examples_knows_parameters_once():
    program = read_model(BySize().eval(), [(torch.randn(SMALL),), (torch.randn(LARGE),)])
    names = [value.name for value in program.ir.parameters]
    assert len(names) == len(set(names))
    assert len(program.ir.inputs) == 2
    assert [value.shape[-1] for value in program.ir.results] == [5]
    assert len(program.ir.others) == 1


@pytest.mark.slow
def test_sizes_that_differ_are_open_in_a_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    _, folded = pair(model, [images(2, size=(3, 9, 9)), images(2, size=(3, 12, 12))])
    path = fxprune.export_onnx(folded, tmp_path / "a.onnx")
    (given,) = onnx.load(path).graph.input
    dims = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "input_2", "input_2"]


@pytest.mark.slow
def test_a_file_that_cannot_run_all_examples_is_refused(tmp_path):
    _, folded = pair(BySize(), [torch.randn(2, 3, 24, 24), torch.randn(2, 3, 12, 12)])
    with pytest.raises(fxprune.FxpruneError, match=r"dynamic=\{\}"):
        fxprune.export_onnx(folded, tmp_path / "a.onnx")
    assert fxprune.export_onnx(folded, tmp_path / "a.onnx", dynamic={}).exists()


BAD: dict[str, tuple[Any, str]] = {
    "none": ([], "empty list"),
    "no tensor": ([torch.randn(SMALL), 3], "holds no tensor"),
    "fails": ([torch.randn(SMALL), torch.randn(2, 4, 12, 12)], r"shape \(2, 4, 12, 12\)"),
}


@pytest.mark.parametrize(("examples", "match"), BAD.values(), ids=BAD)
def test_bad_examples_are_refused(examples, match):
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.prepare(BySize(), examples)


def test_a_recorded_graph_takes_one_example():
    graph = torch.fx.symbolic_trace(Block(3))
    with pytest.raises(fxprune.InputError, match="one example"):
        fxprune.prepare(graph, [torch.randn(SMALL), torch.randn(LARGE)])
