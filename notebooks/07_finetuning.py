# %% [markdown]
# # Fine-tuning
#
# ```{admonition} This chapter
# **You will** put a decoder on the pretrained encoder and teach both to name the land cover of every pixel.
#
# **You need** [chapter 6](06_pretraining).
#
# **In the paper** §3.2. **Modules** `segmentation`, `losses`, `finetuning`. **Takes** the encoder and the labelled patches. **Makes** `model.safetensors` and `metrics.json`. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "we replace the pretraining decoder with a UPerNet segmentation decoder … following the approach in SpectralGPT" {cite:p}`xiao2018unified,hong2024spectralgpt`.
#
# ## The decoder
#
# The encoder gives four maps, from fine and shallow to coarse and deep.
# UPerNet pools the deepest at four scales, then climbs back up, adding a finer map at each step.
# **Code:** what the authors tap is each stage's output *after* its merging, so the finest map has an eighth of the image's resolution.

# %%
import json

import matplotlib.pyplot as plt
import numpy as np
import torch

from sartutorial import (
    datasets,
    evaluation,
    losses,
    lulc,
    maps,
    segmentation,
    workspace,
)
from sartutorial.profiles import current

file = workspace.model()
model, description = segmentation.from_file(file)
side = model.encoder.config.image_size
with torch.inference_mode():
    taps = model.encoder.taps(torch.zeros(1, 1, side, side))
    logits = model(torch.zeros(1, 1, side, side))
for i, tap in enumerate(taps, 1):
    print(f"f{i}: {tap.shape[1]:>4} channels, {tap.shape[2]} x {tap.shape[3]}")
print(f"logits: {tuple(logits.shape)}")
count = {
    part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6
    for part in ("encoder", "decoder")
}
print(", ".join(f"{part} {n:.2f} M parameters" for part, n in count.items()))
assert logits.shape == (1, len(lulc.NAMES), side, side)

# %%
workspace.show_source(segmentation.UPerNet.forward)

# %% [markdown]
# ## The loss
#
# **Paper:** Dice plus focal loss {cite:p}`milletari2016vnet,lin2017focal`, weighted 0.32 and 0.57; a third number after these is lost in our copy, and we do not make one up.
#
# Dice compares areas class by class, so that a small class counts as much as a large one; focal loss counts a pixel less the surer the model already is of it.
#
# For Dice the paper gives $I = \sum \min(p, g)$ and $U = \sum \max(p, g)$ in words, of prediction $p$ and truth $g$.
# **Ours:** with these, the Dice loss is
#
# $$
# L_\text{Dice} = 1 - \frac{2I + \varepsilon}{I + U + \varepsilon}
# $$ (eq-dice)
#
# because for a one-hot truth $I + U = \sum p + \sum g$. Putting $U$ alone below would give negative losses.

# %%
workspace.show_source(losses.dice)

# %%
perfect, target = torch.full((6, 9), -20.0), torch.tensor([0, 0, 1, 2, 2, 2])
perfect[torch.arange(6), target] = 20
assert losses.dice(perfect, target) < 1e-6 and losses.focal(perfect, target) < 1e-6
print(
    f"equal logits: Dice {losses.dice(torch.zeros(6, 9), target):.3f}, focal {losses.focal(torch.zeros(6, 9), target):.3f}"
)

# %% [markdown]
# ## Train
#
# **Paper:** 100 epochs, 20 of warm-up, in which the learning rate rises from nearly 0. **Code:** cosine decay, layer-wise decay by 0.8 (lower layers learn more slowly), drop path 0.1 (whole blocks are skipped at random). **Ours:** layer-wise decay with pretrained weights only, since it would starve random lower layers. The current profile trains this long:

# %% mystnb={"figure": {"caption": "Fine-tuning loss by epoch (simulated patches).", "name": "fig-finetune"}, "image": {"alt": "A falling curve: fine-tuning loss by epoch."}}
history = description["history"]
print(f"{len(history)} epochs in batches of {current().finetune_batch}")
assert history[-1] < history[0]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(range(1, len(history) + 1), history, marker="o")
ax.set_xlabel("epoch")
ax.set_ylabel("loss")
plt.show()

# %% [markdown]
# ## Look at what it predicts
#
# Patches of the validation split: they lie in spatial blocks that were never trained on.

# %% mystnb={"figure": {"caption": "Simulated validation patches: backscatter, truth, prediction.", "name": "fig-predictions"}, "image": {"alt": "Three rows of patches: radar image, true classes and predicted classes. The prediction follows coast, forest and fields, with rounder outlines than the truth."}}
folder = workspace.sampled()
rows = datasets.selected(folder, "finetune", "val")
norm = datasets.Normalization(**description["normalization"])
data = datasets.Patches(folder, rows, norm)
richest = np.argsort(
    -(rows[[f"n_{i}" for i in range(1, 15)]].to_numpy() > 200).sum(axis=1)
)[:5]
items = [data[int(i)] for i in richest]
with torch.inference_mode():
    predicted = model(torch.stack([x["image"] for x in items])).argmax(1)
fig, axes = plt.subplots(
    3, 6, figsize=(12, 6.2), width_ratios=[1] * 5 + [0.6], layout="constrained"
)
for column, x, p in zip(axes.T, items, predicted, strict=False):
    maps.show_backscatter(column[0], (x["image"][0] * norm.std + norm.mean).numpy())
    maps.show_classes(column[1], (x["label"] + 1).numpy(), training=True)
    maps.show_classes(column[2], (p + 1).numpy(), training=True)
for ax in axes[:2, 5]:
    ax.set_axis_off()
maps.class_legend(axes[2, 5], training=True)
plt.show()

# %% [markdown]
# ## First scores
#
# `metrics.json` holds the scores on the validation split, beside those of a map that shows the most frequent class everywhere.

# %%
metrics = json.loads((file.parent / "metrics.json").read_text())
print(evaluation.table(metrics))
unseen = [
    name
    for name, iou in metrics["per_class_iou"].items()
    if iou is not None and iou < 0.05
]
print(f"not learnt in so short a run: {', '.join(unseen) or 'nothing'}")
assert metrics["miou"] > metrics["majority"]["miou"]

# %% [markdown]
# A handful of epochs is little for classes that fill few pixels of few patches; which are not learnt is printed above.
# (That a dropout of 0.5 in every block costs so narrow a decoder dear is our guess.)
# The authors train 100 epochs with a far wider decoder; set `SARTUTORIAL_PROFILE=gpu` where there is an accelerator, or pass `epochs=` to `finetuning.finetune`, and look again.
#
# ## Wrong on purpose: void taken for a class
#
# Unlabelled pixels carry the index −1 and are left out of the loss.
# Take them for water instead, and the loss punishes the model for pixels that nobody labelled (here the top rows of a patch, made void for the purpose):

# %%
label = items[0]["label"].clone()
label[:16] = lulc.IGNORE_INDEX
x = model(items[0]["image"][None]).detach()
right = losses.combined(x, label[None])
wrong = losses.combined(x, label.clamp(min=0)[None])
print(f"loss with void left out {right:.4f}, with void as water {wrong:.4f}")
assert wrong != right

# %% [markdown]
# ## Key points
#
# - Encoder weights come from pretraining, the decoder starts from random ones.
# - Dice sums over the batch's labelled pixels; a class without truth in the batch is left out (ours).
# - On the command line: `sartutorial finetune PATCHES --out DIR [--encoder FILE]`.
