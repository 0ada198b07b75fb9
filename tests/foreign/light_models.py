"""ONNX's own test models of known networks carry no weights; here they get random ones."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_SIZES = "ConstantOfShape"


def light_models() -> list[Path]:
    """The files in the onnx package whose weights are made by ConstantOfShape when they run."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return sorted(folder.glob("light_*.onnx"))


def with_weights(path: Path, seed: int = 0) -> onnx.ModelProto:
    """The model with a random initialiser in place of every ConstantOfShape.

    Weights get the spread that keeps activations of the size of the inputs; scales, which follow
    from the name of a batch norm's input, lie around one and variances are positive.
    """
    model = onnx.load(path)
    generator = np.random.default_rng(seed)
    shapes = {
        tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer
    }
    positive = {
        name
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        for name in (node.input[1], node.input[4])
    }
    made = [node for node in model.graph.node if node.op_type == _SIZES]
    for node in made:
        shape = shapes[node.input[0]]
        values = generator.normal(0, (2 / max(np.prod(shape[1:], dtype=int), 1)) ** 0.5, shape)
        if node.output[0] in positive:
            values = generator.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = generator.normal(0, 0.1, shape)
        tensor = numpy_helper.from_array(values.astype(np.float32), node.output[0])
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for stored in (model.graph.initializer, model.graph.input):
        kept = [item for item in stored if item.name in used]
        del stored[:]
        stored.extend(kept)
    return model
