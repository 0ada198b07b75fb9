"""ONNX models run by ONNX Runtime, and inputs for them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from fxprune.errors import InputError

_ONE_MESSAGE_BYTES = 1_500_000_000
"""Larger models do not fit in one protobuf message."""

Feeds = dict[str, np.ndarray]


@contextmanager
def session_of(
    model: onnx_ir.Model, wanted: Sequence[str] = (), *, optimised: bool = False
) -> Iterator[Any]:
    """A session on the CPU; `wanted` values are outputs as well.

    Without optimisation ONNX Runtime computes node by node, as the file says.

    Raises:
        InputError: ONNX Runtime does not load the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    with tempfile.TemporaryDirectory(prefix="fxprune-") as folder, _showing(model, wanted):
        try:
            source = _loadable(model, Path(folder))
            session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"ONNX Runtime does not load the model: {error}") from error
        yield session


@contextmanager
def _showing(model: onnx_ir.Model, wanted: Sequence[str]) -> Iterator[None]:
    """The model with more outputs, for a while."""
    outputs = list(model.graph.outputs)
    present = {value.name for value in outputs}
    more = [v for node in model.graph for v in node.outputs if v.name in set(wanted) - present]
    model.graph.outputs.extend(more)
    try:
        yield
    finally:
        del model.graph.outputs[len(outputs) :]


def _loadable(model: onnx_ir.Model, folder: Path) -> bytes | str:
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size < _ONE_MESSAGE_BYTES:
        message: bytes = onnx_ir.to_proto(model).SerializeToString()
        return message
    onnx_ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    return str(folder / "model.onnx")


def run(session: Any, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[Any]:
    """The values of the outputs `wanted`.

    Raises:
        InputError: the model does not accept the inputs.
    """
    try:
        results: list[Any] = session.run(list(wanted), dict(feeds))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(feed.shape)}" for name, feed in feeds.items())
        raise InputError(f"ONNX Runtime does not run the model on {shapes}: {error}") from error
    return results


def random_feeds(session: Any, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> Feeds:
    """Inputs of the given shapes: normal numbers, zeros and ones for whole numbers."""
    generator = np.random.default_rng(seed)
    return {
        item.name: _random(generator, item.type, tuple(shapes[item.name]))
        for item in session.get_inputs()
    }


def _random(generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name in _FLOATS:
        return generator.standard_normal(shape).astype(_FLOATS[name])
    if name == "string":
        return np.full(shape, "a", dtype=object)
    return generator.integers(0, 2, shape).astype("bool" if name == "bool" else name)


_FLOATS = {"float": np.float32, "double": np.float64, "float16": np.float16}
