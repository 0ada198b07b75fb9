"""Checkers for the promises of fxprune. Each raises AssertionError with the numbers, or is silent.

They compare models by running them, never by what a plan says about them.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

EXACT = 1e-10
"""Relative error up to which two float64 models count as one function: re-associated sums."""


def run(model: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors that a model returns, in order; the inputs are copied, its mode is as it is.

    Gradients are recorded, because torch multiplies matrices in another order when they are not.
    """
    return [tensor.detach() for tensor in _tensors(model(*copy.deepcopy(tuple(inputs))))]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def assert_close(name: str, expected: Tensor, got: Tensor, rtol: float = EXACT) -> None:
    """The largest difference is at most `rtol` of the largest expected value."""
    assert got.shape == expected.shape, (
        f"{name} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    )
    if not expected.numel():
        return
    largest = expected.abs().max().item()
    difference = (got - expected).abs().max().item()
    assert difference <= rtol * largest, (
        f"{name} differs by {difference:.3g}, which is {difference / (largest or 1):.3g} of its "
        f"largest value {largest:.3g}; at most {rtol:.3g} is allowed"
    )


def assert_same_function(
    before: nn.Module, after: nn.Module, inputs: Sequence[Any], rtol: float = EXACT
) -> None:
    """Two models return the same, up to `rtol`, in the modes they are in."""
    expected, got = run(before, inputs), run(after, inputs)
    assert len(expected) == len(got) > 0, f"{len(got)} outputs, expected {len(expected)}"
    for index, (left, right) in enumerate(zip(expected, got, strict=True)):
        assert_close(f"output {index}", left, right, rtol)


def assert_same_bits(before: nn.Module, after: nn.Module, inputs: Sequence[Any]) -> None:
    """Two models return the very same numbers."""
    assert_same_function(before, after, inputs, rtol=0.0)


def assert_same_state(
    expected: Mapping[str, Tensor], got: Mapping[str, Tensor], rtol: float = 0.0
) -> None:
    """Two states have the same keys in the same order, and the same tensors up to `rtol`."""
    assert list(got) == list(expected), (
        f"keys differ: left out {[k for k in expected if k not in got]}, "
        f"new {[k for k in got if k not in expected]}, or their order"
    )
    for name, tensor in expected.items():
        assert_close(name, tensor.double(), got[name].double(), rtol)


@contextmanager
def assert_unchanged(model: nn.Module) -> Iterator[None]:
    """What runs inside leaves the model, its gradients and torch's random numbers as they were."""
    before, generator = _facts(model), torch.get_rng_state()
    yield
    after = _facts(model)
    for name in {**before, **after}:
        assert name in after, f"{name} is gone"
        assert name in before, f"{name} is new"
        assert _equal(before[name], after[name]), f"{name} has changed"
    assert torch.equal(generator, torch.get_rng_state()), "random numbers were drawn"


def _facts(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a user could notice, by name."""
    facts: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        facts[f"{path}: class"] = type(module)
        facts[f"{path}: attributes"] = {
            name: value if isinstance(value, bool | int | float | str | tuple) else type(value)
            for name, value in module.__dict__.items()
        }
        facts[f"{path}: hooks"] = {
            name: len(value) for name, value in module.__dict__.items() if name.endswith("_hooks")
        }
        facts[f"{path}: children"] = list(module._modules)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            facts[f"{path}.{name}: object"] = None if tensor is None else _identity(tensor)
            if tensor is not None and not (tensor.is_meta or nn.parameter.is_lazy(tensor)):
                facts[f"{path}.{name}"] = tensor.detach().clone()
                facts[f"{path}.{name}: gradient"] = copy.deepcopy(tensor.grad)
    return facts


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return id(tensor), tensor.requires_grad, tensor.device


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.shape == right.shape and left.dtype is right.dtype
        bits = (x.contiguous().flatten().view(torch.uint8) for x in (left, right))
        return same and torch.equal(*bits)
    return bool(left == right)


def count_macs(model: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates that torch counts while the model runs.

    Its counter does not know the fused attention of CPUs, so that attention runs as products, nor
    the products of single positions that an einsum may become, so that we count einsums here.
    """
    einsums, attention = _Einsums(), sdpa_kernel(SDPBackend.MATH)
    with attention, FlopCounterMode(display=False) as counter, einsums:
        model(*copy.deepcopy(tuple(inputs)))  # torch's counter expects gradients to be recorded
    return int(counter.get_total_flops()) // 2 + einsums.macs


class _Einsums(TorchFunctionMode):
    """Counts the multiply-accumulates of einsums of two arrays, without `...`, as it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch; an einsum as a product of stretched arrays and a sum."""
        if func is not torch.einsum or len(args) != 3 or "." in args[0]:
            return func(*args, **(kwargs or {}))
        (left, right), result = args[0].split("->")[0].split(","), args[0].split("->")[1]
        order = result + "".join(sorted({*left, *right} - {*result}))
        product = _stretched(args[1], left, order) * _stretched(args[2], right, order)
        self.macs += product.numel()
        summed = tuple(range(len(result), len(order)))
        return product.sum(summed) if summed else product


def _stretched(array: Tensor, letters: str, order: str) -> Tensor:
    """An array with an axis for every letter of `order`, of one position where it has none."""
    array = array.permute([letters.index(letter) for letter in order if letter in letters])
    return array[tuple(slice(None) if letter in letters else None for letter in order)]


def assert_costs(model: nn.Module, inputs: Sequence[Any], predicted: Mapping[str, int]) -> None:
    """Predicted MACs per sample and parameters are those counted, to the unit."""
    single = [x[:1] if isinstance(x, Tensor) else x for x in inputs]
    macs, params = count_macs(model, single), sum(p.numel() for p in model.parameters())
    assert predicted["macs"] == macs, f"predicted {predicted['macs']} MACs, counted {macs}"
    assert predicted["params"] == params, (
        f"predicted {predicted['params']} parameters, counted {params}"
    )


def assert_onnx_agrees(model: nn.Module, inputs: Sequence[Tensor], rtol: float = EXACT) -> None:
    """ONNX Runtime computes what the model computes, at the batch size of the inputs and one more.

    The export is torch's own, so that this checks the model and not our exporter.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
        torch.onnx.export(
            model, tuple(inputs), path, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        session = onnxruntime.InferenceSession(path)
        names = [item.name for item in session.get_inputs()]
        for batch in (tuple(inputs), tuple(torch.cat([x, x.flip(0)]) for x in inputs)):
            feeds = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
            for index, (left, right) in enumerate(
                zip(run(model, batch), session.run(None, feeds), strict=True)
            ):
                assert_close(f"ONNX output {index}", left, torch.from_numpy(right), rtol)
