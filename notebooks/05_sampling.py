# %% [markdown]
# # Sampling and splits
#
# ```{admonition} This chapter
# **You will** choose patches so that rare classes count, and split them so that the test shares little with the training.
#
# **You need** [chapter 4](04_patches).
#
# **In the paper** §2.2. **Modules** `sampling`, `splits`. **Takes** the patch index and the land-cover tiles. **Makes** the columns `points`, `split`, `finetune` and `pretrain` in the index. What it costs is [measured](../book/costs).
# ```
#
# ## Weights
#
# **Paper:** count the pixels of every class over all tiles, $p_c = N_c / \sum_k N_k$; weights "inversely proportional to distribution of the categories", normalised to sum 1.
# The printed formula is lost in our copy, and the words allow two readings:
#
# $$
# w_c \propto \frac{1}{p_c} \qquad\text{or}\qquad w_c \propto 1 - p_c
# $$ (eq-inverse)
#
# The first is the literal one. The second is the only one that fits the nine *loss* weights in the authors' code.
# They are worlds apart:

# %%
import folium
import matplotlib.pyplot as plt
import numpy as np

from sartutorial import lulc, patches, sampling, splits, workspace

tiles = workspace.tiles()
counts = sampling.count_classes(tiles)
total = counts.sum(axis=0)
weights = {
    kind: sampling.category_weights(total, kind)
    for kind in ("reciprocal", "complement")
}

# %% mystnb={"figure": {"caption": "Two readings of \"inverse\", on the class shares of the simulated tiles (logarithmic axis).", "name": "fig-inverse"}, "image": {"alt": "For each class three bars on a logarithmic axis: its share of the pixels, its reciprocal weight and its complement weight. The reciprocal weights span orders of magnitude, the complement weights are nearly equal."}}
present = [c for c in lulc.CLASSES if total[c.id]]
x = np.arange(len(present))
fig, ax = plt.subplots(figsize=(11, 4), layout="constrained")
for i, (label, values) in enumerate(
    {
        "share of pixels": total / total.sum(),
        "1/p": weights["reciprocal"],
        "1 − p": weights["complement"],
    }.items()
):
    ax.bar(
        x + 0.27 * (i - 1),
        [values[c.id] for c in present],
        0.27,
        label=label,
        color=["#bbbbbb", "#0072b2", "#e69f00"][i],
    )
ax.set_yscale("log")
ax.set_xticks(x, [c.name for c in present], rotation=40, ha="right")
ax.set_ylabel("share or weight")
ax.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## How many points for which tile, and where
#
# **Paper:** a number of samples for each label image (formula lost), then "sample N number of locations based on category weights".
#
# **Ours:** a tile $i$ with $n_{ic}$ pixels of class $c$ gets its share of the weight that lies on it, $S_i = \sum_c w_c n_{ic}$; in it, a class is drawn with $P(c\,|\,i) \propto w_c\, n_{ic}$, and then a pixel of that class, uniformly.
# Together this is one draw of a pixel with probability proportional to its class's weight.
# With reciprocal weights every class receives the same share of the points, and that can be checked:

# %%
points = sampling.draw(tiles, points=20_000, seed=0)
share = points["category"].value_counts(normalize=True).sort_index()
print(share.round(3).to_dict())
assert np.allclose(share, 1 / len(present), atol=0.01)
assert sampling.allocate(counts, weights["reciprocal"], 20_000).sum() == 20_000

# %% [markdown]
# Drawing the *class* by its weight and then a pixel would apply the weight twice, and the rarest classes would take far more than their share:

# %%
twice = weights["reciprocal"][[c.id for c in present]]
rare = int(twice.argmax())
print(
    f"{present[rare].name}: {twice[rare]:.0%} of the points, were the class drawn by its weight alone"
)

# %% [markdown]
# ## From points to patches
#
# **Paper:** points are matched to patches by coordinates; several points on one patch collapse into one; patches of nothing but forest are removed.
# Points outside the patches are lost; how many, the next cell prints.

# %%
folder = workspace.sampled()
index = patches.read_index(folder)
hits = sampling.match(points, index)
print(
    f"{hits.sum()} of {len(points)} points fall on a patch, {np.sum(hits > 0)} patches are hit"
)
print(
    f"in the index: {(index.points > 0).sum()} of {len(index)} patches sampled, {index.finetune.sum()} of them not fully forest"
)

# %% mystnb={"figure": {"caption": "Class shares of the pixels (simulated): all patches against the sampled ones.", "name": "fig-balance"}, "image": {"alt": "For each of the nine classes two bars: its share of the pixels in all patches and in the sampled ones."}}
ids = index[patches.COUNTS].to_numpy()
nine = np.stack(
    [ids[:, [c.id for c in lulc.CLASSES if c.nine == k]].sum(axis=1) for k in range(9)],
    axis=1,
)
fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
for i, (label, rows) in enumerate(
    {"all patches": index.index >= 0, "sampled": index.finetune}.items()
):
    part = nine[np.asarray(rows)].sum(axis=0)
    ax.bar(
        np.arange(9) + 0.4 * (i - 0.5),
        part / part.sum(),
        0.4,
        label=label,
        color=["#bbbbbb", "#0072b2"][i],
    )
ax.set_xticks(range(9), lulc.NAMES)
ax.set_ylabel("share of labelled pixels")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## A split that leaks less
#
# **Paper:** 72,238 / 20,005 / 18,894 patches for training, validation and test, which is 65 / 18 / 17 %. How they were split is not said.
#
# Neighbouring patches share a forest, a town, a beach.
# If one of them is trained on and the other tested on, the test asks for memory, not for understanding {cite:p}`roberts2017cross`.
# **Ours:** whole spatial blocks go to one split, dealt so that the class shares agree.

# %%
workspace.show_source(splits.by_block)

# %% mystnb={"figure": {"caption": "The split by spatial blocks (simulated scenes).", "name": "fig-split"}, "image": {"alt": "Map of patch footprints coloured by split; training, validation and test patches form blocks of several patches."}}
colours = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73"}
fig, ax = plt.subplots(figsize=(6.5, 6), layout="constrained")
for split, colour in colours.items():
    index[index.split == split].plot(
        ax=ax, color=colour, edgecolor="white", linewidth=0.3
    )
ax.legend(
    handles=[plt.Rectangle((0, 0), 1, 1, color=c, label=s) for s, c in colours.items()],
    frameon=False,
)
ax.set_xlabel("longitude [°]")
ax.set_ylabel("latitude [°]")
plt.show()

owner = splits.blocks(index, 4)
assert index.groupby(owner)["split"].nunique().max() == 1  # no block is in two splits
print(index[index.finetune]["split"].value_counts(normalize=True).round(3).to_dict())
assert not index[index.pretrain]["split"].isin(["val", "test"]).any()

# %% [markdown]
# ## Wrong on purpose: a random split
#
# How often does a test patch have a training patch right beside it?

# %%
random = index.assign(
    split=np.random.default_rng(0).choice(splits.SPLITS, len(index), p=splits.SHARES)
)
for name, table in (("blocked", index), ("random", random)):
    metric = table.to_crs(table.estimate_utm_crs())
    test, train = metric[metric.split == "test"], metric[metric.split == "train"]
    touching = test.geometry.apply(lambda g, t=train: t.distance(g).min() < 1)
    print(
        f"{name} split: {touching.mean():.0%} of the test patches touch a training patch"
    )

# %% [markdown]
# ## On a map

# %%
world = folium.Map(tiles=None, control_scale=True)
for split, colour in colours.items():
    rows = index[index.split == split][["patch", "split", "geometry"]]
    folium.GeoJson(
        rows,
        name=f"patches: {split}",
        tooltip=folium.GeoJsonTooltip(["patch", "split"]),
        style_function=lambda _, c=colour: {
            "color": c,
            "weight": 1,
            "fillOpacity": 0.25,
        },
    ).add_to(world)
west, south, east, north = index.total_bounds
inside = points.cx[west:east, south:north].sample(1500, random_state=0)
layer = folium.FeatureGroup(name="points").add_to(world)
for point, category in zip(inside.geometry, inside.category, strict=True):
    rgb = next(c.rgb for c in lulc.CLASSES if c.id == category)
    folium.CircleMarker(
        (point.y, point.x),
        radius=2,
        weight=0,
        fill=True,
        fill_opacity=0.9,
        fill_color="#{:02x}{:02x}{:02x}".format(*rgb),
    ).add_to(layer)
folium.LayerControl(collapsed=False).add_to(world)
world.fit_bounds([[south, west], [north, east]])
world

# %% [markdown]
# Drawn points in their class's colour, on the footprints by split (simulated world; no base map, so that the page needs no map server).
#
# ## Key points
#
# - "Inverse" has two readings; the reciprocal balances the points up to chance; the complement's weights are nearly equal.
# - Collapsing points into patches undoes part of the balance: a patch that was chosen for its greenhouse is mostly something else, and with many points a patch nearly every patch is hit.
# - Pretraining sees no patch that is validated or tested on. That is **ours**: the paper pretrains on more patches than it labels, and does not say that test patches were kept out.
# - On the command line: `sartutorial sample PATCHES --tiles DIR [--points N] [--seed 0]`.
