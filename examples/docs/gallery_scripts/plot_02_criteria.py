"""
How much can go, without training?
==================================

A trained network, pruned at once to several targets by three criteria: as pruned, and with the
weights behind closed channels solved anew by least squares on 500 images.
"""

import fxprune
from examples.docs.digits import MUTED, OURS, THEIRS, accuracy, images_and_labels, plt, trained

(images, labels), test = images_and_labels()
model = trained()
some = list(zip(images[:500].split(50), labels[:500].split(50), strict=True))
TARGETS = (0.7, 0.45, 0.25)

# %%
# Costs are exact, so each point lies where it was asked for.

figure, panels = plt.subplots(1, 2, sharey=True)
for axes, correct in zip(panels, (False, True), strict=True):
    for method, colour in {"group_norm": MUTED, "wanda": THEIRS, "taylor": OURS}.items():
        found = [
            accuracy(
                fxprune.prune(
                    model, images[:1], target=target, method=method, data=some, correct=correct
                ),
                *test,
            )
            for target in TARGETS
        ]
        axes.plot([100 * t for t in TARGETS], found, "o-", color=colour, label=method)
        print(f"{method}, corrected: {correct}: " + ", ".join(f"{each:.1f}" for each in found))
    axes.axhline(accuracy(model, *test), color=MUTED, linestyle=":")
    axes.invert_xaxis()
    axes.set(xlabel="MACs kept (%)", title="weights corrected" if correct else "as pruned")
panels[0].set(ylabel="test accuracy (%)")
panels[1].legend()
figure.tight_layout()
