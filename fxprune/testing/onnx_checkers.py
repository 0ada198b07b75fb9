"""A checker for models in ONNX Runtime."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.testing.checkers import assert_close, inputs_of, precision_of
from fxprune.testing.rounding import allowed_errors, run


def assert_onnxruntime_agrees(
    model: nn.Module, inputs: Sequence[Tensor] | None = None, *, rtol: float | None = None
) -> None:
    """ONNX Runtime computes what a model computes, for the inputs and for twice as many samples.

    The export is torch's own, so that this checks the model and not a rewrite of the file.

    Args:
        model: what is exported, in the mode and precision it is in.
        inputs: what it is given; a `Network` has its own.
        rtol: the largest difference relative to the largest value of an output; by default what
            rounding explains (see `fxprune.testing.rounding`).

    Raises:
        AssertionError: they differ; with the first differing value, and the value of the file
            that it comes from.
    """
    inputs = tuple(inputs_of(model) if inputs is None else inputs)
    program = _exported(model, inputs)
    for batch in (inputs, tuple(torch.cat([x, x.flip(0)]) for x in inputs)):
        expected = run(model, batch)
        errors = [0.0] * len(expected)
        if rtol is None:
            errors = allowed_errors(model, batch, precision_of(model, batch))
        got = _computed(program.model, batch)
        for index, (left, right, atol) in enumerate(
            zip(expected, got.values(), errors, strict=True)
        ):
            try:
                assert_close(f"ONNX output {index}", left, right, rtol or 0.0, atol)
            except AssertionError as error:
                raise AssertionError(f"{error}; {_first_difference(program, batch)}") from None


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
        return torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)


def _computed(model: Any, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What ONNX Runtime returns, by name."""
    import onnx_ir
    import onnxruntime

    text = onnx_ir.to_proto(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(text, options, ["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    outputs = [item.name for item in session.get_outputs()]
    return {
        name: torch.from_numpy(array)
        for name, array in zip(outputs, session.run(outputs, feeds), strict=True)
    }


def _first_difference(program: Any, inputs: Sequence[Tensor]) -> str:
    """Every value of the file against the value of that name in the exported program."""
    known = {
        value.name: value
        for node in program.model.graph
        for value in node.outputs
        if value.type is not None and value.name
    }
    outputs = list(program.model.graph.outputs)
    program.model.graph.outputs[:] = list(known.values())
    try:
        got = _computed(program.model, inputs)
    except Exception as error:
        return f"no value can be named, because it does not run with all of them: {error}"
    finally:
        program.model.graph.outputs[:] = outputs
    for name, (target, expected) in _values(program, inputs).items():
        found = got.get(name)
        if found is None or found.shape != expected.shape or not expected.is_floating_point():
            continue
        relative = torch.finfo(expected.dtype).eps ** 0.5
        if (found - expected).abs().max() > relative * expected.abs().max():
            return f"first differing value: {name} ({target})"
    return "every value that both have agrees"


def _values(program: Any, inputs: Sequence[Tensor]) -> dict[str, tuple[str, Tensor]]:
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
