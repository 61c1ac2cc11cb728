# %% [markdown]
# # Fine-tuning
#
# ```{admonition} This chapter
# **You will** put a decoder on a pretrained encoder, teach both to name the land cover of every pixel, and compare the result with the same training from random weights and with a model that was trained longer.
#
# **You need** [chapter 6](06_pretraining).
#
# **In the paper** §3.2. **Modules** `learn.segmentation`, `learn.finetuning`. **Takes** an encoder and the labelled patches. **Makes** `model.safetensors` and `metrics.json`. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "we replace the pretraining decoder with a UPerNet segmentation decoder … following the approach in SpectralGPT" {cite:p}`xiao2018unified,hong2024spectralgpt`.
#
# ## Three models
#
# [Chapter 6](06_pretraining) trains for minutes, which is enough to see how it works and too little for an encoder that helps.
# So this chapter starts from the book's **reference encoder**: the same network and the same loss, pretrained on nine simulated worlds for hours of a laptop's time (minutes on a GPU). Its masks are coarser than the authors', and that is **ours**.
#
# Two models are fine-tuned here, live, on the same patches for the same number of steps: one from the reference encoder, one from *scratch*, that is from random weights. The third, the **reference model**, was fine-tuned from the reference encoder for longer, and comes with the book.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

import sartutorial as st
from sartutorial import profiles, tutorial
from sartutorial.learn import datasets, segmentation
from sartutorial.lulc import IGNORE_INDEX

folder = tutorial.sampled()
encoder, made = st.load_encoder("reference")
print(f"{made['patches']:,} simulated patches, {made['epochs']:.0f} epochs")
print(
    f"mask cells of {made['training']['cells']} px, {made['training']['ratio']:.0%} hidden"
)
print(made["provenance"]["device"], made["provenance"]["date"])

# %% [markdown]
# ## The decoder
#
# The encoder gives four maps, from fine and shallow to coarse and deep.
# UPerNet pools the deepest at four scales, then climbs back up, adding a finer map at each step.
# **Code:** what the authors tap is each stage's output *after* its merging, so the finest map has an eighth of the image's resolution.
#
# **Ours**, at laptop size: the head also sees the image itself. A token spans 4 × 4 pixels, so edges and small fields are lost on the way; the image joins again at half its resolution.

# %%
rows = datasets.selected(folder, "finetune", "val")
side = int(rows["size"].iloc[0])
live = st.finetune(
    folder, tutorial.data_dir() / "models" / "reference", encoder="reference"
)
model, description = st.load_model(live)
with torch.inference_mode():
    taps = model.encoder.taps(torch.zeros(1, 1, side, side))
    logits = model(torch.zeros(1, 1, side, side))
for i, tap in enumerate(taps, 1):
    print(f"f{i}: {tap.shape[1]:>4} channels, {tap.shape[2]} x {tap.shape[3]}")
print(f"logits (a number a class and pixel): {tuple(logits.shape)}")
for part in ("encoder", "decoder"):
    number = sum(p.numel() for p in getattr(model, part).parameters())
    print(f"{part}: {number / 1e6:.2f} M parameters")
assert logits.shape == (1, len(st.HR_LULC.names), side, side)

# %%
tutorial.show_source(segmentation.UPerNet.forward)

# %% tags=["hide-input"]
tutorial.show_source(segmentation.DetailHead)

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
# because for a *one-hot* truth (1 for the pixel's class, 0 for all others) $I + U = \sum p + \sum g$. Putting $U$ alone below would give negative losses.

# %%
tutorial.show_source(segmentation.dice)

# %%
dice, focal = segmentation.dice, segmentation.focal
perfect, target = torch.full((6, 9), -20.0), torch.tensor([0, 0, 1, 2, 2, 2])
perfect[torch.arange(6), target] = 20
assert dice(perfect, target) < 1e-6 and focal(perfect, target) < 1e-6
equal = torch.zeros(6, 9)
print(f"equal logits: Dice {dice(equal, target):.3f}, focal {focal(equal, target):.3f}")

# %% [markdown]
# The `japan` profile trains with this loss. At laptop size, where a run has a few hundred steps, a **recorded search** found another one better: cross-entropy in which a class weighs by the root of its rarity. That is **ours**, and so are the rates below.
#
# ## A recipe is searched, not guessed
#
# Settings were drawn at random, the same for the pretrained start and for scratch, and compared on the *validation* patches alone. Every trial that was run is in `book/results/search.json`; these are the best of each kind:

# %% tags=["hide-input"]
search = json.loads(Path("../book/results/search.json").read_text())
trials = pd.json_normalize([r for r in search["runs"] if r["stage"] == "search"])
best = trials.sort_values("miou.validation").groupby(["start", "steps"]).tail(1)
number = trials.groupby(["start", "steps"]).size()
best = best.set_index(["start", "steps"]).sort_index()
best.insert(0, "trials", number)
short = {f"settings.{k}": k for k in ("lr", "loss", "cw", "head", "width", "batch")}
shown = best[["trials", "miou.validation", *short]].rename(columns=short)
display(shown.style.format(precision=3))
print(search["device"], search["date"], "|", search["limits"])

# %% [markdown]
# Read it with its limits: few trials, one seed each, unequal in number. It does not rank pretraining against other networks. But every setting that was tried from the pretrained encoder was tried from scratch as well:

# %%
pairs = trials.pivot(
    index=["steps", "trial"], columns="start", values="miou.validation"
)
lead = (pairs["pretrained, 33 epochs"] - pairs["scratch"]).dropna()
for steps, part in lead.groupby("steps"):
    print(f"{steps:>5} steps: pretrained ahead in {(part > 0).sum()} of {len(part)} pairs,"
          f" by {part.min():+.3f} to {part.max():+.3f} mIoU, median {part.median():+.3f}")  # fmt: skip

# %% [markdown]
# Between settings the scores differ by more than between the two starts: the recipe is worth more than anything else on this page.
#
# ## Train
#
# **Paper:** 100 epochs, 20 of *warm-up*, in which the learning rate rises from nearly 0. **Code:** cosine decay, layer-wise decay by 0.8 (lower layers learn more slowly). **Ours:** layer-wise decay with pretrained weights only, since it would starve random lower layers.

# %% mystnb={"figure": {"caption": "Fine-tuning loss by epoch, from the reference encoder and from scratch (simulated patches, the same steps).", "name": "fig-finetune"}, "image": {"alt": "Two falling curves of the loss by epoch; the one from the reference encoder lies below the one from scratch."}}
scratch = st.finetune(folder, tutorial.data_dir() / "models" / "scratch", encoder=None)
runs = {"reference encoder": description, "scratch": st.load_model(scratch).description}
scale = profiles.get()
print(f"{scale.finetune_epochs} epochs in batches of {scale.finetune_batch}")
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for (name, run), colour in zip(runs.items(), ("#0072b2", "#d55e00"), strict=True):
    losses = run["history"]
    assert losses[-1] < losses[0]
    ax.plot(range(1, len(losses) + 1), losses, marker="o", color=colour, label=name)
ax.set(xlabel="epoch", ylabel="loss")
ax.locator_params(axis="x", integer=True)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## First scores
#
# On the validation split, which lies in spatial blocks that were never trained on. *IoU* is the overlap of a class's true and mapped area over their union ([chapter 8](08_evaluation)); *majority* is the map that shows the most frequent class everywhere.

# %%
files = {"reference encoder": live, "scratch": scratch, "reference model": "reference"}
results = {name: st.evaluate(folder, file, split="val") for name, file in files.items()}
table = pd.DataFrame(
    {name: {"mIoU": r["miou"], **r["per_class_iou"]} for name, r in results.items()}
)
display(table.style.format(precision=3))
print(f"majority: {results['scratch']['majority']['miou']:.3f}")
lost = [c for c in st.HR_LULC.names if table.loc[c, "reference encoder"] < 0.05]
print(f"below 0.05 after the short run: {', '.join(lost) or 'nothing'}")
miou = table.loc["mIoU"]
lead = miou["reference encoder"] - miou["scratch"]
print(f"from the reference encoder: {lead:+.3f} mIoU over scratch (one run each)")
assert miou["reference model"] > miou["reference encoder"]
assert miou["scratch"] > results["scratch"]["majority"]["miou"]

# %% [markdown]
# The two short runs are what minutes on two cores allow; one run each is no proof of anything, and what a class of few pixels needs most is time.
# That is what the third column shows: the same network, some thousands of steps.
#
# ## Look at what it predicts

# %% mystnb={"figure": {"caption": "Simulated validation patches: backscatter, truth, the short run from the reference encoder, and the reference model.", "name": "fig-predictions"}, "image": {"alt": "Four rows of five patches: radar image, true classes, and two predictions. The short run gets coast, forest and large fields; the reference model also gets towns, rivers and small parcels."}}
reference, about = st.load_model("reference")
data = {
    "short run": datasets.Patches(folder, rows, datasets.Normalization(**description["normalization"])),
    "reference": datasets.Patches(folder, rows, datasets.Normalization(**about["normalization"])),
}  # fmt: skip
store = st.Store(folder, rows)
held = rows[[f"n_{i}" for i in range(1, 15)]].to_numpy()
richest = [int(i) for i in np.argsort(-(held > 200).sum(axis=1))[:5]]
predicted = {}
with torch.inference_mode():
    for (name, patches), network in zip(data.items(), (model, reference), strict=True):
        images = torch.stack([patches[i]["image"] for i in richest])
        predicted[name] = network(images).argmax(1).numpy() + 1
fig, axes = plt.subplots(
    4, 6, figsize=(12, 8), width_ratios=[1] * 5 + [0.6], layout="constrained"
)
for column, (k, i) in zip(axes.T, enumerate(richest), strict=False):
    st.show_backscatter(store.sar(i), column[0])
    truth = st.HR_LULC.to_index(store.label(i)) + 1
    for ax, classes in zip(
        column[1:], (truth, *(p[k] for p in predicted.values())), strict=True
    ):
        st.show_classes(classes.astype(np.uint8), ax, legend=st.HR_LULC, training=True)
for ax in axes[:3, 5]:
    ax.set_axis_off()
st.show_legend(st.HR_LULC, axes[3, 5], training=True)
plt.show()

# %% [markdown]
# ## Wrong on purpose: void taken for a class
#
# Unlabelled pixels carry the index −1 and are left out of the loss.
# Take them for water instead, and the loss punishes the model for pixels that nobody labelled (here the top rows of a patch, made void for the purpose):

# %%
item = data["short run"][richest[0]]
label = item["label"].clone()
label[:16] = IGNORE_INDEX
with torch.inference_mode():
    x = model(item["image"][None])
right, wrong = (
    segmentation.combined(*segmentation.labelled(x, y[None]))
    for y in (label, label.clamp(min=0))
)
print(f"loss with void left out {right:.4f}, with void as water {wrong:.4f}")
assert wrong != right

# %% [markdown]
# ## Exercises
#
# **1.** A *linear probe* asks what an encoder knows without training it: one linear layer on frozen features. Fit one on the reference encoder's finest map and one on the mean and deviation of each 4 × 4 cell, for built-up against the rest. Which knows more about towns?

# %% tags=["hide-cell"]
from sklearn.linear_model import LogisticRegression

train_rows = datasets.selected(folder, "finetune", "train").iloc[::8]
norm = datasets.Normalization(**made["normalization"])


def cells_of(rows):
    """Features of the encoder and of statistics for each token, and whether it is town."""
    patches, features, simple, town = datasets.Patches(folder, rows, norm), [], [], []
    with torch.inference_mode():
        for i in range(len(patches)):
            image, label = patches[i]["image"], patches[i]["label"]
            taps = encoder.taps(image[None], merged=False)[0][0]
            tiles = image[0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
            features.append(taps.flatten(1).T[::4])
            simple.append(
                torch.stack([tiles.mean(2), tiles.std(2)], 2).flatten(0, 1)[::4]
            )
            whole = label.unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).mode(2).values
            town.append((whole == 1).flatten()[::4])
    return [torch.cat(part).numpy() for part in (features, simple, town)]


train, test = cells_of(train_rows), cells_of(rows.iloc[::2])
for k, name in enumerate(("frozen encoder", "mean and deviation")):
    probe = LogisticRegression(max_iter=500, class_weight="balanced")
    guess = probe.fit(train[k], train[2]).predict(test[k])
    both = (guess & test[2]).sum() / (guess | test[2]).sum()
    print(f"{name:<19} IoU of towns {both:.2f}")

# %% [markdown]
# **2.** Fine-tune with half of the labels: `st.finetune(folder, out, encoder="reference", labels=0.5)`. How many patches are these, and is every class still among them?

# %% tags=["hide-cell"]
every = datasets.selected(folder, "finetune", "train")
half = datasets.share(every, st.HR_LULC, 0.5, seed=0)
print(f"{len(half)} of {len(every)} patches")
print("classes:", (datasets.class_counts(half, st.HR_LULC).sum(0) > 0).sum())
tenth = datasets.share(every, st.HR_LULC, 0.1, seed=0)
assert set(tenth["patch"]) < set(
    half["patch"]
)  # nested, so that shares can be compared

# %% [markdown]
# **3.** Why does the short run miss what it misses? Look at which class its built-up pixels are called, and hold that against the share of each class in the training pixels.

# %% tags=["hide-cell"]
matrix = np.array(results["reference encoder"]["confusion_matrix"])
town = matrix[1] / matrix[1].sum()
share = datasets.class_counts(every, st.HR_LULC).sum(0)
for name, called, part in zip(st.HR_LULC.names, town, share / share.sum(), strict=True):
    print(
        f"{name:<12} {called:6.1%} of the town pixels are called so; {part:6.1%} of training"
    )
# It is no lack of town pixels: rarer classes than this one are learnt in a longer run. Bright
# speckle and forest overlap in level, and what tells a town, its texture and streets, takes steps.

# %% [markdown]
# ## Key points
#
# - Encoder weights come from pretraining, the decoder starts from random ones.
# - Dice sums over the batch's labelled pixels; a class without truth in the batch is left out (ours).
# - The recipe is part of the result: search it on validation patches, with the same budget for what is compared.
# - On the command line: `sartutorial finetune PATCHES --out DIR [--encoder FILE|reference] [--labels 0.5] [--learning-rate 1e-3]`.
#
# ## References
#
# The decoder is {cite:t}`xiao2018unified`'s, its use here {cite:t}`hong2024spectralgpt`'s; the losses are {cite:t}`milletari2016vnet`'s and {cite:t}`lin2017focal`'s; the paper is {cite:t}`imamoglu2026tutorial`. [All references](../book/references).
