"""A residual network as an ONNX model, and how it is run."""

import numpy as np
import onnx

from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import session_of
from tests.onnx.frontend.samples import drawing, read_whole


def residual(seed: int = 0, width: int = 8) -> onnx.ModelProto:
    """Two residual blocks of convolutions, with and without a batch norm, and a head."""
    g = drawing()
    h = g("Relu", g("Conv", "x", g.weight(width, 3, 3, 3), g.weight(width), pads=[1] * 4))
    for _ in range(2):
        y = g("Relu", g("Conv", h, g.weight(12, width, 3, 3), g.weight(12), pads=[1] * 4))
        h = g("Add", h, g("Conv", y, g.weight(width, 12, 3, 3), g.weight(width), pads=[1] * 4))
    return read_whole(g, g("ReduceMean", h, g.numbers(2, 3)), seed)


def outputs(model: object, x: np.ndarray) -> np.ndarray:
    loaded = load_onnx(model)
    with session_of(loaded) as session:
        return session.run({"x": x}, [loaded.graph.outputs[0].name])[0]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 6, 6)).astype(np.float32)
