# %% [markdown]
# # Maps
#
# ```{admonition} This chapter
# **You will** slide the model over two whole scenes, blend what overlaps, and lay the map over the radar image in the browser.
#
# **You need** [chapter 7](07_finetuning).
#
# **In the paper** §4, Fig. 4. **Modules** `inference`, `maps`. **Takes** halved scenes and a model. **Makes** Cloud-Optimized GeoTIFFs and a web map. What it costs is [measured](../book/costs).
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

from sartutorial import (
    datasets,
    evaluation,
    inference,
    lulc,
    maps,
    radiometry,
    rasters,
    segmentation,
    workspace,
)
from sartutorial.profiles import data_dir

scenes = workspace.halved()[:2]
file = workspace.model()
written = inference.predict(scenes, file, data_dir() / "maps")
print(*[path.name for path in written], sep="\n")
workspace.show_source(inference.classify)

# %% [markdown]
# A map is a Cloud-Optimized GeoTIFF on the scene's grid: class index + 1, 0 for no data, with the class colours inside, so that QGIS shows it right.

# %%
with rasterio.open(written[0]) as found, rasterio.open(scenes[0]) as scene:
    assert rasters.grid_of(found) == rasters.grid_of(scene)
    classes, dn = found.read(1), scene.read(1)
    print(found.tags(ns="IMAGE_STRUCTURE"), found.overviews(1), found.tags()["CLASSES"])
assert ((classes == lulc.VOID) == (dn == 0)).all()

# %% mystnb={"figure": {"caption": "A simulated scene, its labels in nine classes, and the model's map of it.", "name": "fig-map"}, "image": {"alt": "Radar image, true classes and predicted classes of one scene side by side; the map follows coast, forest, fields and towns."}}
with rasterio.open(workspace.labelled() / scenes[0].name) as source:
    truth = lulc.to_index(source.read(1)) + 1
fig, axes = plt.subplots(
    1, 4, figsize=(12, 3.9), width_ratios=[1, 1, 1, 0.35], layout="constrained"
)
maps.show_backscatter(axes[0], radiometry.dn_to_db(dn[::3, ::3]), "σ⁰")
maps.show_classes(axes[1], truth[::3, ::3], "labels", training=True)
maps.show_classes(axes[2], classes[::3, ::3], "map", training=True)
maps.class_legend(axes[3], training=True)
plt.show()

# %% [markdown]
# ## How good is it?
#
# On all labelled pixels of these scenes, *including those that were trained on*: this describes the map, it does not test the model ([chapter 8](08_evaluation) does).

# %%
folder = workspace.labelled()
confusion = sum(inference.agreement(path, folder / path.name) for path in written)
print(evaluation.table(evaluation.scores(confusion)))

# %% [markdown]
# ## Wrong on purpose: no overlap
#
# Lay the windows side by side instead, and compare the class changes along the seams with those 20 to 60 pixels off.

# %%
model, description = segmentation.from_file(file)
norm = datasets.Normalization(**description["normalization"])
size = description["encoder"]["image_size"]


def whole(step):
    with rasters.opened(scenes[0]) as scene:
        return np.concatenate(
            [band for _, band in inference.classify(scene, model, norm, step=step)]
        )


butted, blended = whole(size), classes
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
maps.web_map(
    {
        "backscatter (simulated)": scenes[0],
        "labels (simulated)": folder / scenes[0].name,
        "map": written[0],
    }
)

# %% [markdown]
# Switch the layers on and off at the upper right.
# The map has no base layer, so that the page needs no map server; `maps.web_map(..., base=True)` adds OpenStreetMap.
# (There is nothing to see there: the island lies in the open Pacific.)
#
# ## Key points
#
# - Overlap and blend, or the windows show.
# - A model belongs to a pixel spacing and a unit; `predict` refuses a scene that differs and says what to do.
# - On the command line: `sartutorial predict SCENE... --model FILE --out PATH`.
