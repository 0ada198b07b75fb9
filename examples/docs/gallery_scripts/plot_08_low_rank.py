"""
Channels or ranks?
==================

A layer may lose channels, or become two layers with a small rank between them, whichever loses
less. Both are pruned to the same multiply-accumulates here, without training, with corrected
weights.
"""

import torch

import fxprune
from examples.docs.digits import MUTED, OURS, accuracy, images_and_labels, plt, trained

(images, labels), test = images_and_labels()
model = trained()
some = list(images[:500].split(50))

# %%
# How much of the energy of a trained convolution's weight, as a matrix (out, in x 3 x 3), the first
# singular values keep.

weight = model.get_submodule("5.conv1").weight.detach().flatten(1)
values = torch.linalg.svdvals(weight)
figure, axes = plt.subplots()
axes.plot((values.square().cumsum(0) / values.square().sum() * 100).numpy(), color=OURS)
axes.set(xlabel="rank", ylabel="energy kept (%)", ylim=(0, 101))
figure.tight_layout()

# %%

TARGETS = (0.5, 0.3, 0.15)
options = {"channels": (), "channels or ranks": ("spatial", "low_rank")}
figure, axes = plt.subplots()
for (name, forms), colour in zip(options.items(), (MUTED, OURS), strict=True):
    found = []
    for target in TARGETS:
        smaller = fxprune.prune(
            model,
            images[:1],
            target=target,
            method="wanda",
            data=some,
            correct=True,
            factorise=forms,
        )
        found.append(accuracy(smaller, *test))
    axes.plot([100 * target for target in TARGETS], found, "o-", color=colour, label=name)
    print(name, [f"{each:.1f}" for each in found])
axes.invert_xaxis()
axes.set(xlabel="MACs kept (%)", ylabel="test accuracy (%)")
axes.legend()
figure.tight_layout()

# %%
# Which layers are two, with which rank, and why others are whole:

print(*(str(each) for each in fxprune.factors(smaller)), sep="\n")
