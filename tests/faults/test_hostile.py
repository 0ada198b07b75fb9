"""Checkpoints that somebody else wrote: clear errors, no code runs, nothing is overwritten."""

import json
import struct

import pytest

import fxprune
from tests.faults.kills import build, is_one_of_them, versions


@pytest.fixture
def checkpoint(tmp_path):
    fxprune.save(versions()[0], tmp_path)
    return tmp_path


def rewrite(folder, change):
    """Change the header of the weights, which holds the description."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = json.dumps(header) if text is None else text
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])


def described(header, **fields):
    """Other fields of the description."""
    description = json.loads(header["__metadata__"]["fxprune"])
    description.update(fields)
    header["__metadata__"]["fxprune"] = json.dumps(description)


def unknown_group(header):
    step = {"ignored": [], "leaves": [], "kept": {"no.such.layer": [0, 1]}}
    described(header, history=[step])


def positions_beyond_the_layer(header):
    described(header, history=[{"ignored": [], "leaves": [], "kept": {"0": [0, 10**9]}}])


def negative_positions(header):
    described(header, history=[{"ignored": [], "leaves": [], "kept": {"0": [-1, 3]}}])


def path_as_a_name(header):
    described(header, aliases={"../../../etc/passwd": "0.weight"})


def code_as_a_type(header):
    described(header, examples=[[{"shape": [1], "dtype": "__class__"}]])


def shape_of_a_petabyte(header):
    described(header, examples=[[{"shape": [10**15, 3, 8, 8], "dtype": "float32"}]])


def deep_nesting(header):
    header["__metadata__"]["fxprune"] = "[" * 100_000 + "]" * 100_000


def deep_history(header):
    text = "[" * 5_000 + "]" * 5_000
    header["__metadata__"]["fxprune"] = f'{{"format": 1, "history": {text}, "examples": []}}'


def offsets_beyond_the_file(header):
    header["0.weight"]["data_offsets"] = [0, 2**40]


def overlapping_tensors(header):
    header["0.weight"]["data_offsets"] = header["0.bias"]["data_offsets"]


@pytest.mark.parametrize(
    "change",
    [
        unknown_group,
        positions_beyond_the_layer,
        negative_positions,
        path_as_a_name,
        code_as_a_type,
        deep_nesting,
        deep_history,
        offsets_beyond_the_file,
        overlapping_tensors,
    ],
)
def test_hostile_checkpoint_is_refused_and_stays(change, checkpoint):
    rewrite(checkpoint, change)
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    model = build()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(fxprune.CheckpointError):
        fxprune.load(checkpoint, model)
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert all(bool((weights[n] == tensor).all()) for n, tensor in model.state_dict().items())


@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 10**8, 0])
def test_header_that_claims_too_much_is_refused_at_once(length, checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(fxprune.CheckpointError, match="damaged"):
        fxprune.load(checkpoint, build())


def test_example_of_a_petabyte_takes_no_memory(checkpoint):
    rewrite(checkpoint, shape_of_a_petabyte)
    assert is_one_of_them(fxprune.load(checkpoint, build()).eval())
