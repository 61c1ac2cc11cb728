# %% [markdown]
# # Maps
#
# ```{admonition} This chapter
# **You will** slide the model over two whole scenes, keep it honest at the edge of the data, ask where it doubts, estimate areas with intervals, join maps and take small patches out, and lay it all over the radar image in the browser.
#
# **You need** [chapter 7](07_finetuning).
#
# **In the paper** §4, Fig. 4. **Modules** `learn.inference`, `learn.reports`, `maps`. **Takes** halved scenes and a model. **Makes** Cloud-Optimized GeoTIFFs and a web map. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "A qualitative example of inference over a large region is provided in Figure 4." How windows were laid and joined is not said; what follows is **ours**.
#
# The model sees squares, the scene is large, and at a square's rim the model knows only half of the surroundings.
# So windows overlap, their outer rim is left out, and where several see a pixel, their class probabilities are averaged with weights that fall towards the rim.

# %%
import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from IPython.display import Markdown, display
from scipy import ndimage

import sartutorial as st
from sartutorial import profiles, rasters, tutorial
from sartutorial.learn import datasets, evaluation, inference, reports

work = tutorial.data_dir()
scenes = tutorial.halved()[:2]
file = "reference"  # the book's own model (chapter 7)
written = st.predict(scenes, file, work / "maps", confidence=True)
print(*[path.name for path in written], sep="\n")

# %% [markdown]
# A map is a GeoTIFF on the scene's grid: class index + 1, 0 for no data. The class colours are inside, so that QGIS and other programs for maps (GIS) show it right, and so are the names, which `st.read_classes` reads.
# It is Cloud-Optimized (COG): cut into tiles, with smaller copies of itself inside, the overviews, so that a program reads only what it shows, from far away too.
#
# It is made strip by strip: memory does not grow with the scene's length, and a run that was killed goes on from its last strip.
# Scenes do not depend on each other: `workers=2` (`--workers 2`) takes two at a time, and `--scheduler ADDRESS` hands them to a dask cluster; where there are several GPUs, each worker takes its own.

# %%
with rasterio.open(written[0]) as found:
    print(found.tags(ns="IMAGE_STRUCTURE"), "overviews, one in", found.overviews(1))
view, mapped = st.read_db(scenes[0]), st.read_classes(written[0])
legend = mapped.legend  # the model's training classes, as ids 1, 2, 3, ...
print(", ".join(f"{c.id} {c.name}" for c in legend.classes))
assert rasters.same_grid(mapped.grid, view.grid)
assert ((mapped.ids == legend.void) == np.isnan(view.db)).all()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A simulated scene, its labels in nine classes, and the model's map of it.", "name": "fig-map"}, "image": {"alt": "Radar image, label classes and predicted classes of one scene side by side, and a key to the nine colours."}}
labels = tutorial.labelled()


def classes_of(scene):
    """The labels of a scene as its map has them: index + 1, 0 for none."""
    truth = st.read_classes(labels / scene.name)
    return truth.legend.to_index(truth.ids) + 1


def show_beside(images, part):
    """Draw classes (name: ids) side by side, a part of each, with its width and a key."""
    fig, axes = plt.subplots(
        1, 4, figsize=(12, 3.9), width_ratios=[1, 1, 1, 0.35], layout="constrained"
    )
    free = axes[3 - len(images) : 3]
    for ax, (name, ids) in zip(free, images.items(), strict=True):
        st.show_classes(ids[part], ax, name, legend=legend)
    width = len(range(*part[1].indices(ids.shape[1]))) * (part[1].step or 1)
    kilometres = width * st.pixel_size(view.grid) / 1000
    free[0].set_title(f"{free[0].get_title()}, {kilometres:.1f} km across")
    st.show_legend(legend, axes[3])
    return fig, axes


merged = classes_of(scenes[0])
fig, axes = show_beside({"labels": merged, "map": mapped.ids}, np.s_[::3, ::3])
image = st.show_backscatter(view.db[::3, ::3], axes[0], "σ⁰")
fig.colorbar(image, ax=axes[0], location="left", shrink=0.6, label="dB")
plt.show()

# %% [markdown]
# ## How good is it?
#
# On all labelled pixels of these scenes, *including those that were trained on*: this describes the map, it does not test the model ([chapter 8](08_evaluation) does). The line *majority* is what a map of nothing but the most frequent class would score.

# %%
confusion = sum(reports.agreement(path, labels / path.name) for path in written)
print(evaluation.scores(confusion, legend.names))

# %% [markdown]
# Are the towns there? A town is a patch of built-up land of at least two hectares in the labels, and it is there if most of its pixels are built-up in the map.

# %%
built = next(c.id for c in legend.classes if c.name == "built-up")
towns, number = ndimage.label(merged == built)
ids = np.arange(1, number + 1)
hectare = 1e4 / st.pixel_size(view.grid) ** 2  # in pixels
size = ndimage.sum_labels(towns > 0, towns, ids)
share = ndimage.mean(mapped.ids == built, towns, ids)[size >= 2 * hectare]
print(f"{(share > 0.5).sum()} of {len(share)} towns are there")
assert (share > 0.5).mean() > 0.5

# %% [markdown]
# ## At the edge of the data
#
# Outside the swath there is nothing to see, and a network must be given *something*.
# `predict` goes on with the mirror image of what lies inside the edge, at the slanted rim of the swath and at the end of the raster alike: the texture stays that of the land, and no new border appears.

# %%
tutorial.show_source(inference.mirrored)

# %% [markdown]
# Is the map as good beside the edge as elsewhere? We measure it by the distance to the nearest pixel without data, for water and for land.

# %%
EDGES = [0, 8, 16, 32, np.inf]


def right_by_distance(image, truth, valid):
    """Share of labelled water and land that is right, by distance to no data in pixels."""
    distance = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    rows = {}
    for name, chosen in (("water", truth == 1), ("land", truth > 1)):
        chosen = chosen & valid
        counts = [
            np.histogram(distance[chosen & which], EDGES)[0]
            for which in (image == truth, True)
        ]
        rows[name] = counts
    return {name: np.array(both) for name, both in rows.items()}


# %%
counts = {"water": 0, "land": 0}
for scene, path in zip(scenes, written, strict=True):
    image = st.read_classes(path).ids
    for name, both in right_by_distance(image, classes_of(scene), image > 0).items():
        counts[name] = counts[name] + both
columns = [f"{a} to {b} px" for a, b in itertools.pairwise(EDGES[:-1])] + ["beyond"]
right = pd.DataFrame(
    {name: both[0] / both[1] for name, both in counts.items()}, index=columns
)
near, far = counts["water"][:, :2].sum(1), counts["water"][:, 2:].sum(1)
assert near[0] / near[1] > far[0] / far[1] - 0.02  # two points
right.T.style.format("{:.3f}").set_caption(
    "Share that is right, by distance to no data"
)

# %% [markdown]
# ## Wrong on purpose: no data forgotten
#
# What if no data simply counts as the mean backscatter, which is 0 after normalisation, an obvious choice? We fill it in by hand, in a part of a scene, and map that.

# %%
model, description = st.load_model(file)
norm = datasets.Normalization(**description["normalization"])
rows = 384
top = (view.grid.height - rows) // 2
dn = st.db_to_dn(view.db[top : top + rows])
valid = dn > 0
dn[~valid] = st.db_to_dn(norm.mean)
grid = rasters.Grid(
    view.grid.crs,
    view.grid.transform @ rasterio.Affine.translation(0, top),
    dn.shape[1],
    rows,
)
with rasters.create(
    work / "forgotten.tif", grid, {"QUANTITY": "sigma0"}, dtype="uint16"
) as out:
    out.write(dn, 1)


# %%
def whole(scene, laid):
    """The map of a scene as an array."""
    with rasters.opened(scene) as sar:
        strips = inference.blended(sar, model, norm, laid)
        return np.concatenate([inference.drawn(strip, 1)[0] for strip in strips])


side = description["encoder"]["image_size"]
forgotten = whole(work / "forgotten.tif", inference.windows(side))
truth, kept = merged[top : top + rows], mapped.ids[top : top + rows]
shares = {}
for name, image in (("forgotten", forgotten), ("mirrored", kept)):
    good, every = right_by_distance(image, truth, valid)["land"]
    shares[name] = good / every
assert shares["forgotten"][0] < shares["mirrored"][0]
pd.DataFrame(shares, index=columns).T.style.format("{:.3f}").set_caption(
    "Land that is right, by distance to no data"
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A part of the swath's edge (simulated) where it matters most: the labels, the map where no data counts as the mean backscatter, and the map where it is mirrored.", "name": "fig-edge"}, "image": {"alt": "Three crops of the same slanted swath edge. In the middle one a band of cropland runs along the edge, over grassland and forest; in the right one the classes run up to the edge as in the labels."}}
small = 128
worse = valid & (truth > 0) & (forgotten != truth) & (kept == truth)
row, column = max(
    itertools.product(*(range(0, n - small + 1, 16) for n in worse.shape)),
    key=lambda at: worse[at[0] : at[0] + small, at[1] : at[1] + small].sum(),
)
three = {"labels": truth, "no data as the mean": forgotten, "no data mirrored": kept}
seen = {name: np.where(valid, image, 0) for name, image in three.items()}
show_beside(seen, np.s_[row : row + small, column : column + small])
plt.show()

# %% [markdown]
# ## Wrong on purpose: no overlap
#
# Lay the windows side by side instead, with no rim left out, and count how often the class changes from one column to the next: at the seams, over 20 to 60 pixels beside them. Where no seam shows, that is 1.

# %%
butted = whole(scenes[0], inference.windows(side, step=side, rim=0))
blended = mapped.ids
seams = np.arange(side, butted.shape[1] - side, side)


def changes(image, columns):
    """Share of valid neighbours across these columns that differ in class."""
    left, right = image[:, columns - 1], image[:, columns]
    both = (left > 0) & (right > 0)
    return (left != right)[both].mean()


def seam(image, at):
    """Class changes at the seams, over those elsewhere: 1 where no seam shows."""
    return changes(image, at) / np.mean(
        [changes(image, at + shift) for shift in (20, 40, 60)]
    )


# %%
# Blended windows begin every half of a side, a rim before it.
laid = inference.windows(side)
starts = np.arange(laid.step, blended.shape[1] - side, laid.step)
print(f"side by side {seam(butted, seams):.2f}, blended {seam(blended, starts):.2f}")
assert seam(butted, seams) > 1.05 >= seam(blended, starts)
for name, image in (("side by side", butted), ("blended", blended)):
    known = (merged > 0) & (image > 0)
    print(f"{name:<13} {(image == merged)[known].mean():.4f} of the pixels are right")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A part of the map (simulated) where the seams show most: windows side by side, whose seams the ticks mark, the same with windows that overlap, and the labels.", "name": "fig-seams"}, "image": {"alt": "Three crops of the same land cover. In the left one patches of classes end in straight lines at the ticks; in the middle one they go on across these places. The labels on the right show smaller fields, and a road that both miss in part."}}
part = side + side // 2  # so that a seam is always inside
differs = (butted != blended) & known
top, left = max(
    itertools.product(*(range(0, n - part, side // 2) for n in differs.shape)),
    key=lambda at: differs[at[0] : at[0] + part, at[1] : at[1] + part].sum(),
)
crop = np.s_[top : top + part, left : left + part]
three = {"side by side": butted, "blended": blended, "labels": merged}
fig, axes = show_beside(three, crop)
axes[0].set_axis_on()
for axis, start in ((axes[0].xaxis, left), (axes[0].yaxis, top)):
    axis.set_ticks(np.arange(-start % side, part, side) - 0.5, labels=[])
plt.show()

# %% [markdown]
# ## Where does it doubt?
#
# With `confidence=True` (`--confidence`), a second file lies beside the map. Its bands say what they are; outside the training range is what lies more than three standard deviations off the training's mean.

# %%
doubts = written[0].with_suffix(".confidence.tif")
with rasterio.open(doubts) as found:
    print(*found.descriptions, f"no data: {found.nodata:.0f}", sep="\n")
    confidence, margin, validity = found.read()
codes, number = np.unique(validity[validity < 255], return_counts=True)
print(dict(zip(codes.tolist(), (number / number.sum()).round(4).tolist(), strict=True)))

# %% [markdown]
# Is a confidence of 80 % right in 80 % of the cases? We sort the pixels by confidence into steps of ten percent, and compare. The expected calibration error is the mean distance between the two, weighted by pixels.
# Again, some of these pixels were trained on: on new land the two will lie further apart.

# %%
known = (merged > 0) & (mapped.ids > 0)
steps = np.clip(confidence[known] // 10, 0, 9)
hits, number = (
    np.bincount(steps, weights=w, minlength=10)
    for w in ((mapped.ids == merged)[known], np.ones(known.sum()))
)
said = np.bincount(steps, weights=confidence[known] / 100, minlength=10)
there = number > 0
error = np.abs(hits - said).sum() / number.sum()
print(f"expected calibration error {error:.3f}")
pd.DataFrame(
    {
        "pixels": number[there] / number.sum(),
        "confidence": (said / np.maximum(number, 1))[there],
        "right": (hits / np.maximum(number, 1))[there],
    },
    index=[f"{10 * i} to {10 * i + 10} %" for i in np.flatnonzero(there)],
).style.format("{:.3f}")

# %% [markdown]
# Training asks a network to be right, not to be as sure as it is right. What `finetune` adds to mend that is **ours**, after {cite:t}`guo2017calibration`: it divides the logits by one number, the temperature, at which the cross-entropy of the *validation* patches is least. The order of the classes stays what it was.
# On the test blocks, which neither training nor temperature has seen:

# %%
model, about = st.load_model(file)
rows = datasets.selected(tutorial.sampled(), "finetune", "test")
norm = datasets.Normalization(**about["normalization"])
committed = about["scores"]
for name, temperature in (("as trained", 1.0), ("calibrated", about["temperature"])):
    model.temperature = temperature
    test = evaluation.scored(model, tutorial.sampled(), rows, norm, legend.names)
    print(
        f"{name}: temperature {temperature:.2f}, "
        f"calibration error {test['ece']:.4f}, mIoU {test['miou']:.4f}"
    )
    # The scores in the model's file, on whatever machine this runs.
    assert abs(test["ece"] - committed["ece"][name]) < 1e-3
    assert abs(test["miou"] - committed["miou"]) < 1e-3

# %% [markdown]
# And the map? On the same pixels, those of the test patches in the two scenes, it should be no worse than patch by patch: its windows see beyond a patch's rim, and several see each pixel.

# %%
inside = rows[rows["scene"].isin([scene.stem for scene in scenes])]
alone = evaluation.scored(model, tutorial.sampled(), inside, norm, legend.names)
both = {
    scene.stem: (st.read_classes(path).ids, classes_of(scene))
    for scene, path in zip(scenes, written, strict=True)
}
hits = []
for one in inside.itertuples():
    part = np.s_[one.row : one.row + one.size, one.col : one.col + one.size]
    image, labelled = (array[part] for array in both[one.scene])
    hits.append((image == labelled)[labelled > 0])
in_map = np.concatenate(hits).mean()
print(f"{len(inside)} patches: {alone['accuracy']:.4f} right, in the map {in_map:.4f}")
assert in_map >= alone["accuracy"]

# %% [markdown]
# And the time? Most of it is the network's. `st.predict` is quicker than a plain loop that reads, predicts and writes a window at a time. Two libraries are made for this, and they leave no rim out, so they lay fewer windows. Than TorchGeo's grid sampler it is **no quicker** on a small scene and a little quicker on one four times as large; tiler, which holds the whole scene in memory, is quicker than it on both. `benchmarks/results/inference.json` in the repository has the times of all.
#
# ## How large is each class?
#
# Counting the map's pixels gives areas with the map's errors in them. The recommended way is a sample, drawn class by class of the map, whose true classes somebody looks up; here the labels tell.
#
# The estimator and its interval, *low* to *high*, are those of the good-practice paper {cite:p}`olofsson2014good`. The interval is an approximation for large samples.
# The exact one beside it is **ours**: Clopper and Pearson's interval of a share, which follows from counting alone, for each class of the map, added up.

# %%
rng = np.random.default_rng(0)
found, true = mapped.ids[known], merged[known]
k = len(legend.names)
sample = np.zeros((k, k), int)
for c in range(1, k + 1):
    at = np.flatnonzero(found == c)
    at = rng.choice(at, min(100, len(at)), replace=False)
    sample[c - 1] = np.bincount(true[at] - 1, minlength=k)
pixels = np.bincount(found, minlength=k + 1)[1:]
table = st.estimate_areas(sample, pixels, legend.names, pixel=1 / hectare)
table.insert(2, "true", np.bincount(true, minlength=k + 1)[1:] / hectare)
outside = (table["true"] < table["low"]) | (table["true"] > table["high"])
print(f"true area outside of low to high: {', '.join(table.index[outside]) or 'none'}")
table.iloc[:, 1:8].style.format("{:.1f}").set_caption(
    f"Areas in hectares, from {sample.sum()} pixels"
)

# %% [markdown]
# How far may one trust the intervals? The simulator knows the truth, so we can count: `python -m experiments.area_coverage` draws a thousand such samples of the maps of both scenes and looks how often each interval holds the true area. It should be 95 %.

# %%
coverage = json.loads(profiles.book_file("results/area_coverage.json").read_text())
held = pd.DataFrame(
    {
        (f"{size} pixels a class", kind): {
            name: one["held"] for name, one in of.items()
        }
        for size, kinds in coverage["by_pixels_a_class"].items()
        for kind, of in kinds.items()
    }
)
exact = held.xs("exact", axis=1, level=1)
normal = held.xs("normal", axis=1, level=1)
print(
    f"of {coverage['samples']} samples, at worst: normal {normal.min().min():.2f}, exact {exact.min().min():.2f}"
)
assert exact.min().min() >= 0.95 - 0.02 and normal.min().min() < 0.9
held.style.format("{:.2f}")

# %% [markdown]
# With small samples the normal interval misses the true area of some classes far more often than it says: where a few pixels of a rare class hide among those of a large one, a sample that meets none of them takes them for impossible.
# The exact one keeps its word and more: it is wider than it need be, for rare classes many times their area. A larger sample helps both.
#
# ## One map of a region
#
# `st.mosaic` joins the maps of many scenes, on the grid of the first. Where two show a pixel, the surer one counts, or with `overlap="newest"` that of the later scene. The paper shows such a map and says no rule; this one is **ours**. Joined by confidence, the region has its doubts beside it, of the pixels that it took.

# %%
region = st.mosaic(written, work / "region.tif")
with rasterio.open(region) as joined:
    print(joined.height, "x", joined.width, "pixels of", joined.tags()["SCENE"])
    print("smallest patch:", joined.tags()["MIN_AREA"])
print("beside it:", region.with_suffix(".confidence.tif").name)

# %% [markdown]
# The tag says the smallest patch as well, which here is none. Users often ask for one, the minimum mapping unit: with `min_area`, in hectares, a patch that is smaller joins its largest neighbour. What does that do to a map of one scene, whose truth we know?

# %%
UNIT = 0.5  # hectares
smooth = st.mosaic(written[:1], work / "smooth.tif", min_area=UNIT)
with rasterio.open(smooth) as joined:
    assert joined.tags()["MIN_AREA"] == f"{UNIT} ha"
large = st.read_classes(smooth).ids
areas, views = {}, {"map": mapped.ids, "map, sieved": large, "labels": merged}
for name, image in views.items():
    patches = [ndimage.label(image == c.id)[0] for c in legend.classes]
    sizes = np.concatenate([np.bincount(one.ravel())[1:] for one in patches])
    right = (image == merged)[known].mean()
    areas[name] = np.bincount(image[known], minlength=k + 1)[1:] / hectare
    print(
        f"{name:<12} {right:.4f} right, {len(sizes)} patches, "
        f"{(sizes < UNIT * hectare).sum()} of them below {UNIT} ha"
    )
pd.DataFrame(areas, index=legend.names).style.format("{:.1f}").set_caption("Hectares")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The part of the map that a smallest patch of half a hectare changes most (simulated): as predicted, sieved, and the labels.", "name": "fig-smallest"}, "image": {"alt": "Three crops of the same land cover. In the left one small specks of many classes lie between the fields; the middle one shows large plain patches alone, and half of a thin river is gone; the labels on the right hold the river and many small fields."}}
tops, lefts = (range(0, n - 250, 125) for n in large.shape)
changed = (large != mapped.ids) & known
top, left = max(
    itertools.product(tops, lefts),
    key=lambda at: changed[at[0] : at[0] + 250, at[1] : at[1] + 250].sum(),
)
show_beside(views, np.s_[top : top + 250, left : left + 250])
plt.show()
lost = 1 - areas["map, sieved"] / areas["map"]
worst = int(np.argmax(lost))
print(f"{legend.names[worst]} loses {lost[worst]:.0%} of its area")
off = {name: np.abs(areas[name] - areas["labels"]) for name in ("map", "map, sieved")}
further = (off["map, sieved"] > off["map"]).sum()
print(f"{further} of {k} areas are further from the true ones than before")
assert further > k / 2

# %% [markdown]
# The map is calmer, and most of its areas are worse: a class of small patches loses to those around it, a thin river breaks where the map had gaps in it, and the labels themselves hold many patches below the unit. So areas are estimated on the map as it was predicted, and the sieve comes last. What it leaves of the small ones are those that no data or nothing but other small ones surround.
#
# ## Its papers
#
# A map travels without the notebook that made it. `st.describe_map` lays two files beside it: an item of STAC, the catalogue standard that GIS programs and archives search, with the model, its seed, versions and licence; and a card of one page for people. Where the authors' weights were used, both hold the sentence that these ask for, and so do the map's own tags. `st.describe_map` does the same for a region, with the span of its scenes' dates.

# %%
papers = st.describe_map(written[0], file, labels=labels / scenes[0].name)
said = json.loads(papers.read_text())["properties"]
print(papers.name, "|", said["datetime"], "|", said["sar:product_type"])
display(Markdown(written[0].with_suffix(".md").read_text().partition("\n")[2]))

# %% [markdown]
# ## In the browser

# %%
st.web_map(
    {
        "backscatter (simulated)": scenes[0],
        "confidence": doubts,
        "errors (white)": (written[0], labels / scenes[0].name),
        "labels (simulated)": labels / scenes[0].name,
        "map": written[0],
    }
)

# %% [markdown]
# Each layer can be switched off and made transparent; the swipe takes the uppermost one, the map, off from the right, and the labels show. With both switched off, the errors lie on the confidence.
# The map has no base layer, so that the page needs no map server; `st.web_map(..., base=True)` adds OpenStreetMap.
# (There is nothing to see there: the island lies in the open Pacific.)
#
# ## Exercises
#
# Each answer has its check, which knows the usual mistakes. The solutions are folded, and were run.


# %% tags=["hide-input"]
def check(answer, right, slips, near):
    """Say whether an answer is right, or which mistake (what to say: its value) it looks like."""
    known = {f"Right: {right:,.4g}.": right, **slips}
    said = min(known, key=lambda text: abs(answer - known[text]))
    no = "No, and none of the usual mistakes either. Read the question again."
    print(said if abs(answer - known[said]) <= near else no)


# %% [markdown]
# **1.** Take all patches under 25 pixels out of the map by hand, with `rasterio.features.sieve`. What does it do to the accuracy, and how many patches of one class are left: `check_sieve(…)`? Pixels that only touch at a corner are two patches.

# %% tags=["hide-cell"]
from rasterio import features


def count_patches(image):
    """How many patches of one class an image holds."""
    return sum(ndimage.label(image == c.id)[1] for c in legend.classes)


sieved = features.sieve(mapped.ids, size=25, mask=mapped.ids > 0)
facts = {"left": count_patches(sieved), "before": count_patches(mapped.ids)}
facts |= {"joined": ndimage.label(sieved > 0)[1]}
facts |= {"unmasked": count_patches(features.sieve(mapped.ids, size=25))}
corners = np.ones((3, 3))
facts["corners"] = sum(
    ndimage.label(sieved == c.id, corners)[1] for c in legend.classes
)


def check_sieve(answer):
    """Say whether the number of patches is right, or which mistake it looks like."""
    slips = {
        "Those are the patches before the sieve.": facts["before"],
        "Those are the ones that the sieve took.": facts["before"] - facts["left"],
        "You joined neighbours of different classes: label class by class.": facts[
            "joined"
        ],
        "No data was sieved as a class: mask=mapped.ids > 0.": facts["unmasked"],
        "You joined pixels that only touch at a corner.": facts["corners"],
    }
    check(answer, facts["left"], slips, near=0)


# %% tags=["hide-cell"]
check_sieve(count_patches(sieved))
check_sieve(facts["joined"])  # a usual slip
for name, image in (("as it is", mapped.ids), ("sieved", sieved)):
    right = (image == merged)[known].mean()
    print(f"{name:<9} {right:.4f} right, {count_patches(image)} patches")
assert (sieved > 0).sum() == (mapped.ids > 0).sum()

# %% [markdown]
# **2.** Leave out what the model doubts. Which confidence must a pixel have so that 95 % of those kept are right, and how much of the scene is that? `check_confidence(…)` wants the percent, in steps of five.

# %% tags=["hide-cell"]
for least in range(0, 100, 5):
    kept = known & (confidence >= least)
    accuracy = (mapped.ids == merged)[kept].mean()
    if accuracy >= 0.95:
        break
facts |= {"least": least, "share": 100 * kept.sum() / known.sum()}
for start in range(0, 100, 5):  # the slip: only the pixels of that step
    those = known & (confidence >= start) & (confidence < start + 5)
    if those.any() and (mapped.ids == merged)[those].mean() >= 0.95:
        break
facts["alone"] = start


def check_confidence(answer):
    """Say whether the least confidence [%] is right, or which mistake it looks like."""
    slips = {
        "In percent: the layer holds 0 to 100.": facts["least"] / 100,
        "A pixel of 95 % confidence is not right in 95 % of cases; count.": 95,
        "That is how much of the scene is kept; from which confidence on?": facts[
            "share"
        ],
        "There alone; count all pixels from a confidence on together.": facts["alone"],
    }
    check(answer, facts["least"], slips, near=2)


# %% tags=["hide-cell"]
check_confidence(least)
check_confidence(95)  # a usual slip
print(
    f"from {least} % on: {accuracy:.3f} right, {kept.sum() / known.sum():.2f} of the pixels"
)
assert (mapped.ids == merged)[known & (confidence < 50)].mean() < accuracy

# %% [markdown]
# **3.** Draw the same number of pixels, `sample.sum()`, at random from the whole map instead of class by class. How many of them do you expect to be solar panels in the map: `check_expected(…)`? Draw them, and say how well the sample tells that class's *users' accuracy*: of what the map calls so, the share that is so.

# %% tags=["hide-cell"]
rare = legend.names.index("solar panel")
area = {"map": pixels[rare], "truth": (true == rare + 1).sum(), "all": pixels.sum()}
facts |= {"drawn": sample.sum(), "each": sample[rare].sum()}
facts |= {name: facts["drawn"] * area[name] / area["all"] for name in ("map", "truth")}
facts["percent"] = 100 * area["map"] / area["all"]


def check_expected(answer):
    """Say whether the expected number is right, or which mistake it looks like."""
    slips = {
        "That is the sample by class; draw from all pixels of the map.": facts["each"],
        "That is a percentage; how many of those drawn is that?": facts["percent"],
        "Those are the panels of the labels; the map's are asked.": facts["truth"],
    }
    check(answer, facts["map"], slips, near=0.35)


# %% tags=["hide-cell"]
check_expected(sample.sum() * pixels[rare] / pixels.sum())
check_expected(100)  # a usual slip
at = rng.choice(len(found), sample.sum(), replace=False)
plain = np.bincount((found[at] - 1) * k + true[at] - 1, minlength=k * k).reshape(k, k)
print(f"solar panels: {plain[rare].sum()} at random, {sample[rare].sum()} by class")
assert plain[rare].sum() < sample[rare].sum()
if plain.sum(1).min() >= 2:  # else the estimator refuses
    other = st.estimate_areas(plain, pixels, legend.names, pixel=1 / hectare)
    for name, t in (("at random", other), ("by class", table)):
        right, spread = t.loc["solar panel", ["user", "user_se"]]
        print(f"{name:<9} users' accuracy {right:.2f}, standard error {spread:.2f}")

# %% [markdown]
# ## Key points
#
# - Overlap, leave out the rim and blend, or the windows show.
# - What a network sees beside the edge of the data is your choice: mirror, and the edge is no other place.
# - Pixels counted are not an area; a sample by class is, with an interval, and small samples promise too much.
# - A model belongs to a pixel spacing, a unit and a polarisation; `predict` refuses a scene that differs and says what to do.
# - A smallest patch is for the eye: estimate areas before you take the small ones out.
# - On the command line: `sartutorial predict SCENE... --model FILE --out PATH [--confidence] [--workers 1] [--scheduler ADDRESS]`, `sartutorial mosaic MAP... --out FILE [--overlap confidence] [--min-area 0.0]`.
#
# ## References
#
# Fig. 4 is that of {cite:t}`imamoglu2026tutorial`; areas are estimated as {cite:t}`olofsson2014good` recommend.
