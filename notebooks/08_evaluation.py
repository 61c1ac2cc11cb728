# %% [markdown]
# # Evaluation
#
# ```{admonition} This chapter
# **You will** score models on blocks that no training saw, compare pretrained with random weights, and read the paper's Table 1 with care.
#
# **You need** [chapter 7](07_finetuning).
#
# **In the paper** §4, Table 1. **Modules** `learn.evaluation`, `learn.baselines`. **Takes** fine-tuned models and the test split. **Makes** scores. What it costs is [measured](../book/costs).
# ```
#
# ## The scores
#
# Count, over all labelled test pixels at once, how often class $i$ was called $j$: the confusion matrix. Then for each class
#
# $$
# \mathrm{IoU} = \frac{\mathrm{TP}}{\mathrm{TP} + \mathrm{FP} + \mathrm{FN}}, \qquad
# \mathrm{Acc} = \frac{\mathrm{TP}}{\mathrm{TP} + \mathrm{FN}},
# $$ (eq-iou)
#
# and mIoU and mAcc are their means over classes.
# A class that the test split lacks is left out of the means (**ours**); the authors' **code** counts it as 0.

# %%
import matplotlib.pyplot as plt
import numpy as np

import sartutorial as st
from sartutorial import tutorial
from sartutorial.learn import baselines, datasets, evaluation

tutorial.show_source(evaluation.scores)

# %%
folder = tutorial.sampled()
files = {
    "reference model": "reference",
    "pretrained": tutorial.model(),  # chapter 7: from the reference encoder, for minutes
    "from scratch": tutorial.model(None),
}
results = {name: st.evaluate(folder, file) for name, file in files.items()}
for name, result in results.items():
    print(f"--- {name}, {result['patches']} test patches (simulated)")
    print(result)
    assert result["miou"] > result["majority"]["miou"]
classes = results["reference model"]["classes"]  # from the legend in the model's file

# %% mystnb={"figure": {"caption": "IoU by class on the simulated test blocks: the reference model, and the short runs of chapter 7 from the reference encoder and from scratch (one run each).", "name": "fig-iou"}, "image": {"alt": "Three bars for each class: IoU of the reference model and of the two short runs. Water and forest are high for all; the reference model is far above the short runs on the rare classes."}}
fig, ax = plt.subplots(figsize=(10, 3.6), layout="constrained")
for i, (name, result) in enumerate(results.items()):
    iou = [result["per_class_iou"][c] or 0 for c in classes]
    at = np.arange(len(classes)) + 0.27 * (i - 1)
    ax.bar(at, iou, 0.27, label=name, color=["#0072b2", "#e69f00", "#bbbbbb"][i])
ax.set_xticks(range(len(classes)), classes)
ax.set_ylabel("IoU")
ax.legend(frameon=False)
plt.show()

# %% mystnb={"figure": {"caption": "What is taken for what: rows are the truth, columns the prediction of the reference model (share of the row, simulated test blocks).", "name": "fig-confusion"}, "image": {"alt": "A nine by nine matrix: for each true class in a row, the share that was called each of the nine classes."}}
matrix = np.array(results["reference model"]["confusion_matrix"])
share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
fig, ax = plt.subplots(figsize=(6.4, 5.4), layout="constrained")
drawn = ax.imshow(share, cmap="viridis", vmin=0, vmax=1)
ax.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
ax.set_yticks(range(len(classes)), classes)
ax.set_xlabel("predicted")
ax.set_ylabel("truth")
fig.colorbar(drawn, shrink=0.8)
plt.show()

# %% [markdown]
# Where a short run fails on a class, the mean counts it: that is what a mean over classes is for. The reference model had more steps ([chapter 7](07_finetuning)).
#
# ## How sure is the difference?
#
# The test patches are a small sample, and neighbouring pixels are not independent.
# Draw test *patches* with replacement, many times, and see how the difference in mIoU spreads.

# %%
import torch

rows = datasets.selected(folder, "finetune", "test")


def per_patch(file):
    """Confusion matrix of every test patch, (patches, K, K) for K classes."""
    model, description = st.load_model(file)
    norm = datasets.Normalization(**description["normalization"])
    data, found, k = st.Patches(folder, rows, norm), [], len(classes)
    with torch.inference_mode():
        for i in range(len(data)):
            item = data[i]
            truth, predicted = item["label"], model(item["image"][None]).argmax(1)[0]
            keep = truth >= 0
            found.append(
                np.bincount(k * truth[keep] + predicted[keep], minlength=k * k)
            )
    return np.array(found).reshape(-1, k, k)


matrices = {name: per_patch(file) for name, file in files.items()}
for name in files:
    off = np.abs(matrices[name].sum(axis=0) - results[name]["confusion_matrix"]).sum()
    # Ties may fall differently in another batch.
    assert off <= 1e-3 * matrices[name].sum()

# %%
rng = np.random.default_rng(0)
draws = rng.integers(len(rows), size=(500, len(rows)))
miou = {
    name: np.array(
        [evaluation.scores(m[d].sum(axis=0), classes)["miou"] for d in draws]
    )
    for name, m in matrices.items()
}
difference = miou["pretrained"] - miou["from scratch"]
low, high = np.quantile(difference, [0.025, 0.975])
print(
    f"pretrained minus scratch: {difference.mean():+.3f} mIoU, 95 % of the draws between {low:+.3f} and {high:+.3f}"
)

# %% [markdown]
# These draws treat neighbouring patches as independent, and they are not: a field reaches over their border.
# So the interval is too narrow. `st.evaluate` keeps a confusion matrix for every spatial *block* of the split, and draws whole blocks, the same for both models:

# %%
lead = evaluation.difference([results["pretrained"]], [results["from scratch"]])
by_block = lead["miou_95"]
print(
    f"blocks drawn:  {lead['miou']:+.3f} mIoU, 95 % between {by_block[0]:+.3f} and {by_block[1]:+.3f}"
)
for name, r in results.items():
    print(
        f"{name:<16} {r['miou']:.3f} ({r['miou_95'][0]:.3f} to {r['miou_95'][1]:.3f}), calibration error {r['ece']:.3f}"
    )

# %% [markdown]
# The two runs differ in one more thing: layer-wise decay is used with pretrained weights only.
# And either interval knows the chance of *which land was tested*, not that of *which seed was trained*. For the latter, train several: [chapter 7](07_finetuning) shows a recorded study with several seeds, and
# `sartutorial table1 --out DIR --seeds 3` runs all five strategies of the paper and reports the spread.
#
# ## Is a network worth it?
#
# A pixel's own neighbourhood already says much. `python -m experiments.hardness` sets a random forest on the mean and variance of the decibels in 7 × 7 pixels against a small U-Net that sees the patch, on the same simulated world and the same split, each trained once. The intervals draw whole blocks of test patches.

# %%
import json
from pathlib import Path

import pandas as pd

hardness = json.loads(Path("../book/results/hardness.json").read_text())
rivals = pd.DataFrame(
    {
        name: {
            "mIoU": hardness[name]["miou"],
            "from": hardness[name]["miou_95"][0],
            "to": hardness[name]["miou_95"][1],
            **hardness[name]["per_class_iou"],
        }
        for name in ("network", "forest", "forest, balanced")
    }
)
assert (
    rivals.loc["from", "network"]
    > rivals.loc["to", ["forest", "forest, balanced"]].max()
)
print(
    f"{hardness['network']['parameters']:,} parameters, {hardness['network']['epochs']} epochs, "
    f"{hardness['patches']['test']} test patches in {hardness['blocks']} blocks, "
    f"majority class {hardness['network']['majority']:.3f}"
)
rivals.style.format(precision=3)

# %% [markdown]
# The forest knows levels and grain; the network also sees shape, border and what lies beside.
# That is what is left to learn here, and the short runs above have learnt only part of it.
#
# And a network trained for longer? The runs behind the reference model, on the same training patches, 4,000 steps each, scored on the test blocks and on a *fresh* simulated world that no choice has seen:

# %%
search = json.loads(Path("../book/results/search.json").read_text())
final = [
    {"start": r["start"], "seed": r["seed"], "batch": r["settings"]["batch"]}
    | {f"mIoU, {k}": v for k, v in r["miou"].items()}
    for r in search["runs"]
    if r["stage"] == "final"
]
pd.DataFrame(final).set_index("start").style.format(precision=3)

# %% [markdown]
# The small U-Net stays **ahead** of the pretrained transformer, with batches twice as large. On a simulated world this small, convolutions that see every pixel are hard to beat, and nothing here says that a foundation model is needed for it.
# With the minutes that a reader has, it is the other way round: what pretraining is worth at equal steps and at equal seconds, the latter with several seeds, stands in [chapter 7](07_finetuning). What it is worth with few labels this book has not measured yet.
#
# ## The paper's Table 1
#
# | Training strategy (paper) | mAcc | mIoU |
# |---|---|---|
# | MixMAE baseline (no pretraining) | 0.4223 | 0.3340 |
# | SAR-W-MixMAE (fine-tuned) | 0.5806 | 0.4734 |
# | SimMIM baseline (no pretraining) | 0.5292 | 0.4258 |
# | SimMIM (fine-tuned) | 0.6064 | 0.4894 |
# | SAR-W-SimMIM (fine-tuned) | 0.6073 | 0.4898 |
#
# What a careful reader should know:
#
# - These are **one run each**.
# - **Code:** as published, the evaluation runs on one of eight ranks of a distributed sampler without reducing the confusion matrix, so it scores an eighth of the test set. Whether Table 1 was made that way is not known.
# - Our numbers come from small networks on simulated land. They cannot be compared with the table, only read like it.
#
# Between pretrained and scratch the paper's difference is large. Between SimMIM and SAR-W-SimMIM it is printed below, which for one run each is no measurable difference.

# %%
paper = {s.name: s.paper_miou for s in baselines.STRATEGIES}
print(f"{paper['SAR-W-SimMIM (fine-tuned)'] - paper['SimMIM (fine-tuned)']:.4f} mIoU")

# %% [markdown]
# ## Wrong on purpose: the mean of the patches' mIoU
#
# Score each patch on its own and average, and patches with one easy class dominate.

# %%
each = np.mean(
    [evaluation.scores(m, classes)["miou"] for m in matrices["reference model"]]
)
print(
    f"mean of per-patch mIoU {each:.3f}; mIoU of the global matrix {results['reference model']['miou']:.3f}"
)

# %% [markdown]
# ## Key points
#
# - One global confusion matrix, blocks that no training saw, and the majority class beside every score.
# - An interval, or it is an anecdote.
# - On the command line: `sartutorial evaluate PATCHES --model FILE [--split test] [--out FILE]`.
