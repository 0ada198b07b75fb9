"""
Which layers matter?
====================

``sensitivity`` cuts one group at a time and leaves the rest open.
"""

import numpy as np

import fxprune
from examples.docs.digits import images_and_labels, plt, trained
from fxprune import scores

(images, labels), test = images_and_labels()
gated = fxprune.prepare(trained(), images[:1])
found = fxprune.sensitivity(gated, scores.accuracy([test]), shares=(0.75, 0.5, 0.25, 0.1))
print(found)

# %%
# Dark is where accuracy is lost. Branches are cut whole, so they have one value.

cuts = [cut for cut in found.cuts if len(cut.scores) > 1]
lost = np.array([[100 * (found.full - score) for score in cut.scores] for cut in cuts])
figure, axes = plt.subplots(figsize=(7, 0.6 * len(cuts) + 1.4))
picture = axes.imshow(lost, cmap="Blues", aspect="auto", vmin=0)
axes.set_xticks(range(4), ("75 %", "50 %", "25 %", "10 %"))
axes.set_yticks(range(len(cuts)), [cut.label for cut in cuts])
axes.set(xlabel="of the group kept")
axes.grid(False)
for (row, column), value in np.ndenumerate(lost):
    colour = "white" if value > lost.max() / 2 else "black"
    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
figure.colorbar(picture, label="points of accuracy lost")
figure.tight_layout()
