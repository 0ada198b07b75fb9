"""Calibration data: what is read from where, and what does not fit."""

import numpy as np
import onnx_ir
import pytest
from onnx import TensorProto, helper
from PIL import Image

from fxprune.errors import InputError
from fxprune.onnx.frontend.data import batches, some_samples


def an_input(shape, name="x", kind=TensorProto.FLOAT) -> onnx_ir.Value:
    return onnx_ir.from_proto(helper.make_tensor_value_info(name, kind, shape))


ROW = [an_input(["n", 3])]
TWO = [an_input(["n", 3], "x"), an_input(["n"], "ids", TensorProto.INT64)]
ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        ([ONES, ONES], ROW),
        ([(ONES,), (ONES,)], ROW),
        (({"x": ONES} for _ in range(2)), ROW),
        (lambda: [ONES, ONES.astype(np.float32)], ROW),
        (lambda: ((ONES, np.arange(2)) for _ in range(2)), TWO),
        ([{"ids": np.arange(2), "x": ONES, "not used": 1}] * 2, TWO),
    ],
)
def test_batches_in_every_form(data, inputs):
    feeds = batches(data, inputs)
    assert len(feeds) == 2
    for feed in feeds:
        assert list(feed) == [value.name for value in inputs]
        assert feed["x"].dtype == np.float32
        np.testing.assert_array_equal(feed["x"], ONES)


def saved(folder, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_samples_of_a_file_are_cut_into_batches(tmp_path):
    path = saved(tmp_path, anything=np.arange(15).reshape(5, 3))
    assert [len(feed["x"]) for feed in batches(path, ROW, batch_size=2)] == [2, 2, 1]
    fixed = batches(str(path), [an_input([2, 3])])
    assert [feed["x"].tolist() for feed in fixed] == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7, 8], [9, 10, 11]],
    ]


def test_an_axis_more_runs_over_batches(tmp_path):
    path = saved(tmp_path, x=np.zeros((4, 2, 3)))
    assert [feed["x"].shape for feed in batches(path, ROW)] == [(2, 3)] * 4


def test_arrays_that_share_no_axis_are_one_batch(tmp_path):
    inputs = [an_input(["n", 5], "x"), an_input([2, "n", 4], "state"), an_input([], "rate")]
    path = saved(tmp_path, x=np.zeros((3, 5)), state=np.zeros((2, 3, 4)), rate=np.array(8.0))
    (feed,) = batches(path, inputs)
    assert [array.shape for array in feed.values()] == [(3, 5), (2, 3, 4), ()]


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        (["n", 3, 4, 5], TensorProto.FLOAT, [1, 0.2, 0]),
        ([1, 3, 4, 5], TensorProto.UINT8, [255, 51, 0]),
        (["n", 4, 5, 3], TensorProto.FLOAT, [1, 0.2, 0]),
        (["n", 4, 5, 1], TensorProto.UINT8, [106]),  # grey
    ],
)
def test_a_folder_of_images(tmp_path, shape, kind, expected):
    (tmp_path / "inner").mkdir()
    for name in ("a.png", "inner/b.PNG"):
        Image.new("RGB", (10, 8), (255, 51, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    feeds = batches(tmp_path, [an_input(shape, kind=kind)])
    values = np.concatenate([feed["x"] for feed in feeds])
    assert len(feeds) == (2 if shape[0] == 1 else 1)
    pixel = values[1, :, 0, 0] if shape[1] == 3 else values[1, 0, 0, :]
    np.testing.assert_allclose(pixel, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "inputs", "message"),
    [
        ([], ROW, "data holds no batches"),
        (ONES, ROW, "data is one batch: pass a list of batches"),
        ({"x": ONES}, ROW, "data is one batch"),
        ([np.ones((2, 4))], ROW, r"'x' has the shape \[2, 4\], but the model takes \[any, 3\]"),
        ([np.ones(3)], ROW, r"batch 0 of data: 'x' has the shape \[3\]"),
        ([ONES, ONES * np.nan], ROW, "batch 1 of data: 'x' holds NaN"),
        ([np.array([["a"] * 3])], ROW, "holds <U1, but the model takes float32"),
        ([(ONES, np.ones(2))], TWO, "'ids' holds float64, but the model takes int64"),
        ([(ONES, ONES)], ROW, "has 2 arrays, but the model takes 1: x"),
        ([{"y": ONES}], ROW, "lacks x; it has y"),
        ("missing.npz", ROW, "there is no data at missing.npz"),
    ],
)
def test_what_does_not_fit_is_said(data, inputs, message):
    with pytest.raises(InputError, match=message):
        batches(data, inputs)


def test_files_that_are_no_data_are_said(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match=r"is no \.npz file of plain arrays"):
        batches(tmp_path / "data.npz", ROW)
    np.save(tmp_path / "data.npy", ONES)
    with pytest.raises(InputError, match=r"is no \.npz file of plain arrays"):
        batches(tmp_path / "data.npy", ROW)
    with pytest.raises(InputError, match=r"is no \.npz file of plain arrays"):
        batches(saved(tmp_path, x=np.array([{}], dtype=object)), ROW)
    with pytest.raises(InputError, match="has y, z, but lacks x"):
        batches(saved(tmp_path, y=ONES, z=ONES), ROW)


def test_folders_that_are_no_data_are_said(tmp_path):
    picture = [an_input(["n", 3, 4, 4])]
    with pytest.raises(InputError, match="holds no images"):
        batches(tmp_path, picture)
    (tmp_path / "a.png").write_bytes(b"\x89PNG and then nothing")
    with pytest.raises(InputError, match=r"a.png is no image that can be read"):
        batches(tmp_path, picture)
    with pytest.raises(InputError, match="a folder of images is data for one input of shape"):
        batches(tmp_path, ROW)
    with pytest.raises(InputError, match="images have 1 or 3 channels, but the model takes 7"):
        batches(tmp_path, [an_input(["n", 7, 4, 4])])


@pytest.mark.parametrize(
    ("batch", "widths", "expected"),
    [
        ("n", [1] * 6, [[0, 2, 6, 8]]),  # a sample of some batches, as one batch
        ("n", [1, 2, 1, 2, 1, 2], [[0], [2], [6], [8]]),  # shapes that do not go together
        (2, [1] * 6, [[0, 1], [6, 7]]),  # the model wants two at once
        (8, [1] * 6, [[0, 1]]),  # no more than it wants anyway
    ],
)
def test_some_samples_come_from_all_over_the_data(batch, widths, expected):
    feeds = [
        {"x": np.repeat([[2 * i], [2 * i + 1]], width, axis=1)} for i, width in enumerate(widths)
    ]
    found = some_samples(feeds, [an_input([batch, None])], 4)
    assert [feed["x"][:, 0].tolist() for feed in found] == expected
