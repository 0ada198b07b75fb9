"""Calibration data for an ONNX model: feeds by input name, from a file, images or Python."""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from fxprune.arguments import batches as batches_in
from fxprune.errors import InputError
from fxprune.files import path_of

Feed = dict[str, np.ndarray]
Data = str | Path | Iterable[Any] | Callable[[], Iterable[Any]]
"""An .npz file, a folder of images, or batches: arrays (one input), tuples or mappings by name."""

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
_CHANNELS = (1, 3)


def batches(
    data: Data, inputs: Sequence[onnx_ir.Value], *, batch_size: int = 32, name: str = "data"
) -> list[Feed]:
    """What to feed to a model, batch after batch.

    >>> from onnx import TensorProto, helper
    >>> x = onnx_ir.from_proto(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]))
    >>> [feed["x"].shape for feed in batches([np.zeros((2, 3)), np.zeros((1, 3))], [x])]
    [(2, 3), (1, 3)]

    Args:
        data: One of

            - a path of an .npz file with an array per input: its first axis runs over samples, or,
              if the array has one axis more than the input, over batches;
            - a path of a folder of images, which become RGB (or grey) of the input's size, from 0
              to 1 for float inputs and from 0 to 255 for integers;
            - batches, or a function without arguments that returns them: mappings by input name,
              tuples in the order of the inputs, or an array where the model has one input.
        inputs: The inputs of the model's graph.
        batch_size: Samples per batch where the data is not in batches and the model does not say.
        name: What the argument is called.

    Raises:
        InputError: The data cannot be read, is empty, or does not fit the inputs.
    """
    if isinstance(data, str | Path):
        path = path_of(name, data)
        if not path.exists():
            raise InputError(
                f"{name}: there is no data at {path}: give an .npz file or a folder of images"
            )
        found = _from_path(path, inputs, batch_size)
    else:
        found = iter(batches_in(name, _called(name, data) if callable(data) else data))
    feeds = [
        _feed(batch, inputs, f"batch {number} of {name}") for number, batch in enumerate(found)
    ]
    if not feeds:
        raise InputError(f"{name} holds no batches: some hundred samples are enough")
    for number, feed in enumerate(feeds):
        for key, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(f"batch {number} of {name}: {key!r} holds NaN or infinite values")
    return feeds


def feeds_of(name: str, data: Any, inputs: Sequence[onnx_ir.Value]) -> list[Feed]:
    """Batches that Python gives; there may be none."""
    given = enumerate(batches_in(name, data))
    return [_feed(batch, inputs, f"batch {number} of {name}") for number, batch in given]


def _called(name: str, function: Callable[[], Any]) -> Any:
    """What a function returns as batches."""
    try:
        return function()
    except Exception as error:
        raise InputError(
            f"{name} is a function that fails without arguments: {type(error).__name__}: {error}"
        ) from error


def takes_any_number(inputs: Sequence[onnx_ir.Value]) -> bool:
    """Whether a model leaves open how many samples it takes at once."""
    return all(value.shape and not isinstance(value.shape[0], int) for value in inputs)


def some_samples(feeds: Sequence[Feed], inputs: Sequence[onnx_ir.Value], count: int) -> list[Feed]:
    """About `count` samples from all over the data: one batch where the model and shapes allow it.

    >>> from onnx import TensorProto, helper
    >>> x = onnx_ir.from_proto(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1]))
    >>> feeds = [{"x": np.array([[i], [i + 1]])} for i in range(0, 8, 2)]
    >>> [feed["x"].ravel().tolist() for feed in some_samples(feeds, [x], 2)]
    [[0, 4]]
    """
    joined = takes_any_number(inputs)
    wanted = count if joined else max(1, count // (_batch_of(inputs) or 1))
    number = min(len(feeds), wanted)
    picked = [feeds[i * len(feeds) // number] for i in range(number)]
    if not joined:
        return picked
    parts = [{name: a[: -(-count // number)] for name, a in feed.items()} for feed in picked]
    if len({tuple(a.shape[1:] for a in part.values()) for part in parts}) > 1:
        return parts
    return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}]


def _feed(batch: Any, inputs: Sequence[onnx_ir.Value], place: str) -> Feed:
    names = [str(value.name) for value in inputs]
    if not isinstance(batch, Mapping):
        several = batch if isinstance(batch, tuple | list) else (batch,)
        if len(several) != len(names):
            raise InputError(
                f"{place} has {len(several)} arrays, but the model takes "
                f"{len(names)}: {', '.join(names)}"
            )
        batch = dict(zip(names, several, strict=True))
    if missing := [name for name in names if name not in batch]:
        there = ", ".join(map(str, batch))
        raise InputError(f"{place} lacks {', '.join(missing)}; it has {there}")
    return {
        str(value.name): _array(batch[value.name], value, f"{place}: {value.name!r}")
        for value in inputs
    }


def _array(given: Any, value: onnx_ir.Value, place: str) -> np.ndarray:
    """An array of the input's type and shape."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{place} is no array: {error}") from error
    dtype = value.dtype.numpy() if value.dtype is not None else array.dtype
    if dtype.kind == "O":
        return array.astype(dtype)
    if array.dtype.kind not in "biufc" or (dtype.kind in "biu" and array.dtype.kind == "f"):
        raise InputError(f"{place} holds {array.dtype}, but the model takes {dtype}")
    expected = list(value.shape) if value.shape is not None else list(array.shape)
    fits = len(expected) == array.ndim and all(
        not isinstance(size, int) or size == found
        for size, found in zip(expected, array.shape, strict=True)
    )
    if not fits:
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in expected)
        raise InputError(
            f"{place} has the shape {list(array.shape)}, but the model takes [{sizes}]"
        )
    return array.astype(dtype, copy=False)


def _from_path(path: Path, inputs: Sequence[onnx_ir.Value], batch_size: int) -> Iterator[Any]:
    if path.is_dir():
        return _from_images(path, inputs, batch_size)
    return _cut(_arrays_in(path), inputs, batch_size)


def _arrays_in(path: Path) -> Feed:
    refusal = f"{path} is no .npz file of plain arrays; numpy.savez(path, **arrays) writes one"
    if not zipfile.is_zipfile(path):
        raise InputError(refusal)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(refusal) from error


def _cut(arrays: Feed, inputs: Sequence[onnx_ir.Value], batch_size: int) -> Iterator[Feed]:
    """Batches from whole arrays."""
    names = [str(value.name) for value in inputs]
    if len(names) == len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if missing := [name for name in names if name not in arrays]:
        raise InputError(f"the .npz file has {', '.join(arrays)}, but lacks {', '.join(missing)}")
    chosen = {name: arrays[name] for name in names}
    lengths = {array.shape[:1] for array in chosen.values()}
    if len(lengths) > 1 or () in lengths:  # no axis that all share: one batch as it is
        yield chosen
        return
    ((length,),) = lengths
    ranks = {len(value.shape) for value in inputs if value.shape is not None}
    if len(ranks) == 1 and {array.ndim for array in chosen.values()} == {max(ranks) + 1}:
        yield from ({name: array[i] for name, array in chosen.items()} for i in range(length))
        return
    size = _batch_of(inputs) or batch_size
    for start in range(0, length, size):
        batch = {name: array[start : start + size] for name, array in chosen.items()}
        if start == 0 or start + size <= length or _batch_of(inputs) is None:
            yield batch


def _batch_of(inputs: Sequence[onnx_ir.Value]) -> int | None:
    """The number of samples that the model takes at once, if that is fixed."""
    for value in inputs:
        if value.shape and isinstance(value.shape[0], int):
            return max(value.shape[0], 1)
    return None


def _from_images(folder: Path, inputs: Sequence[onnx_ir.Value], batch_size: int) -> Iterator[Any]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES)
    if not files:
        raise InputError(f"{folder} holds no images ({', '.join(_IMAGES)})")
    shape = inputs[0].shape
    sizes = [size for size in list(shape or ())[1:] if isinstance(size, int)]
    if len(inputs) != 1 or shape is None or len(shape) != 4 or len(sizes) != 3:
        raise InputError(
            "a folder of images is data for one input of shape [batch, channels, height, width] or "
            "[batch, height, width, channels] with known sizes: give an .npz file or arrays"
        )
    channels_last = sizes[0] not in _CHANNELS and sizes[2] in _CHANNELS
    height, width, channels = sizes if channels_last else (*sizes[1:], sizes[0])
    if channels not in _CHANNELS:
        raise InputError(f"images have 1 or 3 channels, but the model takes {channels}")
    size = _batch_of(inputs) or batch_size
    whole = inputs[0].dtype is not None and not inputs[0].dtype.is_floating_point()
    for start in range(0, len(files), size):
        chosen = files[start : start + size]
        if start and len(chosen) < size and _batch_of(inputs) is not None:
            return
        batch = np.stack([_image(file, height, width, channels) for file in chosen])
        batch = batch if whole else batch.astype(np.float32) / 255
        yield batch if channels_last else batch.transpose(0, 3, 1, 2)


def _image(file: Path, height: int, width: int, channels: int) -> np.ndarray:
    """Whole numbers of shape [height, width, channels]."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError("images are read with Pillow: pip install pillow") from error
    try:
        with Image.open(file) as image:
            colours = image.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is no image that can be read: {error}") from error
    return np.asarray(colours, dtype=np.uint8).reshape(height, width, channels)
