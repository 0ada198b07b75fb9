"""Disks that are full, folders that cannot be written, and two writers of one path."""

import os
import resource
import signal

import pytest
import torch

import fxprune
from tests.faults.kills import X, build, check_saved, is_one_of_them, versions
from tests.forking import fork


def limited(work, size):
    """Run work in a child whose files end at `size` bytes, as on a full disk."""

    def limited_work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write() fails with EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            work()
        except fxprune.InputError:
            return 7

    return exit_code(fork(limited_work))


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_full_disk_leaves_the_old_checkpoint(size, tmp_path):
    first, second = versions()
    fxprune.save(first, tmp_path / "saved")
    files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    assert limited(lambda: fxprune.save(second, tmp_path / "saved", overwrite=True), size) == 7
    assert {f.name: f.read_bytes() for f in (tmp_path / "saved").iterdir()} == files
    check_saved(tmp_path)


def test_full_disk_leaves_no_half_onnx_file(tmp_path):
    path = tmp_path / "model.onnx"
    assert limited(lambda: fxprune.export_onnx(versions()[0], path, X), 1000) == 7
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path):
    """Root may write everywhere, but nobody where a file stands in the way or in /proc."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(fxprune.InputError, match="file"):
        fxprune.save(versions()[0], tmp_path / "file")
    with pytest.raises(fxprune.InputError, match="/proc"):
        fxprune.save(versions()[0], "/proc/fxprune")
    with pytest.raises(fxprune.InputError, match="cannot write"):
        fxprune.export_onnx(versions()[0], "/proc/model.onnx", X)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(fxprune.InputError, match="ermission"):
        fxprune.save(versions()[0], tmp_path / "saved")


def test_load_reads_one_file_when_another_takes_its_place_meanwhile(tmp_path, monkeypatch):
    """safetensors opens a path once for the header and once for the numbers."""
    for index, version in enumerate(versions()):
        fxprune.save(version, tmp_path / str(index))
    path = tmp_path / "0" / "model.safetensors"
    swaps = iter([tmp_path / "1" / "model.safetensors"])

    class Storage(torch.UntypedStorage):
        @classmethod
        def from_file(cls, *args, **kwargs):
            for other in swaps:
                os.replace(other, path)
            return storage.from_file(*args, **kwargs)

    storage = torch.UntypedStorage
    monkeypatch.setattr(torch, "UntypedStorage", Storage)
    loaded = fxprune.load(tmp_path / "0", build()).eval()
    assert next(swaps, None) is None
    assert torch.equal(loaded(X), versions()[1](X))


def save_often(folder, index):
    for _ in range(20):
        fxprune.save(versions()[index], folder, overwrite=True)


def test_two_processes_that_save_to_one_path_leave_one_of_theirs(tmp_path):
    versions()
    writers = [fork(lambda i=i: save_often(tmp_path / "saved", i)) for i in (0, 1)]
    while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        check_saved(tmp_path)
    assert [exit_code(writer) for writer in writers] == [0, 0]
    assert is_one_of_them(fxprune.load(tmp_path / "saved", build()).eval())
    assert sorted(f.name for f in (tmp_path / "saved").iterdir()) == [
        "fxprune.json",
        "model.safetensors",
    ]
