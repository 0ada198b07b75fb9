"""Files that are written in pieces are what safetensors reads, whatever is in them."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fxprune
from fxprune.torch import shards as module
from fxprune.torch.shards import WEIGHTS, Shards, Stored, write_shard

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
TENSORS = st.lists(
    st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=5
)


def tensor(dtype, shape, seed):
    numbers = torch.randint(0, 2, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return (3 * numbers).to(dtype)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(drawn=TENSORS, piece=st.integers(1, 12))
def test_what_is_read_in_pieces_and_written_in_pieces_is_the_same(
    drawn, piece, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_PIECE", piece)
    state = {f"t{i}": tensor(dtype, shape, i) for i, (dtype, shape) in enumerate(drawn)}
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    shards = Shards(tmp_path)
    assert {name: entry.shape for name, entry in shards.tensors.items()} == {
        name: tuple(each.shape) for name, each in state.items()
    }
    assert all(
        piece.numel() <= max(module._PIECE, math.prod(piece.shape[1:]))
        for name in state
        for _, piece in shards.pieces(name)
    )
    again = tmp_path / "again.safetensors"
    write_shard(again, shards.tensors, {"a": "b"}, lambda name: (p for _, p in shards.pieces(name)))
    found = load_file(again)
    assert found.keys() == state.keys()
    for name, each in state.items():
        assert found[name].dtype == each.dtype and torch.equal(found[name], each)
    with safe_open(again, framework="pt") as file:
        assert file.metadata() == {"a": "b"}


def test_numbers_that_do_not_fill_what_the_header_says_are_an_error_of_ours(tmp_path):
    entry = Stored("a", "F32", (2, 3), 4)
    with pytest.raises(fxprune.InternalError, match=r"x is not \(2, 3\)"):
        write_shard(tmp_path / "a", {"x": entry}, {}, lambda name: [torch.zeros(2, 2)])


def test_one_file_comes_before_shards(tmp_path: Path):
    save_file({"x": torch.ones(2)}, tmp_path / WEIGHTS)
    (tmp_path / module.INDEX).write_text("{")
    assert list(Shards(tmp_path).tensors) == ["x"]
