"""ONNX files that are broken or mean harm, made when they are needed: the table and a runner.

`python -m tests.onnx.frontend.hostile FOLDER` makes each, loads it with little memory and little
time, and prints as JSON what came of it.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Maker = Callable[[Path], onnx.ModelProto | bytes]
CASES: dict[str, tuple[str, Maker]] = {}

MEMORY = 3 * 2**30
SECONDS = 20


def refused(message: str) -> Callable[[Maker], Maker]:
    """Registers the maker of a file that load_onnx refuses, with a pattern of the message."""

    def register(maker: Maker) -> Maker:
        CASES[maker.__name__] = (message, maker)
        return maker

    return register


def model(
    nodes: Sequence[onnx.NodeProto] | None = None,
    tensors: Sequence[TensorProto] = (),
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """x [2, 3] -> y [2, 3], by one Relu unless the nodes are given."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in outputs],
        list(tensors),
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)


def adding(tensor: TensorProto) -> onnx.ModelProto:
    """x + a stored tensor."""
    tensor.name = "w"
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def declared(shape: Sequence[int], data: bytes, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return adding(TensorProto(dims=shape, data_type=kind, raw_data=data))


def external(location: str, **facts: object) -> onnx.ModelProto:
    """x + a tensor of 24 bytes in another file."""
    tensor = TensorProto(dims=[2, 3], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **facts}.items():
        tensor.external_data.add(key=key, value=str(value))
    return adding(tensor)


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("f", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])


def call(name: str, given: str, made: str) -> onnx.NodeProto:
    return helper.make_node(name, [given], [made], domain="f")


def field(tag: bytes, data: bytes) -> bytes:
    """A field of a protobuf message: graph is 3a in a model, node 0a in a graph."""
    length, digits = len(data), b""
    while length > 127:
        digits, length = digits + bytes([length & 127 | 128]), length >> 7
    return tag + digits + bytes([length]) + data


# Not a model at all


@refused("is empty: export or download it again")
def nothing(folder):
    return b""


@refused("truncated or no ONNX file")
def a_picture(folder):
    return b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@refused("has no graph|truncated or no ONNX file")
def a_page_of_an_error(folder):
    return b"<!doctype html><title>404</title>"


@refused("truncated or no ONNX file")
def half_of_a_file(folder):
    data = declared([64, 64], bytes(4 * 64 * 64)).SerializeToString()
    return data[: len(data) // 2]


@refused("has no graph")
def no_graph(folder):
    return onnx.ModelProto(ir_version=8)


@refused("has no outputs")
def no_outputs(folder):
    return model(outputs=())


@refused("has the name b'.*', which is no text|truncated or no ONNX file")
def names_that_are_no_text(folder):
    return model().SerializeToString().replace(b"Relu", b"\xff\xfe\xfd\xfc")


@refused("has the name b'.*', which is no text|truncated or no ONNX file")
def a_node_whose_name_is_no_text(folder):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="hidden")]
    return model(nodes).SerializeToString().replace(b"hidden", b"hi\xff\xfeen")


@refused("truncated or no ONNX file")
def graphs_in_graphs_without_end(folder):
    data = helper.make_graph([], "inner", [], []).SerializeToString()
    for _ in range(2000):  # graph > attribute (field 6) > node (5) > graph (1)
        data = field(b"\x0a", field(b"\x2a", field(b"\x32", data)))
    return field(b"\x3a", data)


# Versions


@refused("uses version 999 of ONNX's operators, .*: update onnx, or export")
def operators_of_the_future(folder):
    return model(opset=999)


@refused("uses version -3 of ONNX's operators")
def operators_before_the_beginning(folder):
    return model(opset=-3)


@refused("does not say which version")
def operators_of_no_version(folder):
    made = model()
    del made.opset_import[:]
    return made


@refused("has ONNX IR version 999.*: update onnx")
def a_format_of_the_future(folder):
    made = model()
    made.ir_version = 999
    return made


# Tensors


@refused(r"declares the initialiser 'w' as FLOAT\[2, 3\], which needs 24 bytes, but holds 8")
def too_little_data(folder):
    return declared([2, 3], bytes(8))


@refused("needs 24 bytes, but holds 400")
def too_much_data(folder):
    return declared([2, 3], bytes(400))


@refused(f"needs {4 * 2**80 * 10**6} bytes, but holds 24")
def sizes_that_overflow(folder):
    return declared([2**40, 2**40, 10**6], bytes(24))


@refused(f"needs {2**42} bytes, but holds 0")
def a_terabyte_of_nothing(folder):
    return declared([2**40], b"")


@refused("needs 1099511627776 numbers, but holds 1")
def a_terabyte_of_numbers(folder):
    return adding(TensorProto(dims=[2**40], data_type=TensorProto.FLOAT, float_data=[1.0]))


@refused(f"needs {2**41} numbers, but holds 1")
def small_numbers_without_end(folder):
    return adding(TensorProto(dims=[2**42], data_type=TensorProto.INT4, int32_data=[1]))


@refused("which is no shape of a stored tensor")
def a_negative_size(folder):
    return declared([-2, -3], bytes(24))


@refused("does not say of what type 'axis' of Softmax 'hidden' is")
def an_attribute_without_a_type(folder):
    made = model([helper.make_node("Softmax", ["x"], ["y"], "hidden", axis=1)])
    made.graph.node[0].attribute[0].type = onnx.AttributeProto.UNDEFINED
    return made


@refused("no valid ONNX model: 99 is not a valid DataType")
def a_type_that_nobody_knows(folder):
    return declared([2, 3], bytes(24), kind=99)


@refused("no valid ONNX model")
def numbers_in_the_field_of_another_type(folder):
    return adding(TensorProto(dims=[3], data_type=TensorProto.FLOAT, int64_data=[1, 2, 3]))


@refused("needs 1000000000 strings, but holds 1")
def strings_without_end(folder):
    strings = TensorProto(dims=[10**9], data_type=TensorProto.STRING, string_data=[b"a"])
    return adding(strings)


@refused("declares the initialiser 'c' as FLOAT.1099511627776., which needs")
def a_huge_constant(folder):
    value = TensorProto(dims=[2**40], data_type=TensorProto.FLOAT, raw_data=bytes(4))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return model(nodes)


@refused("stores 'w' sparsely")
def a_sparse_tensor(folder):
    made = model()
    sparse = made.graph.sparse_initializer.add(dims=[10**12])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    return made


@refused("declares 'x' with 1000000000000 elements")
def a_huge_input(folder):
    made = model()
    for dim in made.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_value = 10**6
    return made


# Files beside the model


@refused("stored in '/etc/passwd': a model may only name files in its own folder")
def data_at_an_absolute_path(folder):
    return external("/etc/passwd", length=24)


@refused(r"stored in '\.\./secret': a model may only name files in its own folder")
def data_above_the_folder(folder):
    (folder.parent / "secret").write_bytes(bytes(24))
    return external("../secret", length=24)


@refused(r"a model may only name files in its own folder")
def data_above_the_folder_by_a_detour(folder):
    (folder / "inner").mkdir(exist_ok=True)
    return external("inner/../../secret", length=24)


@refused("a link that leaves the folder .*: copy the data beside the model")
def data_behind_a_link(folder):
    (folder.parent / "secret").write_bytes(bytes(24))
    (folder / "link").symlink_to("../secret")
    return external("link", length=24)


@refused(r"several names \(hard links\)")
def data_behind_a_second_name(folder):
    (folder.parent / "secret").write_bytes(bytes(24))
    os.link(folder.parent / "secret", folder / "name")
    return external("name", length=24)


@refused("has no such file: copy it there")
def data_that_is_not_there(folder):
    return external("lost", length=24)


@refused("has no such file: copy it there")
def data_from_a_pipe_that_never_speaks(folder):
    os.mkfifo(folder / "pipe")
    return external("pipe", length=24)


@refused("may only name files in its own folder")
def data_without_a_file(folder):
    return external("")


@refused("at bytes 16 to 40, but the file has 24: it is truncated")
def data_past_the_end(folder):
    (folder / "data").write_bytes(bytes(24))
    return external("data", offset=16, length=24)


@refused("no valid ONNX model: External data offset must be non-negative, got -8")
def data_before_the_beginning(folder):
    (folder / "data").write_bytes(bytes(24))
    return external("data", offset=-8, length=24)


@refused("which needs 24 bytes, but holds 4000")
def data_of_another_length(folder):
    (folder / "data").write_bytes(bytes(4000))
    return external("data", length=4000)


@refused("no valid ONNX model: invalid literal for int")
def an_offset_that_is_no_number(folder):
    (folder / "data").write_bytes(bytes(24))
    return external("data", offset="first", length=24)


# Names and order


@refused("uses 'nowhere' in Relu, and nothing in it makes that value")
def a_value_from_nowhere(folder):
    return model([helper.make_node("Relu", ["nowhere"], ["y"])])


@refused("uses 'z' in the outputs, and nothing in it makes that value")
def an_output_from_nowhere(folder):
    return model(outputs=("y", "z"))


@refused("no valid ONNX model: Output 'y' is redeclared")
def a_value_made_twice(folder):
    return model([helper.make_node(op, ["x"], ["y"]) for op in ("Relu", "Abs")])


@refused("no valid ONNX model: Output 'x' is redeclared")
def a_node_that_makes_the_input(folder):
    return model([helper.make_node("Relu", ["x"], ["x"]), helper.make_node("Abs", ["x"], ["y"])])


@refused("declares the initialiser 'w' 2 times")
def two_tensors_of_one_name(folder):
    made = declared([2, 3], bytes(24))
    made.graph.initializer.add().CopyFrom(made.graph.initializer[0])
    return made


@refused("declares the initialiser 'w' 2 times")
def two_tensors_of_one_name_in_a_branch(folder):
    branch = declared([2, 3], bytes(24)).graph
    branch.initializer.add().CopyFrom(branch.initializer[0])
    del branch.input[:]
    flag = numpy_helper.from_array(np.array(True), "flag")
    choice = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    return model([choice, helper.make_node("Relu", ["x"], ["y"])], [flag])


@refused("declares the input 'x' 2 times")
def two_inputs_of_one_name(folder):
    made = model()
    made.graph.input.add().CopyFrom(made.graph.input[0])
    return made


@refused("has a cycle: a node needs its own result")
def a_cycle(folder):
    return model(
        [
            helper.make_node("Add", ["x", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
        ]
    )


@refused("has a cycle")
def a_node_that_feeds_itself(folder):
    return model([helper.make_node("Add", ["x", "y"], ["y"])])


# Functions


@refused("functions that call themselves: loop -> loop")
def a_function_that_calls_itself(folder):
    return model([call("loop", "x", "y")], functions=[function("loop", call("loop", "a", "b"))])


@refused("functions that call themselves: (ping -> pong -> ping|pong -> ping -> pong)")
def functions_that_call_each_other(folder):
    ping, pong = function("ping", call("pong", "a", "b")), function("pong", call("ping", "a", "b"))
    return model([call("ping", "x", "y")], functions=[ping, pong])


@refused(f"has {2**60} nodes once its functions are written out")
def functions_that_double(folder):
    functions = [function("f0", helper.make_node("Relu", ["a"], ["b"]))]
    for i in range(60):
        twice = call(f"f{i}", "a", "c"), call(f"f{i}", "c", "b")
        functions.append(function(f"f{i + 1}", *twice))
    return model([call("f60", "x", "y")], functions=functions)


@refused("has more than 1000000 nodes")
def nodes_without_end(folder):
    made = model()
    node = made.graph.node[0].SerializeToString()
    return made.SerializeToString() + b"".join([field(b"\x3a", field(b"\x0a", node))] * 1_100_000)


def outcome(name: str, folder: Path) -> list[str]:
    """How load_onnx ends: the kind of the error and its message."""
    from fxprune.onnx.frontend.loading import load_onnx

    folder.mkdir(parents=True)
    made = CASES[name][1](folder)
    path = folder / "model.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    before = sorted(folder.parent.rglob("*"))
    signal.alarm(SECONDS)
    try:
        load_onnx(path)
        end = ["", "it was loaded"]
    except Exception as error:
        end = [type(error).__name__, str(error)]
    signal.alarm(0)
    written = sorted(set(folder.parent.rglob("*")) - set(before))
    return [*end, *map(str, written)]


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps({name: outcome(name, folder / name / "model") for name in CASES}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
