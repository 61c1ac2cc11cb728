# %% [markdown]
# # What the weight does
#
# ```{admonition} This chapter
# **You will**
#
# - *measure* how much of a pretraining loss is speckle that nobody can learn, from an even field and from two draws over one land;
# - *test* what the SAR weight changes about that, in the loss, in the gradient and in the fill;
# - *read* what a fine-tuned model endures when one thing about a scene is other than in training;
# - *find* which wrong units a file gives away, and which it cannot.
#
# **You need** chapters [6](06_pretraining) and [8](08_evaluation).
#
# **In the paper** abstract, §3.1. **Modules** `world.simulate`, `learn.pretraining`, `learn.inference`. **Takes** the test patches, the reference encoder and model, two recorded studies. **Makes** nothing that later chapters need. What it costs is [measured](../book/costs); the last line of the page says what it took here. No GPU is needed.
# ```
#
# **Paper** ({cite:t}`imamoglu2026tutorial`, abstract), of its weighted loss: "This method aims to reduce the impact of speckle and extreme intensity values during self-supervised pretraining."
#
# On a real scene nobody can check that, because nobody knows the backscatter without its speckle. Here the scenes are **simulated**, and the land under every patch is known.
#
# ## Switch the speckle off
#
# The simulator draws speckle in one function, at the very end. Let that function write down what it is given, and we hold the land as a radar without speckle would see it.

# %%
import json
import resource
import sys
import time
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
import torch
from affine import Affine
from IPython.display import display
from matplotlib.patches import Patch
from rasterio.windows import Window

import sartutorial as st
from sartutorial import profiles, radiometry, tutorial
from sartutorial.learn import datasets, pretraining
from sartutorial.learn.published import load_pretraining
from sartutorial.maps import HATCH
from sartutorial.world import simulate

# %%
started = time.perf_counter()
folder = tutorial.sampled()
rows = datasets.selected(folder, "finetune", "test")
pretrained, description = load_pretraining("reference")
norm = datasets.Normalization(**description["normalization"])
results = profiles.book_file("results")
weight = json.loads((results / "weight.json").read_text())
factors = json.loads((results / "factors.json").read_text())


def halved(power):
    """Linear power (2N, 2N) as chapter 2 halves a scene: dB (N, N)."""
    dn = radiometry.db_to_dn(radiometry.to_db(power))
    return radiometry.dn_to_db(st.block_mean(dn))


# %%
def land(row):
    """Under a patch: mean power, amplitudes that stand still, and the place of its speckle."""
    at, kept, size = Affine(*row.transform), [], int(row.size)
    with rasterio.open(tutorial.world() / simulate.CLASSES) as truth:
        left, top = ~truth.transform * (at.c, at.f)
        bias = np.array(truth.tags()["BIAS"].split(), float)
        seed = int(truth.tags()["SEED"])
    first = round(top) - row.row, round(left) - row.col  # the scene's corner

    def keep(power, _looks, _correlation, _key, _window, target):
        kept.append((power, target))
        return power.copy()

    window = Window(0, 2 * row.row, 2 * size, 2 * size)
    with mock.patch.object(simulate, "speckle", keep):
        place = first[0], first[1] + row.col
        simulate.observe(tutorial.world(), bias, [], seed, *place, window)
    window = Window(2 * row.col, 2 * row.row, 2 * size, 2 * size)
    return *kept[0], (seed, 7, *first), window


# %%
counts = rows[[f"n_{i}" for i in st.HR_LULC.ids]].to_numpy()
i = int((counts > 200).sum(axis=1).argmax())  # the patch of most classes
row = next(rows.iloc[[i]].itertuples(index=False))
power, target, key, window = land(row)
clean = halved(power + target**2)
draw = halved(
    simulate.speckle(power, simulate.LOOKS, simulate.CORRELATION, key, window, target)
)
seen = st.Store(folder, rows).sar(i)
assert np.abs(draw - seen).mean() < 0.01  # with its speckle, it is the very patch

# %% [markdown]
# The assertion says that nothing was made up: with its own speckle put back, the land is the patch of the data set (ships are left out here).
#
# Now hide six cells of ten, let the reference encoder fill them in, and hold the fill against both. The cells are as large as those that this encoder was trained with, twice the authors':


# %%
def masks(number, cell):
    """Masks (1, H/16, W/16) that hide cells of some pixels, of test patch ``number``."""
    ratio, side = pretraining.MASK_RATIO["simmim"], len(seen) // cell
    mask = pretraining.mask_cells(side, ratio, torch.tensor([[1, 0, number]]))
    return torch.kron(mask, torch.ones(1, cell // 16, cell // 16))


mask = masks(i, weight["cells_px"])
hidden = np.kron(mask[0].numpy(), np.ones((pretraining.CELL,) * 2)) > 0
image = torch.from_numpy((seen - norm.mean) / norm.std)[None, None].float()
with torch.inference_mode():
    fill = pretrained(image, mask)[1][0, 0].numpy() * norm.std + norm.mean

# %% mystnb={"figure": {"caption": "One simulated test patch: as the scene shows it, the same land without speckle, and the reference encoder's fill of the hidden cells; below, the error of the fill against each, hidden cells only; the number is the mean absolute error.", "name": "fig-clean"}, "image": {"alt": "Five panels. The noisy patch is grainy; the clean one shows smooth fields, roads and the texture of woods. The fill is smooth. Its error against the noisy patch is grain on top of large patches; against the clean one the grain is gone, and what is left are houses, woods and fields that the fill did not know of."}} tags=["hide-input"]
fig, axes = plt.subplots(2, 3, figsize=(9.6, 6.2), layout="constrained")
pasted = np.where(hidden, fill, seen)
pictures = {"seen": seen, "without speckle": clean, "the fill": pasted}
for ax, (title, db) in zip(axes[0], pictures.items(), strict=True):
    grey = st.show_backscatter(db, ax, title=title)
for ax, (title, db) in zip(
    axes[1], {"seen": seen, "clean": clean}.items(), strict=False
):
    off = np.where(hidden, fill - db, np.nan)
    drawn = ax.imshow(off, cmap="RdBu_r", vmin=-8, vmax=8)
    ax.set_axis_off()
    ax.set_title(f"fill minus {title}: {np.nanmean(np.abs(off)):.2f} dB")
axes[1, 2].set_axis_off()
fig.colorbar(grey, ax=axes[0], label="σ⁰ [dB]", shrink=0.9)
fig.colorbar(drawn, ax=axes[1], label="fill minus picture [dB]", shrink=0.9)
plt.show()

# %% [markdown]
# The pretraining loss sees the left error only.
#
# A network is good for the masks that it knows, too. Sixteen test patches, under its own cells and under the authors':

# %%
store, numbers = st.Store(folder, rows), range(0, len(rows), len(rows) // 16)
some = torch.from_numpy(np.stack([store.sar(n) for n in numbers]))[:, None]
some = (some - norm.mean) / norm.std
for cell in (weight["cells_px"], pretraining.CELL):
    mask_of = torch.cat([masks(n, cell) for n in numbers])
    with torch.inference_mode():
        fills = pretrained(some, mask_of)[1]
    where = torch.kron(mask_of, torch.ones(1, 16, 16))[:, None] > 0
    print(f"cells of {cell} px: {norm.std * (fills - some).abs()[where].mean():.2f} dB")

# %% [markdown]
# ## The floor
#
# Speckle multiplies power, so in decibels it is added. A pixel is $x = m + q$: the land's level $m$, and speckle $q$, whose distribution is the same everywhere.
# An *oracle* that knows $m$, and nothing of $q$, guesses a constant more than $m$. Under an absolute error the best constant is the median of $q$, and what it still pays is the **speckle floor**
#
# $$
# F = \mathrm{E}\,\bigl|q - \mathrm{med}(q)\bigr| .
# $$ (eq-floor)
#
# Under the weighted loss the best constant $c$ is the *weighted* median, with a pixel's own weight $w$, and the floor is $\mathrm{E}\,w\,|q - c|$. (*Weighted* on this page is the weight of normalised decibels, with which the book trains; *weighted, linear* that of power, [chapter 6](06_pretraining).)
#
# $F$ needs no simulation. A pixel of ours is a mean over 2 × 2 pixels of two looks, whose waves are correlated: a sum of exponential variables, one for each eigenvalue of that correlation, whose distribution is known (**ours**, after {cite:t}`moschopoulos1985`). The plain gamma distribution of $L$ independent looks comes close: its standard deviation is $(10 / \ln 10)\sqrt{\psi'(L)}$ dB, with the trigamma function $\psi'$, and $F$ is about four fifths of that. Measured on an even field:

# %%
even = simulate.speckle(
    1.0, simulate.LOOKS, simulate.CORRELATION, (7,), Window(0, 0, 1024, 1024)
)
q = halved(even)
median = np.median(q)
floor = np.abs(q - median).mean()
ends = torch.tensor([[-30.0, 0.0]])  # dB of the darkest and the brightest pixel
field = torch.cat([torch.from_numpy(q.ravel() - 12.0)[None], ends], 1)[None, None]
w = st.intensity_weight((field - norm.mean) / norm.std)[0, 0, 0, :-2].numpy()
order = q.ravel().argsort()
mass = w[order].cumsum()
heavy = q.ravel()[order][np.searchsorted(mass, mass[-1] / 2)]
known = weight["speckle"]
print(f"measured: median {median:.3f} dB, floor {floor:.3f} dB")
print(f"computed: median {known['median']:.3f} dB, floor {known['floor']:.3f} dB")
print(f"equivalent looks {known['equivalent looks']:.2f}; a gamma of as many has")
print(f"          a floor of {known['floor of a gamma of as many looks']:.3f} dB")
print(f"weighted median {heavy:.3f} dB")
print(f"floor over deviation: {floor / q.std():.2f}")
assert abs(floor - known["floor"]) < 0.02 and heavy < median

# %% mystnb={"figure": {"caption": "Speckle of an even simulated field after halving, in dB about its mean power, with the best constant guess under the plain and the weighted loss (domain normalised, a patch between \u221230 and 0 dB).", "name": "fig-even-field"}, "image": {"alt": "A histogram of decibels, skewed towards dark, with its peak slightly above zero. Two vertical lines: the median just below zero, and the weighted median a little further to the left."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.hist(q.ravel(), 120, range=(-9, 6), color="0.8", density=True)
ax.axvline(median, color="#0072b2", label="median")
ax.axvline(heavy, color="#d55e00", ls="--", label="weighted median")
ax.set(xlabel="speckle [dB]", ylabel="density")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# `python -m experiments.weight` lets the oracle and the reference encoder guess the same hidden pixels of all test patches. It adds a second oracle, which knows class, tone and slope but not the *texture* of the land, its grain from tree to tree and roof to roof: that is no speckle, but nobody can guess it behind a mask either.


# %%
def told(found, digits=3):
    """A number with its interval."""
    low, high = found["interval_95"]
    return f"{found['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# %%
floors = weight["floor"]
table = {}
for loss, f in floors.items():
    table[loss] = {f"{k} pays [dB]": told(v) for k, v in f["paid"].items()}
    table[loss] |= {
        "speckle's share of the loss": told(f["share of the network's"]["oracle"]),
        "with texture": told(f["share of the network's"]["without texture"]),
        "best guess off the true mean [dB]": f"{f['best guess off the true mean']:+.3f}",
    }
    if "share minus plain's" in f:
        change = told(f["share minus plain's"]["oracle"])
        table[loss]["speckle's share, change from plain"] = change
display(pd.DataFrame(table).fillna(""))
print(f"{weight['patches']} simulated test patches in {weight['blocks']} blocks;")
print(f"{weight['intervals']}.")
for loss, f in floors.items():
    print(
        f"{loss:<17} oracle paid minus computed: {told(f['oracle minus expected'], 4)}"
    )
    assert abs(f["oracle minus expected"]["value"]) < 0.02
    assert f["paid"]["oracle"]["value"] < f["paid"]["network"]["value"]

# %% [markdown]
# The oracle pays what the formula says. (Of the pixels where something stands still, a corner of a roof or a ship, the last lines say nothing: those hardly speckle.)
# What lies between the network and the oracle is all that this loss can ever teach; much of that is texture.
# The weighted numbers are larger because a weight is at least 1 (they are decibels times a weight); shares, the oracle's loss over the network's, are what can be compared.
#
# By intensity, in ten equal groups of pixels. On the left groups are made by the *land's* level, on the right by the pixel as *seen*, as in [chapter 6](06_pretraining):

# %% mystnb={"figure": {"caption": "Speckle's share of the loss by decile of intensity (reference encoder, simulated test patches), grouped by the land's level and by what is seen; bars hold 95 % of draws of blocks.", "name": "fig-floor"}, "image": {"alt": "Two charts of three lines over ten deciles. The three lines nearly coincide: speckle's share is highest in the middle, lower on the darkest land and lowest on the brightest."}} tags=["hide-input"]
styles = {
    "plain": ("0.45", "o", "-"),
    "weighted": ("#0072b2", "s", "-"),
    "weighted, linear": ("#d55e00", "^", "--"),
}
groups = {"clean decile": "the land's level", "seen decile": "the pixel as seen"}
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
for ax, (group, name) in zip(axes, groups.items(), strict=True):
    for j, (loss, (colour, marker, line)) in enumerate(styles.items()):
        share = floors[loss]["by"][group]["oracle's share"]
        y = np.array([s["value"] for s in share])
        ends = np.array([s["interval_95"] for s in share]).T
        at = np.arange(1, 11) + 0.12 * (j - 1)
        ax.errorbar(at, y, np.abs(ends - y), color=colour, marker=marker, ls=line,
                    ms=4, lw=1, label=loss)  # fmt: skip
    ax.set(xlabel=f"decile of {name}, dark to bright", xticks=range(1, 11))
axes[0].set(ylabel="speckle's share of the loss", ylim=(0, None))
axes[0].legend(frameon=False)
plt.show()

# %%
by_class = {}
for loss in styles:
    of = floors[loss]["by"]["class"]
    by_class[f"{loss}: share"] = [s["value"] for s in of["oracle's share"]]
of = floors["plain"]["by"]["class"]
by_class["network [dB]"], by_class["oracle [dB]"] = of["network"], of["oracle"]
by_class["left to learn [dB]"] = np.subtract(of["network"], of["oracle"])
by_class["of it not texture [dB]"] = np.subtract(of["network"], of["without texture"])
frame = pd.DataFrame(by_class, index=st.HR_LULC.names[: len(of["oracle"])])
display(frame.style.format("{:.2f}"))

# %% [markdown]
# In decibels speckle is as large on a dark field as on a bright roof, so the plain floor is nearly the same for every class; lowest in towns, where corners stand still. What differs is what the network adds.
#
# ## Whose gradient is it?
#
# A network learns from gradients. Take a patch and draw its speckle twice, in the cells that are seen and, apart from that, in those that are hidden: four gradients $g_{iab}$ over one land $i$. An analysis of variance splits how gradients differ between patches:
#
# $$
# \mathrm{Var}\,g = \sigma^2_\text{land} + \sigma^2_\text{seen} + \sigma^2_\text{hidden} + \sigma^2_\text{both}
# $$ (eq-anova)
#
# If the weight reduces "the impact of speckle", the last three should be a smaller share with it than without. The gradient is that of all parameters, of the trained reference encoder and of an untrained one.

# %% mystnb={"figure": {"caption": "Speckle's share of the variance of the gradient between simulated patches, without and with the SAR weight: speckle in the cells that are seen, in those that are hidden, and both together; the rest is land. Black bars hold 95 % of draws of blocks for their sum.", "name": "fig-gradient"}, "image": {"alt": "Two charts of three stacked bars, for the reference and an untrained network: the shares of speckle in the gradient's variance. For the reference network most of it is speckle in the cells that are seen, for the untrained one in those that are hidden. Within each chart the bars are nearly alike, and their intervals overlap."}} tags=["hide-input"]
_, *parts = weight["gradient"]["parts"]  # the first is the land
colours = dict(zip(parts, ("#56b4e9", "#e69f00", "0.6"), strict=True))
fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.2), sharey=True, layout="constrained")
for ax, network in zip(axes, ("reference", "untrained"), strict=True):
    found, base = weight["gradient"][network], 0
    for part, colour in colours.items():
        height = np.array([100 * f[part]["value"] for f in found.values()])
        ax.bar(list(found), height, bottom=base, color=colour, label=part, width=0.6)
        base = base + height
    ends = 100 * np.array([f["speckle"]["interval_95"] for f in found.values()]).T
    ax.errorbar(
        list(found), base, np.abs(ends - base), fmt="none", color="k", capsize=4
    )
    ax.set(title=f"{network} network", ylabel="share of the variance [%]")
fig.legend(
    *axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False
)
plt.show()

# %%
for network in ("reference", "untrained"):
    for loss, f in weight["gradient"][network].items():
        change = f.get("speckle minus plain's")
        more = f"; change from plain {told(change)}" if change else ""
        print(f"{network:<10} {loss:<17} speckle {told(f['speckle'])}{more}")

# %% [markdown]
# ## Against the clean image
#
# The error that no real scene offers: the fill against the land without speckle. First the reference encoder and, beside it, a blur that has learnt nothing ([chapter 6](06_pretraining)'s Gaussian):

# %%
against = weight["clean"]
both = {
    name: {
        "against what is seen [dB]": told(against[name]["noisy"]),
        "against the land [dB]": told(against[name]["clean"]),
        "fill minus land [dB]": told(against[name]["bias"]),
    }
    for name in ("reference", "Gaussian")
}
display(pd.DataFrame(both).T)
for kind, name in (("noisy", "what is seen"), ("clean", "the land")):
    times = against["Gaussian"][kind]["value"] / against["reference"][kind]["value"]
    print(
        f"on {name} the blur (sigma {against['sigma_px']} px) errs {times:.2f} times as much"
    )
assert against["reference"]["clean"]["value"] < against["reference"]["noisy"]["value"]

# %% mystnb={"figure": {"caption": "Error of the reference encoder by decile of the land's level, against what is seen and against the land (simulated test patches); and how far the fill lies off the land.", "name": "fig-against"}, "image": {"alt": "Left, two lines over ten deciles: the error against what is seen lies above that against the land, but for the brightest land, where both are large. Right, the signed error: the fill is too bright on the darkest land and too dark on the brightest."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
for kind, name, colour, marker in (
    ("noisy", "against what is seen", "0.45", "o"),
    ("clean", "against the land", "#0072b2", "s"),
):
    y = against["reference"][kind]["by clean decile"]
    axes[0].plot(range(1, 11), y, color=colour, marker=marker, label=name)
axes[0].set(ylabel="error [dB]", ylim=(0, None))
axes[0].legend(frameon=False)
axes[1].plot(
    range(1, 11), against["reference"]["bias"]["by clean decile"], "s-", color="#0072b2"
)
axes[1].axhline(0, color="0.7", lw=1)
axes[1].set_ylabel("fill minus land [dB]")
for ax in axes:
    ax.set(xlabel="decile of the land's level, dark to bright", xticks=range(1, 11))
plt.show()

# %% [markdown]
# The reference encoder was trained *with* the weight. So the study trains it on for some steps, from the same weights, on the same patches under the same masks, once with the plain loss and once with the weighted:

# %%
after = against["trained on"]
print(
    f"{after['steps']} steps of {after['batch']} patches, {after['seeds']} paired seeds"
)
losses = [k for k in after if k in floors]
trained_on = {
    loss: {
        "against what is seen [dB]": told(after[loss]["noisy"]),
        "against the land [dB]": told(after[loss]["clean"]),
        "fill minus land [dB]": told(after[loss]["bias"]),
    }
    for loss in losses
}
less = after["weighted"]["minus plain's"]
trained_on["weighted minus plain"] = dict(
    zip(
        trained_on["plain"],
        (told(less[k]) for k in ("noisy", "clean", "bias")),
        strict=True,
    )
)
display(pd.DataFrame(trained_on).T)

# %% [markdown]
# ## What the three measures say
#
# The claim, put to the test in one line each. *Less* and *more* are said only where the interval of the paired difference leaves out 0.


# %%
def verdict(found):
    """In a word, from a paired difference with its interval."""
    low, high = found["interval_95"]
    word = "less" if high < 0 else "more" if low > 0 else "no measurable difference"
    return f"{word} ({found['value']:+.4f}, {low:+.4f} to {high:+.4f})"


verdicts = {
    "speckle's share of the loss": floors["weighted"]["share minus plain's"]["oracle"],
    "the same, linear domain": floors["weighted, linear"]["share minus plain's"][
        "oracle"
    ],
}
for network in ("reference", "untrained"):
    for loss in ("weighted", "weighted, linear"):
        name = f"speckle in the gradient, {network}, {loss}"
        verdicts[name] = weight["gradient"][network][loss]["speckle minus plain's"]
verdicts["error against the land [dB]"] = less["clean"]
verdicts["fill minus land [dB] (less is darker)"] = less["bias"]
for name, found in verdicts.items():
    print(f"{name:<55} {verdict(found)}")
    assert not ("speckle" in name and verdict(found).startswith("less"))
assert verdict(less["clean"]).startswith("more")  # what the text says
assert verdict(less["bias"]).startswith("less")

# %% [markdown]
# On these three measures the weight does *not* reduce the impact of speckle: no share of it got smaller, and the fill got darker and farther from the land.
#
# How to read it (**ours**): a weight that is a function of the pixel, speckle included, cannot tell a dark field from a dark speck. It multiplies the error of whatever is dark. So it moves the best guess down, away from the land's true level, and it shifts *where* the loss is paid; speckle itself it has no handle on.
# What it does turn down are bright extremes, the other half of the claim ([chapter 6](06_pretraining) measures by how much).
#
# These are measures of loss, gradient and fill, on simulated land and with a small network. Whether an encoder is *better* for it is a question of scores: [chapter 8](08_evaluation).
#
# ## One factor at a time
#
# The second thing that only a simulator can do is to change one thing about a scene and nothing else. `python -m experiments.factors` scores three models on the same land: the reference model, and the two that [chapter 7](07_finetuning) trains in minutes, pretrained and from scratch. None is trained anew.

# %% mystnb={"figure": {"caption": "mIoU on the same simulated land with one thing changed (grey line: as in training); bars hold 95 % of draws of blocks, of one training each.", "name": "fig-factors"}, "image": {"alt": "Small charts, one a factor: calibration, looks, incidence angle, relief, and wrong labels in the test. Three lines each. The reference model is highest throughout; curves fall on both sides of the calibration, with fewer looks and with steeper relief; with many looks the short runs level off and the reference model falls."}} tags=["hide-input"]
looks = {  # colours as in chapter 7
    "reference model": ("#009e73", "o", "-"),
    "pretrained, minutes": ("#0072b2", "s", "-"),
    "scratch, minutes": ("0.5", "^", "--"),
}
trained_at = {
    "calibration [dB]": 0,
    "looks": simulate.LOOKS,
    "incidence angle [degrees]": np.degrees(simulate.THETA),
    "relief [times]": 1,
}
fig, axes = plt.subplots(2, 3, figsize=(11, 6.2), sharey=True, layout="constrained")
for ax, (factor, points) in zip(axes.flat, factors["curves"].items(), strict=True):
    here = [*points, factors["as it is"] | {"value": trained_at.get(factor, 0)}]
    here = sorted(here, key=lambda p: p["value"])
    x = np.array([p["value"] for p in here])
    for name, (colour, marker, line) in looks.items():
        y = np.array([p["models"][name]["miou"] for p in here])
        ends = np.array([p["models"][name]["miou_95"] for p in here]).T
        ax.errorbar(x, y, np.abs(ends - y), color=colour, marker=marker, ls=line,
                    ms=4, lw=1, label=name)  # fmt: skip
    ax.axvline(trained_at.get(factor, 0), color="0.8", lw=1, zorder=0)
    ax.set(xlabel=factor, ylim=(0, None))
    if factor == "looks":
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{v:g}" for v in x])
for ax in axes[:, 0]:
    ax.set_ylabel("mIoU")
axes[0, 0].legend(frameon=False, fontsize=8)
plt.show()

# %%
changes = []
for factor, points in factors["curves"].items():
    for p in points:
        line = {"factor": factor, "value": p["value"]}
        for name, m in p["models"].items():
            if "change" in m:
                low, high = m["change_95"]
                line[name] = f"{m['change']:+.3f} ({low:+.3f} to {high:+.3f})"
        if "lead" in p and len(line) > 2:
            low, high = p["lead"]["miou_95"]
            line["pretrained minus scratch"] = (
                f"{p['lead']['miou']:+.3f} ({low:+.3f} to {high:+.3f})"
            )
            changes.append(line)
print(f"change in mIoU; {factors['patches']} patches in {factors['blocks']} blocks,")
as_it_is = {k: f"{m['miou']:.3f}" for k, m in factors["as it is"]["models"].items()}
said = ", ".join(f"{name} {miou}" for name, miou in as_it_is.items())
print(f"{factors['seeds']}; as it is: {said}")
display(pd.DataFrame(changes).set_index(["factor", "value"]))
many = factors["curves"]["looks"][-1]["models"]
assert (
    many["reference model"]["change_95"][1] < 0 < many["pretrained, minutes"]["change"]
)

# %% [markdown]
# A fine eye has its price. The reference model, whose head sees the image itself, loses most where the number of looks changes, in *either* direction: it has learnt the grain of this speckle. The two of minutes, whose head names classes at a quarter of the resolution, even gain from more looks.
#
# What the simulator can say here and what not: looks and calibration are exact. The angle changes slopes, shadows and, by the same law with each class's own exponent, flat ground (**ours**); real fields and towns change in more ways. Steeper relief leaves the land cover where it was, which no real mountain does.
#
# Wrong labels in the *test* are no fault of the model: a perfect map would lose as well. The curve is computed from the confusion matrix, for labels that turn into any other class with equal chance, and by the classes' frequency. It shows how a rare class suffers: a few per cent of the forest, called greenhouse, outnumber all greenhouses. What *training* on wrong labels does stands in [chapter 8](wrong-labels).
#
# Another *island* is a factor too, and one that changes everything at once. The long runs of [chapter 8](08_evaluation) were scored on one that no choice had seen:

# %%
search = json.loads((results / "search.json").read_text())
long = [r for r in search["runs"] if r["stage"] == "final"]
places = {"test": "at home", "fresh world": "on the other island"}
scores = {
    (r["start"], r["seed"]): {v: r["miou"][k] for k, v in places.items()} for r in long
}
moved = pd.DataFrame(scores).T.rename_axis(["start", "seed"])
display(moved.style.format("{:.3f}"))

# %% [markdown]
# ## Wrong on purpose: the museum of units
#
# A model is good for the numbers that it was trained on: decibels of σ⁰, normalised with the mean and deviation that are stored beside it. Each exhibit hands it the same land as something else. *Out of range* is the share of pixels more than three deviations off the mean, which is what the validity band of `st.predict(..., confidence=True)` marks.

# %%
exhibits = []
for name, m in factors["museum"].items():
    line = {"exhibit": name}
    for model, r in m.items():
        low, high = r["change_95"]
        line[model] = f"{r['miou']:.3f} ({low:+.3f} to {high:+.3f})"
    line["out of range"] = f"{m['reference model']['out of range']:.1%}"
    exhibits.append(line)
home = factors["as it is"]["models"]["reference model"]
print("mIoU, and in brackets the interval of its change. The reference model as it")
print(f"should be: {home['miou']:.3f}, {home['out of range']:.1%} out of range")
display(pd.DataFrame(exhibits).set_index("exhibit"))
lost = {k: -m["reference model"]["change"] for k, m in factors["museum"].items()}
assert max(lost, key=lost.get) in ("DN", "linear power", "dB, not normalised")

# %% mystnb={"figure": {"caption": "One simulated patch, its truth, and the reference model's map from seven ways to hand it over, the first of them right.", "name": "fig-museum"}, "image": {"alt": "Eight small maps: the truth, the map from normalised decibels, which agrees with it, and six maps from wrong units. DN, power, plain decibels and the wrong logarithm give maps of nearly one class; other statistics and gamma nought give maps that look right and differ in places."}} tags=["hide-input"]
model, known = st.load_model("reference")
own = datasets.Normalization(**known["normalization"])
slips = {
    "as it should be": (seen - own.mean) / own.std,
    "DN": radiometry.db_to_dn(seen).astype(np.float32),
    "linear power": radiometry.to_power(seen),
    "dB, not normalised": seen,
    "10 log DN, not 20": ((seen + 83) / 2 - 83 - own.mean) / own.std,
    "authors' statistics": (seen + 10.4327) / 5.8041,
    "γ⁰ for σ⁰": (seen - 10 * np.log10(np.cos(simulate.THETA)) - own.mean) / own.std,
}
truth = st.HR_LULC.to_index(st.Store(folder, rows).label(i))
fig, axes = plt.subplots(2, 4, figsize=(11, 5.8), layout="constrained")
mapped = {"truth": truth}
with torch.inference_mode():
    for name, z in slips.items():
        given = torch.from_numpy(np.asarray(z, np.float32))[None, None]
        mapped[name] = model(given).argmax(1)[0].numpy()
for ax, (name, drawn) in zip(axes.flat, mapped.items(), strict=True):
    right = (drawn == truth)[truth >= 0].mean()
    title = name if name == "truth" else f"{name}: {right:.0%} right"
    whole = (drawn + 1).astype(np.uint8)
    st.show_classes(whole, ax, title, legend=st.HR_LULC, training=True)
handles = [
    Patch(fc=np.divide(c.rgb, 255), hatch=HATCH.get(c.name), label=c.name)
    for c in st.HR_LULC.for_maps.classes
]
fig.legend(handles=handles, loc="outside lower center", ncols=9, frameon=False)
plt.show()

# %% [markdown]
# A tensor refuses nothing. A *file* says what it is, and `st.predict` reads that. The same piece of land, written in ways that a file can tell and in ways that it cannot:

# %%
shop = tutorial.data_dir() / "museum"
name = rows["scene"].iloc[0] + ".tif"
sigma = {"QUANTITY": "sigma0", "SIMULATED": "yes"}
dn = radiometry.db_to_dn(seen)
files = {  # exhibit: name, pixels, tags, pixel spacing in m
    "float32 dB": (name, seen, sigma, 5),
    "float32 power": (name, radiometry.to_power(seen).astype("float32"), sigma, 5),
    "γ⁰, said by a tag": (name, dn, {"QUANTITY": "gamma0"}, 5),
    "not halved": (name, dn, sigma, 2.5),
    "another polarisation": (name.replace("HH", "HV"), dn, sigma, 5),
    "level 3.1": (name.replace("2.1", "3.1"), dn, {}, 5),
    "a name that tells nothing": ("scene.tif", dn, {}, 5),
    "γ⁰, said by nothing": (name, dn, {}, 5),
    "calibration tag 3 dB off": (name, dn, sigma | {"CALIBRATION_DB": "-80"}, 5),
    "power, written as uint16": (name, (dn / 64.0) ** 2, sigma, 5),
}


# %%
def hang(exhibit):
    """Write an exhibit, ask for its map: what is refused, or None."""
    called, pixels, tags, spacing = files[exhibit]
    number = list(files).index(exhibit)
    path = shop / str(number) / called
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "float32" if pixels.dtype == np.float32 else "uint16"
    place = Affine(spacing, 0, row.transform[2], 0, -spacing, row.transform[5])
    form = dict(driver="GTiff", count=1, dtype=kind, crs=row.crs, nodata=0)
    size = dict(height=len(pixels), width=len(pixels), transform=place)
    with rasterio.open(path, "w", **form, **size) as file:
        file.write(np.clip(pixels, -99, 65535).astype(kind), 1)
        file.update_tags(**tags)
    try:
        st.predict(path, "reference", shop / f"{number}-map.tif")
    except st.InputError as error:
        return str(error).replace(str(path), called)


# %%
refused = {exhibit: hang(exhibit) for exhibit in files}
for exhibit, line in refused.items():
    print(f"{exhibit}: {line or '*** mapped, nothing said ***'}")
assert sum(line is None for line in refused.values()) == 3

# %% [markdown]
# The last three cannot be detected: uint16 is uint16, and a number in a tag is believed. Nor does the range help with linear power in the table above: as normalised decibels its numbers look ordinary. What is left is to look. The validity band is one look, a map of a place that you know is another, and the cheapest of all is to compare the mean and deviation of your scene with those in the model's JSON.
# `st.evaluate` refuses in the same way patches of another quantity, polarisation, spacing, size or legend:

# %%
other = rows.iloc[:2].copy()
for column, value in {
    "quantity": "gamma0",
    "polarisation": "HV",
    "spacing": 2.5,
}.items():
    try:
        datasets.check_fits(other.assign(**{column: value}), known, "reference")
    except st.InputError as error:
        print(error)

# %% [markdown]
# ## Exercises
#
# Each has a `check` that takes *your* answer and says what it looks like.
#
# **1.** How much would the oracle pay, in dB, on an even field of *single-look* pixels that nobody halved? Draw one (`simulate.speckle` with one look and correlation 0), find the best constant for the plain loss, and give what is left: `check_floor(…)`.


# %% tags=["hide-cell"]
def check_floor(paid):
    """Say whether the floor of single-look speckle is right, or which mistake it looks like."""
    if abs(paid - single["floor"]) < 0.03:
        return print(
            f"Right: {paid:.2f} dB. After halving, with two looks, {single['halved']:.2f} are left."
        )
    slips = {
        "mean": "You guessed the mean of the decibels. For an absolute error it is the median.",
        "power": "You guessed the mean power. The median of the decibels lies below it.",
        "deviation": "That is the standard deviation. The loss is the mean absolute error.",
        "halved": "That is the floor after halving, with two looks.",
    }
    for slip, said in slips.items():
        if abs(paid - single[slip]) < 0.03:
            return print(said)
    print("No. One look, correlation 0, decibels, the mean of |x - median|?")


one = st.to_db(simulate.speckle(1.0, 1, 0.0, (3,), Window(0, 0, 1024, 1024)))
single = {
    "floor": np.abs(one - np.median(one)).mean(),
    "mean": np.abs(one - one.mean()).mean(),
    "power": np.abs(one).mean(),
    "deviation": one.std(),
    "halved": floor,
}

# %% tags=["hide-cell"]
check_floor(np.abs(one - np.median(one)).mean())
check_floor(one.std())  # a usual slip
# The decibels of one look are skewed: a long tail of dark pixels. Their mean lies well below the
# level, their median less.

# %% [markdown]
# **2.** From two draws over one land you can measure speckle without knowing the land. Draw a second speckle over the patch above (`(*key, 1)` in place of `key`), subtract, and give the *variance* of speckle in dB²: `check_variance(…)`.


# %% tags=["hide-cell"]
def check_variance(found):
    """Say whether the variance of speckle is right, or which mistake it looks like."""
    right = spread["variance"]
    if abs(found / right - 1) < 0.05:
        return print(f"Right: {found:.2f} dB², a deviation of {right**0.5:.2f} dB.")
    slips = {
        2
        * right: "That is the variance of the difference. Both draws speckle: halve it.",
        right**0.5: "That is the deviation. Square it.",
        (2 * right) ** 0.5: "That is the deviation of the difference.",
        spread[
            "patch"
        ]: "That is the variance of the patch: land and speckle together.",
    }
    for slip, said in slips.items():
        if abs(found / slip - 1) < 0.05:
            return print(said)
    print("No. In decibels, halved, var(first - second) / 2?")


again = (simulate.LOOKS, simulate.CORRELATION, (*key, 1), window, target)
second = halved(simulate.speckle(power, *again))
spread = {"variance": np.var(draw - second) / 2, "patch": np.var(draw)}

# %% tags=["hide-cell"]
check_variance(np.var(draw - second) / 2)
check_variance(np.var(draw - second))  # a usual slip
print(f"even field: {np.var(q):.2f} dB²; of this patch's variance speckle is", end=" ")
print(f"{spread['variance'] / spread['patch']:.0%}")
# The variance is that of an even field, whatever the land: in decibels speckle is added.

# %% [markdown]
# **3.** A scene comes with the tag `CALIBRATION_DB=-80` where −83 is right. By how many decibels are its pixels off, true minus read, and does `st.predict` refuse it? `check_tag(decibels, refused=…)`.


# %% tags=["hide-cell"]
def check_tag(decibels, refused):
    """Say whether the answer about a wrong tag is right, or which mistake it looks like."""
    if refused != tag["refused"]:
        return print("Ask it: hang('calibration tag 3 dB off') says what predict says.")
    if abs(decibels - tag["shift"]) < 0.1:
        return print(
            "Right: all pixels read 3 dB too bright, and the file cannot tell."
        )
    if abs(decibels + tag["shift"]) < 0.1:
        return print(
            "The sign: sigma nought is 20 log DN plus the factor; true minus read."
        )
    if (
        abs(decibels / tag["shift"] - 2) < 0.1
        or abs(decibels / tag["shift"] - 0.5) < 0.1
    ):
        return print("Decibels of power: the factor is added as it is, not doubled.")
    print(
        "No. Read the pixels with both factors: radiometry.dn_to_db(dn, calibration_db=…)."
    )


shift = radiometry.dn_to_db(dn) - radiometry.dn_to_db(dn, calibration_db=-80)
tag = {
    "shift": float(np.nanmean(shift)),
    "refused": refused["calibration tag 3 dB off"] is not None,
}

# %% tags=["hide-cell"]
check_tag(-3, refused=False)
check_tag(3, refused=False)  # a usual slip
bright = [p for p in factors["curves"]["calibration [dB]"] if p["value"] in (1, 2)]
for p in bright:
    m = p["models"]["reference model"]
    print(f"read {p['value']} dB too bright: {m['change']:+.3f} mIoU")

# %% [markdown]
# ## Key points
#
# - A large part of a masked autoencoder's loss on SAR is speckle that cannot be learnt, and some of the rest is texture: a loss that hardly falls may still be learning.
# - In the gradient of a whole patch, thousands of pixels average speckle away: there it is a small part.
# - The SAR weight shifts where the loss is paid, from bright to dark. It did not lessen the part of *speckle* in loss, gradient or fill; it made the fill darker than the land.
# - The error against the land is what one would like to know of a reconstruction; only a simulator has it.
# - Weights are good for one unit. What a file says is checked; what it does not say, you must look at.
#
# ## References
#
# The claim is {cite:t}`imamoglu2026tutorial`'s, the weight {cite:t}`caglayan2025sarwmixmae`'s. [All references](../book/references).

# %% tags=["hide-input"]
unit = 1e9 if sys.platform == "darwin" else 1e6  # macOS counts in bytes, Linux in kB
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(
    f"this page took {(time.perf_counter() - started) / 60:.1f} minutes and {memory:.1f} GB here"
)
