"""
A front: accuracy against size
==============================

Every point is a keep-set within the budget, with weights solved anew and measured on held-out
images. NSGA-II looks for those that no other beats in both.
"""

import fxprune
from examples.docs.digits import MUTED, OURS, images_and_labels, plt, trained
from fxprune import scores

(images, labels), test = images_and_labels()
gated = fxprune.prepare(trained(), images[:1])
some = [(images[:200], labels[:200])]
asked = [scores.accuracy([(images[1000:], labels[1000:])], refit=some), "-params"]
found = fxprune.search(gated, asked, target=0.5, trials=40, sampler="nsga2", seed=0)

# %%

names = list(found.trials[0].scores)
points = [[trial.scores[name] for name in names] for trial in found.trials]
front = sorted([trial.scores[name] for name in names] for trial in found.front)
figure, axes = plt.subplots()
axes.scatter(
    [abs(size) for _, size in points], [100 * right for right, _ in points], color=MUTED, s=14
)
axes.plot([abs(size) for _, size in front], [100 * right for right, _ in front], "o-", color=OURS)
axes.set(xlabel="parameters", ylabel="accuracy on held-out images (%)")
figure.tight_layout()
print(*found.front, sep="\n")
