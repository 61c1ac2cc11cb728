# %% [markdown]
# # Sampling and splits
#
# ```{admonition} This chapter
# **You will** choose patches so that rare classes count, split them so that the test shares little with the training, and measure what a split that leaks is worth.
#
# **You need** [chapter 4](04_patches).
#
# **In the paper** §2.2. **Modules** `sampling`, `splits`. **Takes** the patch index and the land-cover tiles. **Makes** the columns `points`, `split`, `finetune` and `pretrain` in the index. What it costs is [measured](../book/costs); no GPU is needed.
# ```
#
# ## Japan is not balanced
#
# Count the pixels of every class over all label rasters, $N_c$, and divide by their sum.
# The next numbers are **real**: JAXA's HR-LULC v23.12 of all Japan on its 250 m grid, counted by `python -m experiments.japan_counts`. The raster is JAXA's and not part of this book; its counts are.

# %%
import json

import folium
import geopandas as gpd
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
import shapely
from IPython.display import display
from matplotlib.colors import LogNorm
from scipy.spatial import KDTree
from sklearn.ensemble import ExtraTreesClassifier

import sartutorial as st
from sartutorial import profiles, sampling, splits, tutorial

# %%
japan = json.loads(profiles.book_file("results/japan_counts.json").read_text())
squares = np.array(list(japan["tiles"].values()))  # of 1°; ids 0 to 15
japan_counts = np.zeros((len(squares), 256), int)  # as the package counts: by id
japan_counts[:, : squares.shape[1]] = squares
japan_total = japan_counts.sum(axis=0)
present = [c for c in st.HR_LULC.classes if japan_total[c.id]]
ids = [c.id for c in present]
p = japan_total[ids] / japan_total.sum()
print(f"{japan['source']}; {japan['script']}, {japan['date']}")
print(f"{japan['pixels']:,} labelled pixels in {len(japan_counts)} squares of 1°")
rarest = int(p.argmin())
print(
    f"most: {present[p.argmax()].name}, {p.max():.1%}; least: {present[rarest].name}, {p.min():.3%}"
)
assert japan_total.sum() == japan["pixels"]

# %% [markdown]
# So much water is the sea: a tile is a square of 1°, and in tiles that hold land the map calls the sea water too.
#
# ## Two readings of "inverse"
#
# **Paper:** $p_c = N_c / \sum_k N_k$; weights "inversely proportional to distribution of the categories", normalised to sum 1.
# The printed formula is lost in our copy, and the words allow two readings:
#
# $$
# w_c \propto \frac{1}{p_c} \qquad\text{or}\qquad w_c \propto 1 - p_c
# $$ (eq-inverse)
#
# The first is the literal one. The authors' **code** holds nine weights for the *loss*; which class each belongs to is our reading. Of the two only $1 - p$ fits them ([exercise 4](exercise-weights) shows how):

# %%
theirs = np.array([0.11347487, 0.10774269, 0.10684644, 0.11319541, 0.06752731,
                   0.12183155, 0.12457897, 0.12064208, 0.12416070])  # fmt: skip
print(
    *(f"{n:<12} {w}" for n, w in zip(st.HR_LULC.names, theirs, strict=True)), sep="\n"
)

# %% [markdown]
# On real Japan the two readings are far apart:

# %% mystnb={"figure": {"caption": "The class shares of real Japan (JAXA HR-LULC v23.12, 250 m) and the two readings of \"inverse\" on them, on a logarithmic axis.", "name": "fig-inverse"}, "image": {"alt": "For each of fourteen classes three bars on a logarithmic axis: its share of the labelled pixels of Japan, its reciprocal weight and its complement weight. Shares and reciprocal weights span more than three orders of magnitude, in opposite order; the complement weights are nearly equal."}}
weights = {
    kind: st.category_weights(japan_total, kind)
    for kind in ("reciprocal", "complement")
}
x = np.arange(len(present))
bars = {
    "share of pixels p": p,
    "1/p": weights["reciprocal"][ids],
    "1 − p": weights["complement"][ids],
}
fig, ax = plt.subplots(figsize=(11, 4), layout="constrained")
for i, (label, values) in enumerate(bars.items()):
    colour = ["#bbbbbb", "#0072b2", "#e69f00"][i]
    ax.bar(x + 0.27 * (i - 1), values, 0.27, label=label, color=colour)
ax.set_yscale("log")
ax.set_xticks(x, [c.name for c in present], rotation=40, ha="right")
ax.set_ylabel("share or weight")
ax.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
plt.show()
for kind, w in weights.items():
    w = w[ids]
    print(f"{kind}: the largest weight is {w.max() / w.min():,.1f} times the smallest")
assert weights["complement"][ids].max() < 4 * weights["complement"][ids].min()

# %% [markdown]
# ## How many points for which label image, and where
#
# **Paper:** a number of samples for each label image (formula lost), then "sample N number of locations based on category weights".
#
# **Ours:** an image $i$ with $n_{ic}$ pixels of class $c$ gets its share of the weight that lies on it, and within it a class is drawn by the weight that lies on the class:
#
# $$
# \begin{gathered}
# N_i = N\,\frac{S_i}{\sum_j S_j},\quad S_i = \sum_c w_c n_{ic} \\[0.6em]
# P(c\,|\,i) \propto w_c\,n_{ic}
# \end{gathered}
# $$ (eq-draw)
#
# Then a pixel of that class, uniformly, with replacement: points that fall on one patch collapse anyway.
# Together this is one draw of a pixel with probability proportional to its class's weight, taken in two steps.
# With reciprocal weights every class gets the same share of the points.
#
# $N_i$ must be whole: each is rounded down, and the points that are left go to the images that lost most by it.
#
# In code an image is a *tile*, and `counts * weights` is $w_c n_{ic}$:

# %%
tutorial.show_source(sampling.probabilities)

# %% [markdown]
# Two steps of {eq}`eq-draw` can be read otherwise: images by their labelled *area*, and the class by $w_c$ *alone*.
# What each would do to real Japan needs no draw: it follows from the counts.

# %%
w = weights["reciprocal"]
mass, alone = japan_counts * w, (japan_counts > 0) * w
area = japan_counts.sum(axis=1)


def chance(share, within):
    """P(image, class): the share of each image, and what its classes share of it."""
    share, within = share / share.sum(), within / within.sum(axis=1, keepdims=True)
    return share[:, None] * within


joint = {
    "images by weight, pixels by weight (ours)": chance(mass.sum(axis=1), mass),
    "images by weight, class by weight alone": chance(mass.sum(axis=1), alone),
    "images by area, pixels by weight": chance(area, mass),
    "images by area, class by weight alone": chance(area, alone),
}
ours, _, by_area, _ = joint

# %%
assert np.allclose(joint[ours], sampling.probabilities(japan_counts, w))
table = pd.DataFrame(
    {"share of pixels": p} | {name: j.sum(axis=0)[ids] for name, j in joint.items()},
    index=pd.Index([c.name for c in present], name="real Japan, 250 m"),
)
display(table.style.format("{:.2%}"))
assert np.allclose(table[ours], 1 / len(present))

asked, have = 1_000_000 * w[ids[rarest]], japan_total[ids[rarest]]
print(
    f"Were all Japan one image and the class drawn by its weight alone, {present[rarest].name} "
    f"would take {w[ids[rarest]]:.0%} of the points: of a million, {asked:,.0f} points for {have:,} pixels"
)

# %% [markdown]
# Drawing the class by its weight alone applies the weight twice.
# Allocating by area applies it only inside an image. Most of this map is sea: a square of sea gets nearly as many points as one of land, and spends them on water and, again and again, on what little land it holds.

# %% mystnb={"figure": {"caption": "Where a million points would go on real Japan (JAXA HR-LULC v23.12, 250 m; squares of 1\u00b0, logarithmic colour): by weight, and by labelled area.", "name": "fig-squares"}, "image": {"alt": "Two maps of Japan in squares of one degree. By weight the squares with land on the main islands have most points, and squares of open sea hardly any. By area all squares have nearly the same number."}}
corner = [(int(n[4:6]), int(n[7:10])) for n in japan["tiles"]]
fig, axes = plt.subplots(
    1, 2, figsize=(10, 4.2), layout="constrained", sharex=True, sharey=True
)
for ax, name in zip(axes, [ours, by_area], strict=True):
    number = sampling.allocate(joint[name].sum(axis=1), 1_000_000)
    assert number.sum() == 1_000_000
    grid = np.full((26, 32), np.nan)
    for (south, west), n in zip(corner, number, strict=True):
        grid[south - 20, west - 122] = max(n, 1)
    image = ax.imshow(
        grid, origin="lower", extent=(122, 154, 20, 46), norm=LogNorm(100, 50_000)
    )
    ax.set_title(name.split(",")[0])
    ax.set_xlabel("longitude [°]")
axes[0].set_ylabel("latitude [°]")
fig.colorbar(image, label="points", extend="both")
plt.show()

# %% [markdown]
# ## Turn the weight up
#
# The reciprocal of {eq}`eq-inverse` is one of many: weights $w_c \propto p_c^{-k}$ give class $c$ a share of the points proportional to $p_c^{1-k}$.
# At $k = 0$ the points follow the land, at $k = 1$ every class gets the same, at $k = 2$ the weight is applied twice.
# The other reading, $1 - p$, is no power of $p$: each pair of classes would need a $k$ of its own.

# %%
rising = p.argsort()
for kind, of_class in weights.items():
    k = -np.diff(np.log(of_class[ids][rising])) / np.diff(np.log(p[rising]))
    print(f"{kind:<10} k from class to class: {k.min():.4f} to {k.max():.4f}")
    assert np.allclose(k, 1) == (kind == "reciprocal")

# %% [markdown]
# Weights of your own, these too, go into `st.sample_points(tiles, points, weights={id: weight})`; [exercise 1](exercise-exponent) asks for the best exponent and draws with it.

# %% tags=["hide-input"]


def shares_figure(k):
    """Shares of the points on real Japan with weights p^-k."""
    fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    share = p ** (1 - k) / (p ** (1 - k)).sum()
    ax.bar(
        x,
        share,
        color=[np.array(c.rgb) / 255 for c in present],
        edgecolor="0.3",
        linewidth=0.5,
    )
    ax.axhline(1 / len(p), color="0.5", linewidth=0.8, linestyle="--")
    ax.set_xticks(x, [c.name for c in present], rotation=40, ha="right", fontsize=8)
    ax.set_ylim(0, 0.75)
    ax.set_ylabel("share of the points")
    ax.set_title(f"real Japan, $w \\propto p^{{-{k:g}}}$", loc="left", fontsize=10)
    return fig


tutorial.slider(
    [(f"{k:g}", shares_figure(k)) for k in np.linspace(0, 2, 9)],
    "exponent k",
    "Bars of the share of the points that each of fourteen classes of real Japan gets, for the exponent that the slider chooses: at 0 water has most, at 1 all have the same, at 2 solar panels have half.",
)

# %% [markdown]
# Share of the points per class on real Japan (JAXA HR-LULC v23.12, 250 m) for weights $p^{-k}$; dashed, equal shares.
# In a running notebook the next cell takes any exponent. A page without a kernel leaves its result out, and has the exponents above.


# %%
exponent = ipywidgets.FloatSlider(1, min=0, max=2, step=0.05, description="k")
shown = ipywidgets.HTML()


def live(_=None):
    """Draw what the widget says."""
    alt = f"Bars of the share of the points of each class at the exponent {exponent.value:g}."
    picture = tutorial.picture(shares_figure(exponent.value))
    shown.value = f'<img src="{picture}" alt="{alt}">'


exponent.observe(live, "value")
live()
display(ipywidgets.VBox([exponent, shown]))

# %% [markdown]
# ## From points to patches
#
# **Paper:** points are matched to patches by coordinates; several points on one patch collapse into one; patches of nothing but forest are removed, which a forest probability of 0 would also do (`forest=False`).
#
# From here on the world is **simulated**. One call draws the points, matches them with the patches, marks those that hold more than forest, splits all patches, and reports what is left after each stage:

# %%
tutorial.cut()  # the patches of chapter 04, if they are not there yet
work, legend = tutorial.data_dir(), st.HR_LULC
tiles = tutorial.tiles()
report = st.sample(work / "patches", work / "lulc", seed=0)
index = st.read_index(work / "patches", geometry=True)
points = gpd.read_parquet(work / "patches" / "points.parquet")
density = len(points) / len(index)
for stages in (report[:7], report[7:]):
    table = stages.T.style.format("{:.1%}")
    display(table.format("{:,.0f}", subset=pd.IndexSlice["number", :]))

# %% [markdown]
# Read it from left to right; a column of patches says what their pixels are. The tiles are squares of 1° with one island: nearly all sea.
# Points outside the patches are lost. Of the others most fall on a patch that was hit already: there are 20 points a patch here (our default), and so nearly every patch is hit.
# The second table parts the labelled patches by split (below); those of the buffer are not used.

# %%
assert round(density) == 20
counts = st.count_classes(tiles)
drawn = points["category"].value_counts(normalize=True)
print(f"{len(drawn)} classes, shares {drawn.min():.3f} to {drawn.max():.3f}")
assert np.allclose(drawn, 1 / len(drawn), atol=0.015)
some = points.sample(500, random_state=0)
for tile in tiles:
    mine = some[some["tile"] == tile.name]
    with rasterio.open(tile) as dataset:
        there = [
            v[0] for v in dataset.sample(mine[["longitude", "latitude"]].to_numpy())
        ]
    assert there == mine["category"].tolist()  # every point has its class

# %% [markdown]
# ## Class balance, before and after
#
# Simulated world and real Japan in one table. Of real Japan only the points are known, by formula: matching them to patches needs scenes.
#
# One number for the balance is the *effective number of classes*: as many equal classes would be as hard to guess (it is $e$ to the entropy of the shares). Nine equal classes give 9, a single one gives 1.

# %%
names9 = list(legend.names)
formula = legend.merged(joint[ours].sum(axis=0))
balance = pd.DataFrame(
    {
        "real Japan: pixels": legend.merged(japan_total) / japan_total.sum(),
        "real Japan: points, by formula": formula,
        "simulated: pixels of the tiles": report.loc["pixels of the tiles", names9],
        "simulated: points": report.loc["points drawn", names9],
        "simulated: pixels of all patches": report.loc["patches", names9],
        "simulated: pixels of the chosen patches": report.loc[
            "patches labelled", names9
        ],
    },
    index=names9,
).astype(float)
display(balance.style.format("{:.2%}"))


def evenness(share):
    """Effective number of classes: 9 if all are equal, 1 if there is one."""
    share = share[share > 0]
    return np.exp(-(share * np.log(share)).sum())


balance.apply(evenness).round(2).rename("effective number of classes")

# %% [markdown]
# The points are balanced over the fourteen HR-LULC ids, so forest (five ids) and cropland (two) still have more than one share of the nine.
# The *patches* are hardly more balanced than before, for two reasons. A patch that was chosen for its greenhouse is mostly something else; and at 20 points a patch nearly all are chosen.
# Fewer points help against the second only: the choice is sharper, and leaves fewer patches.

# %%
held = np.zeros((len(index), 256), int)
held[:, legend.ids] = index[[f"n_{i}" for i in legend.ids]].to_numpy()
nine = legend.merged(held)
mixed = nine[:, legend.names.index("forest")] < nine.sum(axis=1)  # not fully forest
even = []
for number in (200, 1_000, 5_000, len(points)):
    few = points.sample(number, random_state=0)
    hit = np.unique(sampling.match(few, st.read_index(work / "patches"))[1])
    chosen = hit[mixed[hit]]
    share = nine[chosen].sum(axis=0) / nine[chosen].sum()
    even.append(evenness(share))
    print(
        f"{number / len(index):6.2f} points a patch: {len(chosen):5d} patches, "
        f"{even[-1]:.2f} effective classes of their pixels"
    )

# %%
before = evenness(balance["simulated: pixels of all patches"])
of_points = evenness(balance["simulated: points"])
assert even == sorted(even, reverse=True)  # fewer points, a sharper choice
assert np.isclose(
    even[-1], evenness(balance["simulated: pixels of the chosen patches"])
)
# Still less than half of what the points gained.
assert even[0] - before < (of_points - before) / 2

# %% [markdown]
# ## A split that leaks less
#
# **Paper:** 72,238 / 20,005 / 18,894 patches for training, validation and test, which is 65 / 18 / 17 %. How they were split is not said.
#
# Neighbouring patches share a forest, a town, a beach.
# If one of them is trained on and the other tested on, the test asks for memory, not for understanding {cite:p}`roberts2017cross`.
# **Ours:** whole {term}`spatial blocks <spatial block>` go to one split, dealt so that the class shares agree and blocks of one split lie together; then the patches that are closer than a buffer to another split are taken out.
# Real scenes overlap, so what counts is the distance between footprints, not between block numbers. The call is `st.split_by_block`:

# %%
tutorial.show_source(splits.by_block)

# %% mystnb={"figure": {"caption": "The split by spatial blocks with a buffer of one patch side (simulated scenes; white between them: no patch).", "name": "fig-split"}, "image": {"alt": "Map of patch footprints coloured by split; training, validation and test patches form blocks of several patches, and grey buffer patches lie between them."}}
colours = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73", "buffer": "#bbbbbb"}
fig, ax = plt.subplots(figsize=(6.5, 5.6), layout="constrained")
for split, colour in colours.items():
    rows = index[index.split == split]
    rows.plot(ax=ax, color=colour, edgecolor="white", linewidth=0.3)
ax.legend(
    handles=[
        plt.Rectangle((0, 0), 1, 1, color=c, label=f"{s}: {(index.split == s).sum()}")
        for s, c in colours.items()
    ],
    frameon=False,
    loc="upper left",
    bbox_to_anchor=(1, 1),
)
ax.set_xlabel("longitude [°]")
ax.set_ylabel("latitude [°]")
plt.show()

# %%
ground = index.geometry.to_crs(index.estimate_utm_crs()).to_numpy()
apart = shapely.distance(ground[:, None], ground[None])  # every pair, by brute force
side = (index["size"] * index["spacing"]).mean()


def gap(split):
    """The least distance between patches of two splits, in patch sides."""
    used = np.asarray(split) != "buffer"
    across = (split[:, None] != split[None]) & used[:, None] & used[None]
    return apart[across].min() / side


alternatives = {
    "blocks and buffer": index["split"].to_numpy(),
    "blocks, no buffer": st.split_by_block(index, seed=0, buffer=0),
    "scenes": splits.by_scene(index, seed=0),
    "random": splits.at_random(index, seed=0),
}
for name, split in alternatives.items():
    number = {s: int((split == s).sum()) for s in colours}
    assert sum(number.values()) == len(index)  # every patch is split, pure forest too
    print(f"{name:<18} least distance {gap(split):.2f} patch sides; {number}")
assert gap(alternatives["blocks and buffer"]) > 0.99

# %% [markdown]
# A split serves pretraining too. **Ours:** it sees every patch of the training split, hit by a point or not, and none that is validated or tested on.

# %%
assert (index["pretrain"] == (index["split"] == "train")).all()
for use in ("pretrain", "finetune"):
    number = index.loc[index[use], "split"].value_counts()
    print(f"{use}: {number.to_dict()}")

# %% [markdown]
# ## Wrong on purpose: a random split
#
# The *{term}`leak`* of a split is how much higher the same classifier scores on it than on blocks with a buffer. Take a very simple one: a patch gets the most frequent land cover of the five nearest training patches.
# - *Nearest on the map* never looks at the radar: what it scores above always saying the most frequent class is memory of the place.
# - *Nearest in statistics* sees the mean, the spread and five percentiles of the backscatter, and *statistics and place* sees both.
# - None of these learns. *Trees on both* do: a hundred random decision trees, grown on the same columns until they know every training patch by heart.
#
# The same number of training patches, ten seeds, three splits:

# %%
store = st.Store(work / "patches", index)
db = np.stack([store.sar(i).ravel() for i in range(len(index))])
look = np.column_stack(
    [db.mean(1), db.std(1), np.percentile(db, [5, 25, 50, 75, 95], axis=1).T]
)
look = (look - look.mean(axis=0)) / look.std(axis=0)
centre = shapely.centroid(ground)
place = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
place = (place - place.mean(axis=0)) / place.std(axis=0)
features = {
    "nearest on the map": place,
    "nearest in statistics": look,
    "statistics and place": np.column_stack([look, 2 * place]),
}
classes = nine.argmax(axis=1)


# %%
def score(x, split, train, neighbours=5):
    """Share of test patches whose most frequent class is that of most of their neighbours."""
    test = np.flatnonzero(split == "test")
    near = KDTree(x[train]).query(x[test], k=neighbours)[1]
    votes = np.eye(9)[classes[train][near]].sum(axis=1)
    return (votes.argmax(axis=1) == classes[test]).mean()


def learnt(x, split, train):
    """The same share for trees that learn from the training patches."""
    test = np.flatnonzero(split == "test")
    trees = ExtraTreesClassifier(random_state=0).fit(x[train], classes[train])
    assert trees.score(x[train], classes[train]) == 1  # by heart
    return trees.score(x[test], classes[test])


# %%
runs = []
for seed in range(10):
    blocked = st.split_by_block(index, seed=seed)
    size = (blocked == "train").sum()
    for name, split in {
        "random": splits.at_random(index, seed=seed),
        "blocks": st.split_by_block(index, seed=seed, buffer=0),
        "blocks and buffer": blocked,
    }.items():
        train = np.flatnonzero(split == "train")
        train = np.random.default_rng(seed).permutation(train)[:size]
        most = np.bincount(classes[train]).argmax()
        runs.append((name, seed, "most frequent class",
                     (classes[split == "test"] == most).mean()))  # fmt: skip
        runs += [(name, seed, f, score(v, split, train)) for f, v in features.items()]
        both = np.column_stack([look, place])
        runs.append((name, seed, "trees on both", learnt(both, split, train)))
runs = pd.DataFrame(runs, columns=["split", "seed", "classifier", "accuracy"])
scores = runs.pivot(index=["classifier", "seed"], columns="split", values="accuracy")
leak = (scores["random"] - scores["blocks and buffer"]).groupby("classifier")


# %%
def said(values, form=".3f"):
    """Mean ± standard deviation over the seeds."""
    return f"{values.mean():{form}} ± {values.std():.3f}"


order = ["random", "blocks", "blocks and buffer"]
table = scores.groupby("classifier").agg(said)[order].rename_axis(columns="accuracy")
table["leak: first − last"] = leak.agg(said, "+.3f")
print("mean ± standard deviation over ten seeds")
display(table)
seen = leak.mean() / leak.std()  # in deviations over the seeds
assert seen["nearest on the map"] > 1 > abs(seen["nearest in statistics"])
assert leak.mean()["trees on both"] < leak.mean()["nearest on the map"] / 2
means = scores.groupby("classifier").mean()
above = means.loc["nearest on the map"] - means.loc["most frequent class"]
assert above["random"] > above["blocks"] > 0 > above["blocks and buffer"]

# %% mystnb={"figure": {"caption": "The same classifiers scored on three splits, ten seeds each (simulated world); bars: means.", "name": "fig-leak"}, "image": {"alt": "Dots of accuracy for three splits and five classifiers. The classifier that only knows the place falls far from the random split to blocks with a buffer; the one that only knows backscatter statistics stays where it is; the one that knows both falls a little."}}
fig, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
names = [*features, "trees on both", "most frequent class"]
for i, split in enumerate(order):
    for j, name in enumerate(names):
        y = scores.loc[name, split]
        at = j + 0.25 * (i - 1)
        colour = ["#d55e00", "#56b4e9", "#0072b2"][i]
        label = split if j == 0 else None
        ax.plot(
            at + np.linspace(-0.06, 0.06, len(y)), y, "o", ms=3, color=colour, alpha=0.6
        )
        ax.plot([at - 0.1, at + 0.1], [y.mean()] * 2, color=colour, lw=2.5, label=label)
ax.set_xticks(range(len(names)), names)
ax.set_ylabel("accuracy on the test patches")
ax.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# A classifier that knows nothing but the place looks good on the random split. On blocks with a buffer it is worse than always saying the most frequent class; blocks without a buffer stop only part of it.
#
# Statistics of the backscatter carry no place here, and leak nothing that can be told from chance: the leak belongs to what *can* remember.
# (Each split has other test patches. What that alone does is the leak of the most frequent class, which knows nothing.)
#
# The trees are right on every patch that they were grown on, and could remember places. Here backscatter tells them so much that they hardly need to: compare their leak with its deviation over the seeds.
# A network of millions of parameters can remember as well. How much it does on real scenes, a simulated world cannot tell.
#
# ## On a map

# %% tags=["hide-input"]
world = folium.Map(tiles=None, control_scale=True)
for split, colour in colours.items():
    rows = index[index.split == split][["split", "points", "geometry"]]
    folium.GeoJson(
        rows.set_geometry(rows.geometry.set_precision(1e-5)),
        name=f"patches: {split}",
        tooltip=folium.GeoJsonTooltip(["split", "points"]),
        style_function=lambda _, c=colour: {
            "color": c,
            "weight": 1,
            "fillOpacity": 0.25,
        },
    ).add_to(world)
west, south, east, north = index.total_bounds
inside = points.cx[west:east, south:north]
inside = inside.sample(min(900, len(inside)), random_state=0)
for c in legend.classes:
    rows = inside[inside.category == c.id][["geometry"]]
    if not rows.empty:
        rgb = "#{:02x}{:02x}{:02x}".format(*c.rgb)
        dot = folium.CircleMarker(
            radius=3, weight=0.5, color="#333333", fill_color=rgb, fill_opacity=0.9
        )
        folium.GeoJson(
            rows.set_geometry(rows.geometry.set_precision(1e-5)),
            name=f"points: {c.name}",
            marker=dot,
        ).add_to(world)
folium.LayerControl().add_to(world)
world.fit_bounds([[south, west], [north, east]])
world

# %% [markdown]
# Drawn points in their class's colour, on the footprints by split (simulated world; no base map, so that the page needs no map server). The button in the corner lists the layers.
#
# ## Exercises
#
# Each answer has its check, which knows the usual mistakes. The solutions are folded, and were run.


# %% tags=["hide-input"]
def check(answer, right, slips, near):
    """Say whether an answer is right, or which mistake (what to say: its value) it looks like."""
    known = {f"Right: {right:.3g}.": right, **slips}
    said = min(known, key=lambda text: abs(answer - known[text]))
    no = "No, and none of the usual mistakes either. Read the question again."
    print(said if abs(answer - known[said]) <= near else no)


# %% [markdown]
# (exercise-exponent)=
# **1.** Which exponent $k$ of $p^{-k}$, to a tenth, spreads the points of real Japan over as many *effective* classes of the nine as possible? It is not 1: why? `check_exponent(…)`. Then draw 20,000 points on the simulated tiles with weights $p^{-k}$ of your exponent and their own $p$, and compare with $k = 1$.

# %% tags=["hide-cell"]
exponents = np.linspace(0, 2, 41)
ids_share = np.zeros((len(exponents), 256))
ids_share[:, ids] = p[None] ** (1 - exponents[:, None])
ids_share /= ids_share.sum(axis=1, keepdims=True)
spread = [evenness(share) for share in legend.merged(ids_share)]
best = int(np.argmax(spread))
facts = {"exponent": exponents[best], "spread": spread[best]}


def check_exponent(answer):
    """Say whether the best exponent is right, or which mistake it looks like."""
    slips = {
        "At 1 the fourteen ids are even. The nine are not: five ids become forest.": 1.0,
        "At 0 the points follow the land.": 0.0,
        "At 2 the weight is applied twice.": 2.0,
        "That is how many effective classes; which k gives them?": facts["spread"],
    }
    check(answer, facts["exponent"], slips, near=0.06)


# %% tags=["hide-cell"]
check_exponent(exponents[best])
check_exponent(1)  # a usual slip
print(
    f"k = {exponents[best]:.2f}: {spread[best]:.2f} effective classes; at k = 1, {spread[20]:.2f}"
)
# Equal shares of the fourteen ids give forest five shares and cropland two. More weight on what is
# rare takes from the common forest ids before the rare classes grow too large.
assert spread[best] > spread[20]

pixels = counts.sum(axis=0)
there = np.flatnonzero(pixels)
for k in (1, exponents[best]):
    powers = (pixels[there] / pixels.sum()) ** -k
    own = dict(zip(there.tolist(), powers.tolist(), strict=True))
    mine = st.sample_points(tiles, 20_000, weights=own, geometry=False)
    share = np.bincount(mine["category"], minlength=256) / len(mine)
    formula = powers * pixels[there] / (powers * pixels[there]).sum()
    assert np.allclose(share[there], formula, atol=0.01)
    print(
        f"drawn at k = {k:.2f}: {evenness(legend.merged(share)):.2f} effective classes"
    )
# The best exponent is that of Japan's shares; the island has others.

# %% [markdown]
# **2.** Points are drawn with replacement. Which class runs out of pixels first, and what share of *its* points then falls on a pixel that was drawn before? With a million points: `check_again(…)`.

# %% tags=["hide-cell"]
for number in (10_000, 100_000, 1_000_000):
    many = st.sample_points(tiles, number, seed=0, geometry=False)
    asked = many["category"].value_counts()
    fullest = (asked / pixels[asked.index]).idxmax()
    mine = many[many["category"] == fullest]
    again = mine.duplicated(["longitude", "latitude"]).mean()
    name = next(c.name for c in legend.classes if c.id == fullest)
    print(
        f"{number:>9,} points: {len(mine):,} of them for {pixels[fullest]:,} pixels of {name}, "
        f"{again:.1%} of these on a pixel drawn before"
    )
    # Never more pixels than there are, and no fewer repeats than that makes certain.
    assert again >= 1 - pixels[fullest] / len(mine)
facts["again"] = {"right": again, "of all": again * len(mine) / number}
facts["again"]["certain"] = 1 - pixels[fullest] / len(mine)


def check_again(answer):
    """Say whether the share of repeated points is right, or which mistake it looks like."""
    found = facts["again"]
    slips = {
        "That is its share of all points; divide by the points of this class.": found[
            "of all"
        ],
        "That is the share of points on a pixel of their own.": 1 - found["right"],
        "So many repeat for certain; chance adds more, count them.": found["certain"],
    }
    check(answer, found["right"], slips, near=0.005)


# %% tags=["hide-cell"]
check_again(facts["again"]["right"])
check_again(facts["again"]["of all"])  # a usual slip

# %% [markdown]
# **3.** How wide must the buffer be before the place is worth no more than always saying the most frequent class? Score *nearest on the map* for buffers of 0 to 3 patch sides, five seeds each, and count what each costs. Give the narrowest, in patch sides: `check_buffer(…)`.

# %% tags=["hide-cell"]
leads = []
for buffer in (0, 1, 2, 3):
    accuracy, most, kept = [], [], []
    for seed in range(5):
        split = st.split_by_block(index, seed=seed, buffer=buffer)
        train = np.flatnonzero(split == "train")
        accuracy.append(score(place, split, train))
        common = np.bincount(classes[train]).argmax()
        most.append((classes[split == "test"] == common).mean())
        kept.append((split != "buffer").mean())
    leads.append(np.mean(accuracy) - np.mean(most))
    print(
        f"buffer {buffer}: accuracy {np.mean(accuracy):.2f} ± {np.std(accuracy):.2f}, "
        f"most frequent class {np.mean(most):.2f}, {np.mean(kept):.0%} of the patches kept"
    )
facts["leads"] = leads


def check_buffer(answer):
    """Say whether the narrowest buffer that stops the place is right, or what is wrong with it."""
    enough = [buffer for buffer, lead in enumerate(facts["leads"]) if lead <= 0]
    if answer not in range(len(facts["leads"])):
        print("Answer with 0, 1, 2 or 3: whole patch sides, no metres.")
    elif answer == enough[0]:
        print(f"Right: its lead is {facts['leads'][answer]:+.2f}.")
    elif answer in enough:
        print("That is wide enough, but not the narrowest that is: patches are lost.")
    else:
        print("The place still scores more than the most frequent class.")


# %% tags=["hide-cell"]
check_buffer(next(buffer for buffer, lead in enumerate(leads) if lead <= 0))
check_buffer(3)  # a usual slip
# Below zero the place misleads: the nearest land that is left is of another kind. A wider buffer
# leaves other test patches, so hold the place against the most frequent class, not against itself.

# %% [markdown]
# (exercise-weights)=
# **4.** Which class shares $p$ would give the authors' nine loss weights (`theirs`, above) if $w = (1 - p)/8$, and which if $w \propto 1/p$? One of the two is no land. `check_share(…)` asks for the share of forest in the one that is.


# %% tags=["hide-cell"]
def check_share(answer):
    """Say whether the share of forest is right, or which mistake it looks like."""
    w = theirs[4]
    slips = {
        "That is 1/p, where solar panels would fill a tenth of the land.": (1 / w)
        / (1 / theirs).sum(),
        "That is 8 w, which is 1 - p.": 8 * w,
        "The weights add up to 1, nine times 1 - p to 8: divide by 8, not by 9.": 1
        - 9 * w,
        "That is the weight itself.": w,
    }
    check(answer, 1 - 8 * w, slips, near=0.005)


# %% tags=["hide-cell"]
complement, reciprocal = 1 - 8 * theirs, (1 / theirs) / (1 / theirs).sum()
both = {"if (1 - p) / 8": complement, "if 1 / p": reciprocal}
print(pd.DataFrame(both, index=list(legend.names)).map("{:.1%}".format))
# Both add up to 1. But a tenth of the land under solar panels is no country.
assert abs(complement.sum() - 1) < 1e-4 and reciprocal[6] > 0.09 > complement[6]
check_share(complement[4])
check_share(reciprocal[4])  # a usual slip

# %% [markdown]
# ## Key points
#
# - "Inverse" has two readings; the reciprocal balances the points over the classes up to chance; the complement's weights are nearly equal.
# - Drawing the class by its weight alone applies the weight twice; allocating by area forgets it between images.
# - Patches are less balanced than the points that chose them, since most of a patch is not its point. At 20 points a patch nearly every patch is hit, and little of the balance is left; fewer points choose more sharply.
# - A test patch beside a training patch rewards memory. Whole blocks and a buffer cost patches, and the score that is left means more.
# - Pretraining sees every patch of the training split and none that is validated or tested on. That is **ours**: the paper pretrains on more patches than it labels, and does not say that test patches were kept out.
# - On the command line: `sartutorial sample PATCHES --tiles DIR [--points N] [--split block|scene|random] [--buffer 1] [--seed 0]`; `--inverse complement` is the other reading of the weights, and `sartutorial sample --help` lists all options.
#
# ## References
#
# What a random split of neighbours does is {cite:t}`roberts2017cross`'s; the step is §2.2 of {cite:t}`imamoglu2026tutorial`, the class weights are in its authors' public code. [All references](../book/references).
