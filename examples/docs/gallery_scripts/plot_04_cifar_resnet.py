"""
CIFAR's ResNet-20: where the work goes
======================================

No data is needed to see what a criterion on weights does to a network's shape. The weights here
are fresh ones; with those of a training and CIFAR-10, ``python -m examples.cifar10`` measures
accuracy.
"""

import torch

import fxprune
from examples.cifar_resnet import CifarResNet
from examples.docs.digits import MUTED, OURS, THEIRS, plt

torch.manual_seed(0)
model = CifarResNet(20).eval()
picture = torch.zeros(1, 3, 32, 32)

# %%
# At 70 and 40 % of the MACs, inner channels only (the residual stream stays whole).

stays = {"ignore": ["*: hidden"]}
widths = {}
for target in (1.0, 0.7, 0.4):
    smaller = fxprune.prune(model, picture, target=target, **stays) if target < 1 else model
    widths[target] = {
        name: module.out_channels
        for name, module in smaller.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }

figure, axes = plt.subplots()
for (target, found), colour in zip(widths.items(), (MUTED, THEIRS, OURS), strict=True):
    heights = [found.get(name, 0) for name in widths[1.0]]
    axes.step(range(len(heights)), heights, where="mid", color=colour, label=f"{target:.0%}")
axes.set(xlabel="convolution", ylabel="channels made", ylim=(0, 70))
axes.legend(title="MACs kept")
figure.tight_layout()

# %%
# Every cost is a polynomial of what is kept, so a sweep over targets is instant.

gated = fxprune.prepare(model, picture)
report = fxprune.report(gated, latency=False)
print({name: f"{value:,}" for name, value in report.before.items()})
