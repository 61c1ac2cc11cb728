# %% [markdown]
# # Maps
#
# ```{admonition} This chapter
# **You will** slide the model over two whole scenes, blend what overlaps, and lay the map over the radar image in the browser.
#
# **You need** [chapter 7](07_finetuning).
#
# **In the paper** §4, Fig. 4. **Modules** `learn.inference`, `maps`. **Takes** halved scenes and a model. **Makes** Cloud-Optimized GeoTIFFs and a web map. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "A qualitative example of inference over a large region is provided in Figure 4." How windows were laid and joined is not said; what follows is **ours**.
#
# The model sees squares, the scene is large, and at a square's rim the model knows only half of the surroundings.
# So windows overlap by half, and where they do, their class probabilities are averaged with weights that fall towards the rim.

# %%
import matplotlib.pyplot as plt
import numpy as np
import rasterio

import sartutorial as st
from sartutorial import rasters, tutorial
from sartutorial.learn import datasets, evaluation, inference

work = tutorial.data_dir()
scenes = tutorial.halved()[:2]
file = "reference"  # the book's own model (chapter 7)
written = st.predict(scenes, file, work / "maps")
print(*[path.name for path in written], sep="\n")
tutorial.show_source(inference.classify)

# %% [markdown]
# Outside the swath there is nothing to see, so no data counts as the mean backscatter in this version, and the map's rim beside no data is therefore unreliable.
#
# A map is a Cloud-Optimized GeoTIFF on the scene's grid: class index + 1, 0 for no data, with the class colours inside, so that QGIS shows it right, and the names, which `st.read_classes` reads.

# %%
with rasterio.open(written[0]) as found:
    print(found.tags(ns="IMAGE_STRUCTURE"), found.overviews(1))
view, mapped = st.read_db(scenes[0]), st.read_classes(written[0])
legend = mapped.legend  # the model's training classes, as ids 1, 2, 3, ...
print(", ".join(f"{c.id} {c.name}" for c in legend.classes))
assert rasters.same_grid(mapped.grid, view.grid)
assert ((mapped.ids == legend.void) == np.isnan(view.db)).all()

# %% mystnb={"figure": {"caption": "A simulated scene, its labels in nine classes, and the model's map of it.", "name": "fig-map"}, "image": {"alt": "Radar image, label classes and predicted classes of one scene side by side, and a key to the nine colours."}}
labels = tutorial.labelled()
truth = st.read_classes(labels / scenes[0].name)
merged = truth.legend.to_index(truth.ids) + 1  # as maps have it
fig, axes = plt.subplots(
    1, 4, figsize=(12, 3.9), width_ratios=[1, 1, 1, 0.35], layout="constrained"
)
st.show_backscatter(view.db[::3, ::3], axes[0], "σ⁰")
st.show_classes(merged[::3, ::3], axes[1], "labels", legend=legend)
st.show_classes(mapped.ids[::3, ::3], axes[2], "map", legend=legend)
st.show_legend(legend, axes[3])
plt.show()

# %% [markdown]
# ## How good is it?
#
# On all labelled pixels of these scenes, *including those that were trained on*: this describes the map, it does not test the model ([chapter 8](08_evaluation) does).

# %%
confusion = sum(inference.agreement(path, labels / path.name) for path in written)
print(evaluation.scores(confusion, legend.names))

# %% [markdown]
# ## Wrong on purpose: no overlap
#
# Lay the windows side by side instead, and compare the class changes along the seams with those 20 to 60 pixels off.

# %%
model, description = st.load_model(file)
norm = datasets.Normalization(**description["normalization"])
size = description["encoder"]["image_size"]


def whole(step):
    with rasters.opened(scenes[0]) as scene:
        return np.concatenate(
            [band for _, band in inference.classify(scene, model, norm, step=step)]
        )


butted, blended = whole(size), mapped.ids
seams = np.arange(size, butted.shape[1] - size, size)


def changes(image, columns):
    """Share of valid neighbours across these columns that differ in class."""
    left, right = image[:, columns - 1], image[:, columns]
    both = (left > 0) & (right > 0)
    return (left != right)[both].mean()


for name, image in (("side by side", butted), ("blended", blended)):
    elsewhere = np.mean([changes(image, seams + shift) for shift in (20, 40, 60)])
    print(
        f"{name:<13} class changes at the seams {changes(image, seams):.3f}, elsewhere {elsewhere:.3f}"
    )
assert changes(butted, seams) > changes(blended, seams)

# %% [markdown]
# ## In the browser

# %%
st.web_map(
    {
        "backscatter (simulated)": scenes[0],
        "labels (simulated)": labels / scenes[0].name,
        "map": written[0],
    }
)

# %% [markdown]
# Switch the layers on and off at the upper right.
# The map has no base layer, so that the page needs no map server; `st.web_map(..., base=True)` adds OpenStreetMap.
# (There is nothing to see there: the island lies in the open Pacific.)
#
# ## Key points
#
# - Overlap and blend, or the windows show.
# - A model belongs to a pixel spacing, a unit and a polarisation; `predict` refuses a scene that differs and says what to do.
# - On the command line: `sartutorial predict SCENE... --model FILE --out PATH`.
