"""
A YOLO detector
===============

``ultralytics`` is needed; without it this page has no figure. The weights are random, since
nothing is downloaded: what is shown is the shape of what comes out.
"""

import importlib.util
import os
import tempfile

import torch

import fxprune
from examples.docs.digits import MUTED, OURS, plt

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
os.environ.setdefault("YOLO_OFFLINE", "1")
there = importlib.util.find_spec("ultralytics") is not None

# %%
# It stays a ``DetectionModel``, which ultralytics trains, evaluates and saves as before.

if there:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    smaller = fxprune.prune(model, torch.zeros(1, 3, 64, 64), target=0.5, round_to=8)
    report = fxprune.report(smaller, latency=False)
    print(type(smaller).__name__)
    print({name: f"{report.after[name] / report.before[name]:.1%}" for name in ("macs", "params")})

# %%
# Channels of every convolution:

if there:
    made = [
        {n: m.out_channels for n, m in each.named_modules() if isinstance(m, torch.nn.Conv2d)}
        for each in (model, smaller)
    ]
    figure, axes = plt.subplots()
    for found, colour, label in zip(made, (MUTED, OURS), ("before", "after"), strict=True):
        axes.step(
            range(len(made[0])), [found.get(name, 0) for name in made[0]], color=colour, label=label
        )
    axes.set(xlabel="convolution", ylabel="channels")
    axes.legend()
    figure.tight_layout()
