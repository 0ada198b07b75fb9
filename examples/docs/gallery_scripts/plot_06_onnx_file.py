"""
An ONNX file, without torch
===========================

Only numpy, onnx and ONNX Runtime are needed here (``pip install "fxprune[onnx]"``).
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import fxprune
from examples.docs.digits import MUTED, OURS, plt
from fxprune.commands.onnx_demonstration import network

folder = Path(tempfile.mkdtemp())
onnx.save(network(), folder / "model.onnx")
samples = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
np.savez(folder / "samples.npz", samples)

# %%
# What can go?

for group in fxprune.inspect_onnx(folder / "model.onnx").groups:
    print(f"{group.label:20} {group.size:4} {group.pin or 'free'}")

# %%
# Four files, each verified by ONNX Runtime before it appears.

TARGETS = (0.75, 0.5, 0.25)
files = {1.0: folder / "model.onnx"}
for target in TARGETS:
    files[target] = folder / f"{target}.onnx"
    result = fxprune.prune_onnx(
        files[1.0], files[target], target=target, method="wanda", data=folder / "samples.npz"
    )
print(result)

# %%
# Multiply-accumulates are no milliseconds, so both are shown. Times are medians on the machine
# that built this page, in one thread.


def milliseconds(file: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    times = []
    for _ in range(60):
        start = time.perf_counter()
        session.run(None, {"image": samples[:8]})
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


measured = [milliseconds(file) for file in files.values()]
figure, axes = plt.subplots()
shares = [100 * target for target in files]
axes.plot(shares, [100 * each / measured[0] for each in measured], "o-", color=OURS, label="time")
axes.plot(shares, shares, ":", color=MUTED, label="as MACs")
axes.invert_xaxis()
axes.set(xlabel="MACs asked for (%)", ylabel="time of the whole file (%)")
axes.legend()
figure.tight_layout()
