"""Files that are valid and mean harm: too large to compute, or without end."""

import pytest
from onnx import helper, parser

import fxprune
from fxprune.errors import InputError
from fxprune.onnx.frontend import session as onnx_session
from tests.onnx.frontend import hostile as hostile_onnx

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHT = "<float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>"
ENDLESS = f"""{HEAD}
endless (float[2, 3] x) => (float[2, 3] y)
<float[3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}, int64 n = {{9223372036854775807}}, bool t = {{1}}>
{{
    a = MatMul (x, w)
    y = Loop <
        body = again (int64 i, bool k, float[2, 3] s) => (bool l, float[2, 3] r) {{
            l = Identity (k)
            r = Relu (s)
        }}
    > (n, t, a)
}}
"""
HUGE = {
    "ConstantOfShape": "s = Constant <value_ints = [1099511627776, 3]> () z = ConstantOfShape (s)",
    "Expand": "s = Constant <value_ints = [1099511627776, 2, 3]> () z = Expand (a, s)",
    "Tile": "s = Constant <value_ints = [1099511627776, 3]> () z = Tile (a, s)",
    "Pad": "s = Constant <value_ints = [1099511627776, 3, 0, 0]> () z = Pad (a, s)",
}


def doubled(times: int) -> list:
    nodes = [helper.make_node("Concat", ["x", "x"], ["c0"], axis=0)]
    for i in range(times):
        nodes.append(helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0))
    return [*nodes, helper.make_node("ReduceMax", [f"c{times}"], ["y"])]


def refuse(proto, folder, message):
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=message):
        fxprune.prune_onnx(folder / "in.onnx", folder / "out.onnx")
    assert [file.name for file in folder.iterdir()] == ["in.onnx"]


@pytest.mark.parametrize("operator", HUGE)
def test_values_that_no_machine_holds_are_refused(operator, tmp_path):
    text = f"""{HEAD}
    huge (float[2, 3] x) => (float[2, 3] y) {WEIGHT} {{
        a = MatMul (x, w)
        {HUGE[operator]}
        m = ReduceMax <keepdims = 0> (z)
        y = Add (a, m)
    }}"""
    refuse(parser.parse_model(text), tmp_path, r"value z has \d{13,} elements: shape \[")


def test_values_that_double_are_refused(tmp_path):
    refuse(hostile_onnx.model(doubled(60)), tmp_path, r"value c\d+ has \d{11,} elements")


def test_loops_without_end_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_session, "_SECONDS", 1)
    refuse(parser.parse_model(ENDLESS), tmp_path, "the model did not end within 1 seconds")
