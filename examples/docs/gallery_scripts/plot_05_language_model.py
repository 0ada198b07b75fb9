"""
A small Llama on text
=====================

A Llama reads the bytes of Python's standard library for a short while. Then it is pruned by
Taylor's criterion and by norms, uniformly, so that its configuration can say what is left.
``python -m examples.language_model`` does this at a size worth reading.
"""

import torch

import fxprune
from examples.docs.digits import MUTED, OURS, THEIRS, plt
from examples.language_model import Setting, bits_per_byte, corpus, llama, pruned, train

setting = Setting(hidden=48, layers=3, length=48, batch=12, steps=200)
text, unseen = corpus()
torch.set_num_threads(1)
dense = train(llama(setting), text, setting, steps=setting.steps)

# %%
# Bits per byte of files that the model has not seen; 8 is knowing nothing.

REMOVED = (0.1, 0.25, 0.4)
figure, axes = plt.subplots()
for method, colour in {"group_norm": MUTED, "flap": THEIRS, "taylor": OURS}.items():
    smaller = [
        pruned(dense, text, setting, target={"params": 1 - share}, method=method, uniform=True)
        for share in REMOVED
    ]
    bits = [bits_per_byte(each, unseen, setting, count=8) for each in (dense, *smaller)]
    axes.plot([0, *(100 * share for share in REMOVED)], bits, "o-", color=colour, label=method)
axes.set(xlabel="parameters removed (%)", ylabel="bits per byte, as pruned")
axes.legend()
figure.tight_layout()

# %%
# What is left is a Llama like others.

print(smaller[1].config.to_diff_dict())
print(fxprune.report(smaller[1], latency=False))
