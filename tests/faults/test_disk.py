"""Disks that are full, folders that cannot be written, and two writers of one path."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert limited(lambda: fxprune.save(second, tmp_path / "saved"), size) == 7
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


def save_often(folder, index):
    for _ in range(20):
        fxprune.save(versions()[index], folder)


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


MEASURE = """
import resource, sys, threading, torch
from torch import nn
import fxprune

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

model = nn.Sequential(*(layer for _ in range(16) for layer in (nn.Linear(2048, 2048), nn.ReLU())))
model.append(nn.Linear(2048, 10))
parameters = sum(p.numel() * p.element_size() for p in model.parameters())
small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
fxprune.fold(fxprune.prepare(small, torch.randn(2, 4), target=1.0))  # loads what is loaded once
base = resident() - parameters
peak, done = resident(), threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
gated = fxprune.prepare(model, torch.randn(1, 2048), target=0.5)
fxprune.reach_target(gated)
folded = fxprune.fold(gated)
peak = max(peak, resident())
done.set()
watcher.join()
print((peak - base) / parameters)
"""


def test_prepare_and_fold_need_what_three_models_need():
    """The model, its gated copy and half of it folded are 2.5 times its parameters."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent.parent,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    share = float(done.stdout.split()[-1])
    assert 2.4 < share <= 2.6, f"prepare and fold peak at {share:.2f} times the parameters"
