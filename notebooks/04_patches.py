# %% [markdown]
# # Patches
#
# ```{admonition} This chapter
# **You will** cut scenes and labels into georeferenced pairs in decibels, and read the index that describes them.
#
# **You need** [chapter 3](03_labels).
#
# **In the paper** §2.1, third step. **Module** `patches`. **Takes** halved scenes and label rasters. **Makes** GeoTIFF pairs and a GeoParquet index. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "non-overlapping and fixed-size patches (256 × 256 pixels) … patches containing no-data regions were excluded. SAR intensity values were also converted to the decibel (dB) scale."
#
# The laptop profile cuts smaller patches, so that a small network can learn from them in minutes; the size is one number of the profile.

# %%
import matplotlib.pyplot as plt
import numpy as np
import rasterio

from sartutorial import lulc, maps, patches, radiometry, workspace
from sartutorial.profiles import current

folder = workspace.cut()
index = patches.read_index(folder)
print(f"profile {current().name}: {len(index)} patches of {current().patch_size} px")
index.drop(columns=["quantity", "max_void"]).head()

# %% [markdown]
# One row a patch: its file, its scene, where it was cut, the number of label pixels of each HR-LULC id (`n_0` is void), and its footprint in degrees.
# The file name ends in the row and column at which the patch starts.
# The authors' names end in two offsets as well; which of them comes first they do not say.
#
# ## A patch keeps its place
#
# A patch is a raster like any other: it opens in QGIS where it belongs.

# %%
row = index.iloc[len(index) // 2]
scene = next(path for path in workspace.halved() if path.stem == row.scene)
with rasterio.open(folder / "sar" / row.patch) as patch, rasterio.open(scene) as whole:
    assert patch.crs == whole.crs and patch.res == whole.res
    corner = whole.transform * (row.col, row.row)
    assert (patch.transform.c, patch.transform.f) == corner
    db = patch.read(1)
    window = rasterio.windows.Window(row.col, row.row, row["size"], row["size"])
    np.testing.assert_array_equal(db, radiometry.dn_to_db(whole.read(1, window=window)))
    print(patch.tags())

# %% mystnb={"figure": {"caption": "Four pairs of simulated patches: backscatter above, classes below.", "name": "fig-pairs"}, "image": {"alt": "Four radar patches in grey above and their land-cover classes in colour below: coast, fields, town and forest."}}
ids = index[patches.COUNTS].to_numpy()[:, 1:]
varied = np.argsort(-(ids > 200).sum(axis=1))[:40:10]  # patches that hold many classes
fig, axes = plt.subplots(2, 4, figsize=(12, 6.2), layout="constrained")
for (above, below), name in zip(axes.T, index.patch.iloc[varied], strict=True):
    with (
        rasterio.open(folder / "sar" / name) as sar,
        rasterio.open(folder / "label" / name) as lab,
    ):
        maps.show_backscatter(above, sar.read(1))
        maps.show_classes(below, lab.read(1))
plt.show()

# %% [markdown]
# ## What is left out
#
# Patches that touch no-data are gone: at the swath's edges, and where a scene is no multiple of the patch size.
# Put back where they came from, the others do not overlap.

# %% mystnb={"figure": {"caption": "Footprints of the patches of one simulated scene, on the scene.", "name": "fig-footprints"}, "image": {"alt": "A simulated radar scene with a grid of square patch outlines that stay clear of the swath's slanted edges."}}
chosen = index[index.scene == row.scene]
with rasterio.open(scene) as whole:
    dn, extent = whole.read(1), whole.bounds
covered = np.zeros_like(dn)
for r, c in zip(chosen.row, chosen.col, strict=True):
    covered[r : r + row["size"], c : c + row["size"]] += 1
assert covered.max() == 1 and (dn[covered == 1] != 0).all()
print(
    f"{(covered == 1).sum() / (dn != 0).sum():.0%} of the valid pixels lie in a patch"
)

fig, ax = plt.subplots(figsize=(6, 6), layout="constrained")
maps.show_backscatter(ax, radiometry.dn_to_db(dn[::3, ::3]))
for r, c in zip(chosen.row, chosen.col, strict=True):
    side = row["size"] / 3
    ax.add_patch(
        plt.Rectangle((c / 3, r / 3), side, side, fill=False, color="tab:orange")
    )
plt.show()

# %% [markdown]
# ## Wrong on purpose: nodata forgotten
#
# Calibrate the no-data pixels as if they were numbers, and the statistics that normalise every input go astray.

# %%
right = radiometry.dn_to_db(dn)
wrong = np.maximum(radiometry.to_db(dn.astype(float) ** 2 + 1e-9) - 83, -83)
print(f"mean {np.nanmean(right):.2f} dB, std {np.nanstd(right):.2f} dB")
print(
    f"with no-data taken for -83 dB: mean {wrong.mean():.2f} dB, std {wrong.std():.2f} dB"
)
assert wrong.std() > 2 * np.nanstd(right)

# %% [markdown]
# ## Fully-forest patches
#
# The paper removes them later, when it samples; the counts in the index say how many there are.

# %%
forest = index[[f"n_{i}" for i in lulc.FOREST_IDS]].sum(axis=1)
labelled = ids.sum(axis=1)
print(f"{(forest == labelled).sum()} of {len(index)} patches are nothing but forest")

# %% [markdown]
# ## Key points
#
# - Float32 decibels, georeferenced, without no-data; ids beside them, cut without resampling.
# - The index answers questions about the set without opening a patch.
# - On the command line: `sartutorial patches SCENE... --labels DIR --out DIR [--size 256] [--max-void 0.0]`. The tolerance for unlabelled pixels is ours: with sparse labels, patches without void hardly exist.
