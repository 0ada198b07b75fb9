"""Which tensors lie in which safetensors files of a folder? Read and written in pieces.

    model.safetensors                       all of them, or
    model.safetensors.index.json            {"weight_map": {name: file, ...}, "metadata": {...}}
    model-00001-of-00002.safetensors, ...   some each, called shards

One file is open at a time. A file is written header first, which says what is to come, and then
the numbers follow, so nothing is ever in memory whole.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fxprune.errors import CheckpointError, InternalError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PIECE = 1 << 24
"""How many elements are read at once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies, its type as safetensors writes it, its shape and bytes per element."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    itemsize: int


class Shards:
    """The tensors in the safetensors files of a folder, by name; `metadata` is what is said of all.

    Raises:
        CheckpointError: there are none, a file is missing or damaged, or does not hold what the
            index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        self._open: tuple[str, Any] = ("", None)
        if (folder / WEIGHTS).is_file():
            self._read_header(WEIGHTS)
            self.metadata: Mapping[str, Any] = self._handle(WEIGHTS).metadata() or {}
            return
        index = _index_of(folder)
        placed: dict[str, str] = index["weight_map"]
        self.metadata = index.get("metadata") or {}
        for file in dict.fromkeys(placed.values()):
            self._read_header(file)
        for name, file in placed.items():
            if name not in self.tensors or self.tensors[name].file != file:
                raise CheckpointError(f"{folder / INDEX} says that {name} is in {file}: it is not")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that hold tensors."""
        return tuple(dict.fromkeys(entry.file for entry in self.tensors.values()))

    def part(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a tensor that has axes."""
        file = self.tensors[name].file
        with _told(self.folder / file):
            found: Tensor = self._handle(file).get_slice(name)[part]
            return found

    def whole(self, name: str) -> Tensor:
        """A tensor."""
        file = self.tensors[name].file
        with _told(self.folder / file):
            found: Tensor = self._handle(file).get_tensor(name)
            return found

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """A tensor from its first positions to its last, with the number of the first of each."""
        shape = self.tensors[name].shape
        if not shape:
            yield 0, self.whole(name)
            return
        step = max(_PIECE // max(prod(shape[1:]), 1), 1)
        for start in range(0, shape[0], step):
            yield start, self.part(name, (slice(start, min(start + step, shape[0])),))

    def _read_header(self, file: str) -> None:
        """Learn what one file holds."""
        with _told(self.folder / file):
            handle = self._handle(file)
            for name in handle.keys():  # noqa: SIM118 (it is no mapping)
                view = handle.get_slice(name)
                shape = tuple(map(int, view.get_shape()))
                first = view[:0] if shape else handle.get_tensor(name)
                dtype = str(view.get_dtype())
                self.tensors[name] = Stored(file, dtype, shape, first.element_size())

    def _handle(self, file: str) -> Any:
        if self._open[0] != file:
            self._open = ("", None)  # the pages of a file that is closed are let go
            self._open = (file, safe_open(self.folder / file, framework="pt"))
        return self._open[1]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what is wrong with a file as an error of ours."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error


def _index_of(folder: Path) -> Mapping[str, Any]:
    """The index of shards, which names files of this folder only."""
    path = folder / INDEX
    if not path.is_file():
        raise CheckpointError(
            f"there are no weights in {folder}: neither {WEIGHTS} nor {INDEX} (files of other "
            "formats are written anew by model.save_pretrained or safetensors.torch.save_file)"
        )
    try:
        index = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise CheckpointError(f'{path} has no "weight_map" from names to files')
    for name, file in index["weight_map"].items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(f"{path} names no file of this folder for {name}: {file!r}")
    return index


# Writing --------------------------------------------------------------------------------------

Pieces = Callable[[str], Iterable[Tensor]]
"""From the name of a tensor to its numbers, in the order in which they lie in memory."""


def write_shard(
    path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str], pieces: Pieces
) -> None:
    """Write one file, one piece after the other; wide types come first, so all are aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    ends: dict[str, int] = {}
    end = 0
    for name in order:
        entry = tensors[name]
        start, end = end, end + prod(entry.shape) * entry.itemsize
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]}
        ends[name] = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        for name in order:
            for piece in pieces(name):
                file.write(_bytes(piece))
            if file.tell() - begin != ends[name]:
                raise InternalError(f"what is written of {name} is not {tensors[name].shape}")


def _bytes(piece: Tensor) -> Any:
    return piece.contiguous().reshape(-1).view(torch.uint8).numpy().data


def index_text(weight_map: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """What the index of shards says."""
    return json.dumps({"metadata": dict(metadata), "weight_map": dict(weight_map)}, indent=2)
