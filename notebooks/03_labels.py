# %% [markdown]
# # Labels
#
# ```{admonition} This chapter
# **You will** bring land-cover tiles onto a radar scene's own grid, without inventing a single class, and merge fourteen classes into nine.
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
import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from sartutorial import labels, lulc, maps, radiometry, rasters, workspace

scene = workspace.halved()[0]
tiles = workspace.tiles()
with rasters.opened(scene) as sar:
    box = transform_bounds(sar.crs, "EPSG:4326", *sar.bounds)
    needed = lulc.tile_names(*box)
    found = labels.overlapping(sar, tiles)
print("by name:", needed)
print("by bounds:", [path.rsplit("/", 1)[-1] for path in found])

# %% [markdown]
# ## Nearest neighbour, exactly
#
# A class id is a name, not a quantity: the mean of *water* (1) and *paddy field* (3) is not *built-up* (2).
# So ids must be taken from the nearest tile pixel and never interpolated.
# GDAL does that, but by default with an approximate transform, which puts some pixels at class borders into the neighbour's class; the package turns the approximation off.

# %%
workspace.show_source(labels.aligned)

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
    ids[dn == 0] == lulc.VOID
).all()  # nothing is labelled where there is no SAR data

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
window = np.s_[600:1000, 600:1000]
with rasterio.open(path) as tile:
    options = dict(
        crs=grid.crs, transform=grid.transform, width=grid.width, height=grid.height
    )
    with WarpedVRT(
        tile, resampling=Resampling.bilinear, tolerance=1e-9, **options
    ) as vrt:
        smooth = vrt.read(1)[window]
exact = ids[window]
both = (smooth > 0) & (exact > 0)
invented = (smooth != exact) & both
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

# %% [markdown]
# ## Key points
#
# - Ids by exact nearest neighbour onto the scene's grid; void where there is no SAR data.
# - The sea is class 1 inside tiles that hold land and void elsewhere: a seam of the product, not of the coast.
# - On the command line: `sartutorial label SCENE... --tiles DIR --out DIR`; any folder of land-cover rasters will do.
