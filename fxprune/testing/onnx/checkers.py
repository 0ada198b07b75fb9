"""Checkers for models in ONNX Runtime, and for rewrites of ONNX files.

The tolerance is what rounding explains (see `fxprune.testing.torch.rounding`), of the torch model
where there is one.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.agreement import CAPS
from fxprune.errors import FxpruneError
from fxprune.testing.onnx.graphs import OnnxModel
from fxprune.testing.torch.checkers import assert_close, inputs_of, precision_of
from fxprune.testing.torch.rounding import (
    ROUNDINGS,
    allowed_errors,
    largest_of,
    least_error,
    off_by_rounding,
    run,
)

Values = Mapping[str, tuple[str, Tensor]]
"""Values between layers by name, with what computes them."""


def assert_onnxruntime_agrees(
    model: nn.Module, inputs: Sequence[Tensor] | None = None, *, rtol: float | None = None
) -> None:
    """ONNX Runtime computes what a model computes, for the inputs and for twice as many samples.

    The export is torch's own, so that this checks the model and not a rewrite of the file.

    Args:
        model: what is exported, in the mode and precision it is in.
        inputs: what it is given; a `Network` has its own.
        rtol: the largest difference relative to the largest value of an output; by default what
            rounding explains.

    Raises:
        AssertionError: they differ; with the first differing value, and the value of the file
            that it comes from.
    """
    inputs = tuple(inputs_of(model) if inputs is None else inputs)
    program = _exported(model, inputs)
    for batch in _batches(inputs):
        got = list(_computed(program.model, batch, optimised=True).values())
        try:
            _assert_all_close(model, batch, run(model, batch), got, rtol)
        except AssertionError as error:
            values = _values_of_program(program, batch)
            raise AssertionError(
                f"{error}; {_first_differing(values, program.model, batch)}"
            ) from None


def assert_onnx_rewrite_equivalent(
    rewrite: Callable[[Any], Any],
    model: nn.Module | OnnxModel,
    inputs: Sequence[Tensor] | None = None,
    *,
    rtol: float | None = None,
) -> None:
    """A rewrite of ONNX files keeps what a file computes, for the inputs and for twice as many.

    Both files run in ONNX Runtime as they are, without its own rewrites: what the exporter or
    ONNX Runtime's optimizer does wrong is not held against the rewrite.

    Args:
        rewrite: a function from a ModelProto to the rewritten one.
        model: what is rewritten, or what torch exports first, without optimising it.
        inputs: what it is given; a `Network` and an `OnnxModel` have their own.
        rtol: the largest difference relative to the largest value of an output; by default what
            rounding explains.

    Raises:
        AssertionError: the rewritten file computes something else or does not run, its inputs or
            outputs have other names, or the ModelProto that was given has changed.
        FxpruneError: torch cannot export the model, or ONNX Runtime cannot run what is rewritten.
    """
    import onnx_ir

    try:
        before, inputs = _file_of(model, inputs)
        expected = [_computed(before, batch) for batch in _batches(inputs)]
    except Exception as error:
        raise FxpruneError(f"there is no file to rewrite: {error}") from error
    given = onnx_ir.to_proto(before)
    text = given.SerializeToString()
    after = onnx_ir.from_proto(rewrite(given))
    assert given.SerializeToString() == text, "the rewrite has changed what it was given"
    for kind in ("inputs", "outputs"):
        names, new = ([x.name for x in getattr(m.graph, kind)] for m in (before, after))
        assert new == names, f"{kind} are {new}, expected {names}"
    for batch, outputs in zip(_batches(inputs), expected, strict=True):
        try:
            got = list(_computed(after, batch).values())
        except Exception as error:
            raise AssertionError(f"the rewritten file does not run: {error}") from error
        try:
            rounded = model if isinstance(model, nn.Module) else before
            _assert_all_close(rounded, batch, list(outputs.values()), got, rtol)
        except AssertionError as error:
            values = _every_value(before, batch)
            raise AssertionError(f"{error}; {_first_differing(values, after, batch)}") from None


def _file_of(
    model: nn.Module | OnnxModel, inputs: Sequence[Tensor] | None
) -> tuple[Any, tuple[Tensor, ...]]:
    """The model that is rewritten, and its inputs in order."""
    import onnx_ir

    if isinstance(model, nn.Module):
        own = tuple(inputs_of(model) if inputs is None else inputs)
        return _exported(model, own, optimize=False).model, own
    file = onnx_ir.from_proto(model.proto)
    if inputs is None:
        inputs = [torch.from_numpy(model.inputs[str(value.name)]) for value in file.graph.inputs]
    return file, tuple(inputs)


def _batches(inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], ...]:
    """The samples as they are, and twice as many."""
    return inputs, tuple(torch.cat([x, x.flip(0)]) for x in inputs)


def _assert_all_close(
    model: Any,
    batch: Sequence[Tensor],
    expected: Sequence[Tensor],
    got: Sequence[Tensor],
    rtol: float | None,
) -> None:
    errors = [0.0] * len(expected)
    if rtol is None and isinstance(model, nn.Module):
        errors = allowed_errors(model, batch, precision_of(model, batch))
    elif rtol is None:
        errors = _errors_of_file(model, batch, expected)
    assert any(bool(each.isfinite().any()) for each in expected), "no output has a finite value"
    for index, (left, right, atol) in enumerate(zip(expected, got, errors, strict=True)):
        assert_close(f"ONNX output {index}", left, right, rtol or 0.0, atol)


def _errors_of_file(model: Any, batch: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """What rounding explains, told by weights and inputs that are off by up to a rounding."""
    import onnx_ir

    generator = torch.Generator().manual_seed(0)

    def rounded(array: Tensor) -> Tensor:
        return off_by_rounding(array.double(), generator).to(array.dtype)  # type: ignore[no-any-return]

    off = onnx_ir.from_proto(onnx_ir.to_proto(model))
    for value in off.graph.initializers.values():
        array = torch.from_numpy(value.const_value.numpy().copy())
        if array.is_floating_point() and array.dim() > 1:  # vectors may be sizes, as of a Resize
            value.const_value = onnx_ir.tensor(rounded(array).numpy())
    inputs = [rounded(x) if x.is_floating_point() else x for x in batch]
    other = _computed(off, inputs).values()
    least = [least_error(x, torch.float32) for x in expected]
    return [
        max(
            min(ROUNDINGS * _distance(left, right), CAPS["float32"] * max(largest_of(left), 1)),
            atol,
        )
        for left, right, atol in zip(expected, other, least, strict=True)
    ]


def _distance(left: Tensor, right: Tensor) -> float:
    """Of whole numbers none, however they move; what is not finite is none either."""
    if not left.is_floating_point():
        return 0.0
    apart = (left - right).abs()
    finite = apart[apart.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _exported(model: nn.Module, inputs: tuple[Tensor, ...], *, optimize: bool = True) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
            verbose=False,
            optimize=optimize,
        )


def _computed(
    model: Any, inputs: Sequence[Tensor], *, optimised: bool = False
) -> dict[str, Tensor]:
    """What ONNX Runtime returns, by name; `optimised` by ONNX Runtime as it is by default."""
    import onnx_ir
    import onnxruntime

    text = onnx_ir.to_proto(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(text, options, ["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    outputs = [item.name for item in session.get_outputs()]
    return {
        name: torch.from_numpy(array)
        for name, array in zip(outputs, session.run(outputs, feeds), strict=True)
    }


def _first_differing(expected: Values, model: Any, inputs: Sequence[Tensor]) -> str:
    """The first value that a file computes otherwise, of those that it has under the same name."""
    try:
        got = _every_value(model, inputs)
    except Exception as error:
        return f"no value can be named, because it does not run with all of them: {error}"
    for name, (source, value) in expected.items():
        _, found = got.get(name, ("", None))
        if found is None or found.shape != value.shape or not value.is_floating_point():
            continue
        relative = torch.finfo(value.dtype).eps ** 0.5
        if (found - value).abs().max() > relative * value.abs().max():
            return f"first differing value: {name} ({source})"
    return "every value that both have agrees"


def _every_value(model: Any, inputs: Sequence[Tensor]) -> Values:
    """All that the nodes of a file compute."""
    known = {
        value.name: (node.op_type, value)
        for node in model.graph
        for value in node.outputs
        if value.type is not None and value.name
    }
    outputs = list(model.graph.outputs)
    model.graph.outputs[:] = [value for _, value in known.values()]
    try:
        got = _computed(model, inputs)
    finally:
        model.graph.outputs[:] = outputs
    return {name: (known[name][0], value) for name, value in got.items()}


def _values_of_program(program: Any, inputs: Sequence[Tensor]) -> Values:
    """The values of the exported program by name, which its ONNX values have too."""
    values: dict[str, tuple[str, Tensor]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor) and n.op == "call_function":
                values[n.name] = (str(n.target), result.detach().clone())
            return result

    with torch.no_grad():
        Recorder(program.exported_program.module(check_guards=False)).run(*inputs)
    return values
