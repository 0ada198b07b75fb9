"""Operators that draw random numbers, made to draw the same ones in models that are compared."""

import zlib

import numpy as np
import onnx_ir

_DRAWING = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
_SEEDS = 2**20
"""Seeds are stored as float32, which holds all whole numbers up to 2**24."""


def draws(model: onnx_ir.Model) -> bool:
    """Whether a model draws random numbers, also in subgraphs."""
    return any(map(_draws, model.graph.all_nodes()))


def seed_draws(model: onnx_ir.Model) -> None:
    """Give every operator that draws without a seed one that hangs on the name of its output.

    A seed is where a session begins: each run of it goes on from there.
    """
    for node in model.graph.all_nodes():
        if _draws(node) and "seed" not in node.attributes:
            number = zlib.crc32(str(node.outputs[0].name).encode()) % _SEEDS
            whole = node.op_type == "Dropout"
            node.attributes["seed"] = (
                onnx_ir.AttrInt64("seed", number)
                if whole
                else onnx_ir.AttrFloat32("seed", float(number))
            )


def _draws(node: onnx_ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in _DRAWING or (node.op_type == "Dropout" and _may_train(node))


def _may_train(node: onnx_ir.Node) -> bool:
    """Whether a dropout drops something: its third input may say so, or is not known."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return False
    return mode.const_value is None or bool(np.any(mode.const_value.numpy()))
