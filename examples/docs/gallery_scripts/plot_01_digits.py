"""
Digits: half of the work, learned while training
================================================

Two networks train equally long on scikit-learn's digits: one as it is, one with gates that close
half of its multiply-accumulates in the first third of the training.
"""

import torch

import fxprune
from examples.docs.digits import MUTED, OURS, accuracy, epoch, images_and_labels, network, plt

EPOCHS = 7
(images, labels), test = images_and_labels()
dense = network()
gated = fxprune.prepare(network(), images[:1], target=0.5, total_steps=28 * EPOCHS)

# %%
# The loop is the same for both. What the gated network costs is read off after each epoch.

learned: dict[str, list[float]] = {"dense": [], "gated": []}
kept = []
for name, model in {"dense": dense, "gated": gated}.items():
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        epoch(model, optimizer, images, labels)
        learned[name].append(accuracy(model, *test))
        if model is gated:
            report = fxprune.report(gated, latency=False)
            kept.append(100 * report.after["macs"] / report.before["macs"])

figure, (left, right) = plt.subplots(1, 2)
left.plot(learned["dense"], color=MUTED, label="dense")
left.plot(learned["gated"], color=OURS, label="gated")
left.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(80, 100))
left.legend()
right.step(range(EPOCHS), kept, color=OURS, where="mid")
right.axhline(50, color=MUTED, linestyle=":")
right.set(xlabel="epoch", ylabel="MACs kept (%)", ylim=(0, 105))
figure.tight_layout()

# %%
# Folding makes the closed channels disappear, and changes nothing else.

folded = fxprune.fold(gated)
print(fxprune.verify(gated, folded))
print(f"gated {accuracy(gated, *test):.2f} %, folded {accuracy(folded, *test):.2f} %")
print(f"dense {accuracy(dense, *test):.2f} %")

# %%
# Which layers became how narrow:

layers = [
    (name, module.out_channels, folded.get_submodule(name).out_channels)
    for name, module in dense.named_modules()
    if isinstance(module, torch.nn.Conv2d)
]
names, before, after = zip(*layers, strict=True)
figure, axes = plt.subplots()
axes.barh(names, before, color=MUTED, alpha=0.4, label="before")
axes.barh(names, after, color=OURS, label="after")
axes.invert_yaxis()
axes.set(xlabel="channels")
axes.legend()
figure.tight_layout()
