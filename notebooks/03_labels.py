# %% [markdown]
# # Labels
#
# ```{admonition} This chapter
# **You will** bring land-cover tiles onto a radar scene's own grid, without inventing a single class, find out which tiles are missing, measure what interpolation and forgotten nodata cost, and merge fourteen classes into nine.
#
# **You need** [chapter 2](02_downsampling).
#
# **In the paper** §2.1, second step. **Modules** `labels`, `lulc`. **Takes** halved scenes and land-cover tiles. **Makes** a label raster a scene. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "For each SAR scene, spatially matched with overlapping LULC tiles were merged, re-projected, and resampled to align precisely with the SAR image's resolution and projection. Label rasters were clipped to the SAR coverage area, and regions corresponding to SAR no-data pixels were masked."
#
# The tiles are in degrees, the scenes in UTM metres, and a scene may lie on several tiles.
# Ours does: the simulated island straddles a corner where four tiles meet.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from sartutorial import labels, lulc, maps, radiometry, rasters, workspace

halved = workspace.halved()
scene = halved[len(halved) // 2]  # the one in the middle meets four tiles
tiles = workspace.tiles()
with rasters.opened(scene) as sar:
    box = transform_bounds(sar.crs, "EPSG:4326", *sar.bounds)
    needed = lulc.tile_names(*box)
    found = labels.overlapping(sar, tiles)
print("by name:", needed)
print("by bounds:", [path.rsplit("/", 1)[-1] for path in found])
assert set(needed) == {rasters.name_of(path) for path in found}

# %% [markdown]
# Two ways lead to the tiles: the grid of names, if they are HR-LULC's square degrees, or the bounding boxes of any folder of rasters. The package goes by the boxes, so that other tilings and other names serve as well.
# If tiles leave part of the scene uncovered, the missing ones are *named* and the pixels stay void. It is no error: the open sea has no tiles.

# %%
with rasters.opened(scene) as sar, rasterio.open(found[0]) as one:
    absent = labels.missing(sar, [one])
print("with", rasters.name_of(found[0]), "alone, these are missing:", absent)
assert set(absent) == set(needed) - {rasters.name_of(found[0])}

# %% [markdown]
# ## Nearest neighbour, exactly
#
# A class id is a name, not a quantity: the mean of *water* (1) and *paddy field* (3) is not *built-up* (2).
# So ids must be taken from the nearest tile pixel and never interpolated.
# The nearest tile pixel is the one that holds the centre of the scene's pixel: reproject the centre, round down, look up.
#
# Reprojecting every centre takes long, and nearly all of it is needless: over a few hundred metres the way from UTM to degrees is almost straight.
# So exact points are computed every `STEP` pixels, positions between them are interpolated, and the error of that is bounded by how much the points bend.
# Only a centre so close to the border of two tile pixels that the error could matter is reprojected after all. The ids come out the same.

# %%
workspace.show_source(labels.Lookup.ids)

# %% [markdown]
# GDAL approximates too, but keeps what comes out: an eighth of a pixel may be wrong by default.
# With a tolerance of nearly nothing it reprojects every pixel, and must agree with ours.

# %%
with rasters.opened(scene) as sar:
    grid = rasters.grid_of(sar)
    # Rows across the corner of the tiles
    strip = rasterio.windows.Window(0, grid.height // 2 - 256, grid.width, 512)
    with rasters.opened(found[0], dtype="uint8") as tile:
        ours = labels.Lookup(tile, grid, tile.name).ids(strip)
        by_gdal = {}
        for name, options in {"default": {}, "exact": {"tolerance": 1e-9}}.items():
            with WarpedVRT(tile, **grid._asdict(), **options) as vrt:
                by_gdal[name] = vrt.read(1, window=strip)
for name, theirs in by_gdal.items():
    print(f"GDAL, {name}: {(theirs != ours).sum()} of {ours.size} pixels differ")
assert ours.any() and np.array_equal(by_gdal["exact"], ours)

# %% [markdown]
# ## Label the scenes
#
# One call a scene; the result has the scene's name and grid.

# %%
folder = workspace.labelled()
with (
    rasters.opened(folder / scene.name, dtype="uint8") as source,
    rasters.opened(scene) as sar,
):
    assert rasters.grid_of(source) == rasters.grid_of(
        sar
    )  # same CRS, transform and size
    ids, dn, grid = source.read(1), sar.read(1), rasters.grid_of(sar)
    print(source.tags())
assert (
    ids.any() and (ids[dn == 0] == lulc.VOID).all()
)  # nothing is labelled where there is no SAR data

# %% mystnb={"figure": {"caption": "A simulated scene and its labels on the same grid; the legend holds the HR-LULC classes (colours 13 to 15 are ours).", "name": "fig-labels"}, "image": {"alt": "Left, a simulated radar scene in grey. Middle, the land-cover classes on the same grid: forest inland, fields and towns at the coast, sea around. Right, the legend."}}
fig, axes = plt.subplots(
    1, 3, figsize=(12, 4.6), width_ratios=[5, 5, 2.4], layout="constrained"
)
maps.show_backscatter(axes[0], radiometry.dn_to_db(dn[::3, ::3]), "σ⁰")
maps.show_classes(axes[1], ids[::3, ::3], "labels")
maps.class_legend(axes[2])
plt.show()

# %% [markdown]
# ## Check some pixels by hand
#
# Take a thousand random pixels of the scene, ask where their centres lie in degrees, and read the tiles there.

# %%
rng = np.random.default_rng(0)
rows, cols = np.nonzero(dn)
pick = rng.choice(rows.size, 1000, replace=False)
rows, cols = rows[pick], cols[pick]
x, y = grid.transform * (cols + 0.5, rows + 0.5)
lon, lat = transform(grid.crs, "EPSG:4326", x, y)
by_hand = []
sources = {path.name: rasterio.open(path) for path in tiles}
for point in zip(lon, lat, strict=True):
    tile = sources[lulc.tile_name(*point)]
    by_hand.append(next(tile.sample([point]))[0])
for source in sources.values():
    source.close()
assert np.array_equal(by_hand, ids[rows, cols])
print(
    f"{len(by_hand)} of {pick.size} pixels agree with the tile pixel that holds their centre"
)

# %% [markdown]
# ## Wrong on purpose: bilinear labels

# %%
path = next(p for p in tiles if p.name == lulc.tile_name(lon[0], lat[0]))
with rasterio.open(path) as tile:
    options = dict(
        crs=grid.crs, transform=grid.transform, width=grid.width, height=grid.height
    )
    with WarpedVRT(
        tile, resampling=Resampling.bilinear, tolerance=1e-9, **options
    ) as vrt:
        smooth = vrt.read(1)
both = (smooth > 0) & (ids > 0)
invented = (smooth != ids) & both
print(f"bilinear: {invented.sum() / both.sum():.1%} of the pixels have another class")
values, counts = np.unique(smooth[invented], return_counts=True)
names = {c.id: c.name for c in lulc.CLASSES}
top = counts.argsort()[::-1][:3]
print(
    "most often invented:",
    ", ".join(f"{names[int(values[i])]} ({counts[i]})" for i in top),
)
assert invented.any()

# %% [markdown]
# The invented classes lie along borders, and they are real classes: nothing in the file tells that they are wrong.
#
# ## Wrong on purpose: no data forgotten
#
# Leave the mask out, and ground that the radar did not see gets labels. A model would learn that *nothing* looks like forest, or like sea.

# %%
unmasked = labels._merged(
    [
        labels.Lookup(rasterio.open(path), grid, path.name)
        for path in tiles
        if str(path) in found
    ],
    rasterio.windows.Window(0, 0, grid.width, grid.height),
)
seen = dn != 0
assert np.array_equal(unmasked[seen], ids[seen])  # else nothing differs
false = (unmasked != lulc.VOID) & ~seen
print(
    f"{false.sum()} pixels without radar would be labelled, {false.mean():.1%} of the scene"
)
worst = np.bincount(unmasked[false]).argmax()
print(f"most of them: {names[int(worst)]}")
assert false.any()

# %% [markdown]
# ## From fourteen classes to nine
#
# **Paper:** "the five forest-related classes … were merged into a single 'forest' category, and a similar merging was applied to cropland-related classes."
# The *order* of the nine is not printed; ours follows from the authors' nine class weights.
# Label rasters keep the full ids; the merging happens only when a model is fed, so nothing is lost on disk.

# %%
for c in lulc.CLASSES:
    target = "not trained on" if c.nine < 0 else f"{c.nine} {lulc.NAMES[c.nine]}"
    print(f"{c.id:>3} {c.name:<30} -> {target}")
index = lulc.to_index(ids)
assert set(np.unique(index)) <= set(range(-1, 9))
assert (index == 4).sum() == np.isin(ids, lulc.FOREST_IDS).sum()  # no forest is lost

# %% [markdown]
# The merging is a mapping of its own, `lulc.NINE`, and another can take its place:

# %%
water = lulc.to_index(ids, {1: 1} | dict.fromkeys(range(2, 15), 0))
print(f"water: {(water == 1).sum() / (water >= 0).sum():.1%} of the labelled pixels")
assert (water == 1).sum() == (ids == 1).sum()

# %% [markdown]
# ## Exercises
#
# **1.** Lose a tile: label the scene with all tiles but the one that covers most of it. Which pixels lose their label, and does the file say why?

# %% tags=["hide-cell"]
with tempfile.TemporaryDirectory() as folder:
    shares = {}
    for path in found:
        others = [p for p in found if p != path]
        out = labels.label(scene, others, f"{folder}/{rasters.name_of(path)}")
        with rasterio.open(out) as made:
            fewer, said = made.read(1), made.tags()["MISSING"]
        lost = (fewer == 0) & (ids != 0)
        shares[rasters.name_of(path)] = lost.sum() / (ids != 0).sum()
        assert said == rasters.name_of(path) and np.array_equal(
            fewer[~lost], ids[~lost]
        )
for name, share in shares.items():
    print(f"without {name}: {share:.1%} of the labels are lost, and the file names it")
# Every label comes from one tile: what the tiles hold adds up.
assert abs(sum(shares.values()) - 1) < 1e-9

# %% [markdown]
# **2.** Shift the labels by a single scene pixel, as a mistaken corner (centre or edge of the pixel?) would. What share of the pixels has another class?

# %% tags=["hide-cell"]
for shift in (1, 2, 4):
    a, b = ids[shift:, shift:], ids[:-shift, :-shift]
    both = (a > 0) & (b > 0)
    changed = (a != b)[both].mean()
    print(f"{shift} px: {changed:.1%}")
    assert changed > 0
# A pixel of 5 m is about half a tile pixel: an error that no eye finds spoils the borders of all fields.

# %% [markdown]
# **3.** The paper merges five forests. Keep deciduous and evergreen forests apart instead (bamboo is evergreen): write the mapping, and count both.

# %% tags=["hide-cell"]
ten = lulc.NINE | {6: 4, 7: 4, 8: 9, 9: 9, 11: 9}
forests = lulc.to_index(ids, ten)
deciduous, evergreen = (forests == 4).sum(), (forests == 9).sum()
print(f"deciduous {deciduous}, evergreen {evergreen} pixels")
assert deciduous + evergreen == (index == 4).sum()
assert np.array_equal(forests == 0, index == 0)  # the others are as before

# %% [markdown]
# ## Key points
#
# - Ids by exact nearest neighbour onto the scene's grid; void where there is no SAR data.
# - Interpolated labels and labels without radar look right, and are wrong: nothing in the file tells.
# - Tiles that are missing are named, in the file's tag `MISSING` and on the command line.
# - The sea is class 1 inside tiles that hold land and void elsewhere: a seam of the product, not of the coast.
# - On the command line: `sartutorial label SCENE... --tiles DIR --out DIR`; any folder of land-cover rasters will do.
#
# ## References
#
# The step is §2.1 of {cite:t}`imamoglu2026tutorial`. The classes are those of JAXA's High-Resolution Land Use and Land Cover map of Japan (HR-LULC); the colours that are ours are named in the figure.
