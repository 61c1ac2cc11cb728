# %% [markdown]
# # Labels
#
# ```{admonition} This chapter
# **You will** bring land-cover tiles onto a radar scene's own grid, without inventing a single class, find out which tiles are missing, measure what interpolation, a shift of a pixel and forgotten nodata cost, and merge the classes into the nine that the paper trains on, or into others by a legend of your own.
#
# **You need** [chapter 2](02_downsampling): the halved scenes, no data.
#
# **In the paper** §2.1, second step. **Modules** `labels`, `nearest`, `lulc`. **Takes** halved scenes and land-cover tiles. **Makes** a label raster for each scene. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "For each SAR scene, spatially matched with overlapping LULC tiles were merged, re-projected, and resampled to align precisely with the SAR image's resolution and projection. Label rasters were clipped to the SAR coverage area, and regions corresponding to SAR no-data pixels were masked …"
#
# The tiles are in degrees, the scenes in metres of {term}`UTM`, and a scene may lie on several tiles.
# Ours does: the simulated island straddles a corner where four tiles meet.
# A scene's *grid* is its coordinate system, where its upper left corner lies, its pixel size, and its width and height; the labels must have the same.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from scipy import ndimage

import sartutorial as st
from sartutorial import labels, lulc, nearest, rasters, tutorial
from sartutorial.files import name_of

work, halved, tiles = tutorial.data_dir(), tutorial.halved(), tutorial.tiles()
scene = halved[len(halved) // 2]  # the one in the middle meets four tiles
with rasters.opened(scene) as sar:
    grid = rasters.grid_of(sar)
needed = labels.missing(grid, [])  # if there were no tiles at all
found = labels.overlapping(grid, tiles)
print("by name:", needed)
print("by bounds:", [name_of(path) for path in found])
assert set(needed) == {name_of(path) for path in found}

# %% [markdown]
# Two ways lead to the tiles: their names, if they are HR-LULC's square degrees, or the bounding boxes of any folder of rasters. The package goes by the boxes, so that other tilings and other names serve as well.
#
# If tiles leave part of the scene uncovered, the missing ones are *named* and the pixels stay void, id 0. It is no error: the open sea has no tiles.

# %%
with rasters.opened(found[0], dtype="uint8") as one:
    absent = labels.missing(grid, [rasters.grid_of(one)])
print("with", name_of(found[0]), "alone, these are missing:", absent)
assert set(absent) == set(needed) - {name_of(found[0])}

# %% [markdown]
# ## Nearest neighbour, exactly
#
# A class id is a name, not a quantity: the mean of *water* (1) and *paddy field* (3) is not *built-up* (2).
# So ids must be taken from the {term}`nearest <nearest neighbour>` tile pixel and never interpolated.
# The nearest tile pixel is the one that holds the centre of the scene's pixel: reproject the centre, round down, look up.
#
# GDAL can do that: a *warped view* of the tile is read as if it lay on the scene's grid. But by default GDAL only approximates the way between the grids, by up to an eighth of a pixel. The tolerance must be next to nothing:

# %%
# Rows across the corner of the tiles
strip = rasterio.windows.Window(0, grid.height // 2 - 256, grid.width, 512)
by_gdal = {}
for name, options in {"default": {}, "exact": {"tolerance": 1e-9}}.items():
    with (
        rasterio.open(found[0]) as tile,
        WarpedVRT(tile, **grid._asdict(), **options) as view,
    ):
        by_gdal[name] = view.read(1, window=strip)
covered = by_gdal["exact"] > 0  # the others lie on other tiles
share = (by_gdal["default"] != by_gdal["exact"])[covered].mean()
print(f"GDAL's default gives another id in {share:.2%} of the pixels on the tile")

# %% [markdown]
# The package looks ids up itself, which is quicker (`make bench NAME=labels`), and gives the same, pixel for pixel.

# %%
with rasters.opened(found[0], dtype="uint8") as tile:
    ours = nearest.Lookup(tile, grid, st.HR_LULC).ids(strip)
assert covered.any() and np.array_equal(by_gdal["exact"], ours)

# %% [markdown]
# ## Label the scenes
#
# One call for all; each result has its scene's name and grid.
# The ids are HR-LULC's unless you say otherwise: `legend="worldcover"`, or a table of your own.

# %%
labelled = st.label(work / "half", work / "lulc", work / "labels")
with rasterio.open(work / "labels" / scene.name) as source, rasterio.open(scene) as sar:
    assert rasters.same_grid(rasters.grid_of(source), rasters.grid_of(sar))
    ids, dn = source.read(1), sar.read(1)
    print(*(f"{key}: {source.tags()[key]}" for key in ("SCENE", "TILES")), sep="\n")
# Nothing is labelled where there is no SAR data.
assert ids.any() and (ids[dn == 0] == st.HR_LULC.void).all()

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A simulated scene and its labels on the same grid; the legend holds the HR-LULC classes (colours 13 to 15 are ours; hatched is what some eyes cannot tell apart by colour).", "name": "fig-labels"}, "image": {"alt": "Left, a simulated radar scene in grey with a bar of decibels. Middle, the land-cover classes on the same grid, and nothing where the radar saw nothing: forest and bare mountains, fields and towns in the west, no sea. Right, the legend."}}
fig, axes = plt.subplots(
    1, 3, figsize=(11.5, 4.3), width_ratios=[5.6, 5, 3], layout="constrained"
)
width = grid.width * grid.transform.a / 1000
image = st.show_backscatter(
    st.dn_to_db(dn[::3, ::3]), axes[0], title=f"σ⁰, {width:.1f} km wide"
)
fig.colorbar(image, ax=axes[0], label="σ⁰ [dB]", location="left", shrink=0.8)
st.show_classes(ids[::3, ::3], axes[1], title="labels")
st.show_legend(st.HR_LULC, axes[2])
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
#
# Interpolate the ids between tile pixels, as one would a photograph, and round to whole ids.

# %%
options = dict(resampling=Resampling.bilinear, tolerance=1e-9)
with (
    rasterio.open(found[0]) as tile,
    WarpedVRT(tile, **grid._asdict(), **options) as view,
):
    smooth = view.read(1)
both = (smooth > 0) & (ids > 0)
wrong = (smooth != ids) & both
near = [ndimage.maximum_filter(ids == i, 7) for i in range(16)]  # 3 pixels around
invented = wrong & ~np.choose(smooth, near)
print(f"bilinear: {wrong.sum() / both.sum():.1%} of the pixels have another class,")
print(f"of which {invented.sum() / wrong.sum():.0%} one that is not there nor nearby")
values, counts = np.unique(smooth[invented], return_counts=True)
names = {c.id: c.name for c in st.HR_LULC.classes}
top = counts.argsort()[::-1][:3]
print(
    "most often invented:",
    ", ".join(f"{names[int(values[i])]} ({counts[i]})" for i in top),
)
assert invented.any()
edges = ndimage.maximum_filter(ids, 5) != ndimage.minimum_filter(ids, 5)
assert edges[wrong].all()  # all of it lies along borders

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Labels of a piece of the simulated scene by nearest neighbour and by bilinear interpolation, and the pixels where the two differ (black). Colours as above, hatching left out.", "name": "fig-bilinear"}, "image": {"alt": "Three panels of the same few hundred metres. The middle one has thin lines of other classes along the borders of the classes of the first. The third shows these lines in black."}}
busy = ndimage.uniform_filter(invented.astype(np.float32), 80)[40:-40, 40:-40]
r, c = np.unravel_index(busy.argmax(), busy.shape)
at = np.s_[r : r + 80, c : c + 80]
palette = np.full((256, 3), 255, np.uint8)
for one in st.HR_LULC.classes:
    palette[one.id] = one.rgb
fig, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
panels = {"nearest": palette[ids[at]], "bilinear": palette[smooth[at]]}
panels["they differ"] = np.where(wrong[at], 0, 255)[..., None].repeat(3, 2)
for ax, (name, picture) in zip(axes, panels.items(), strict=True):
    ax.imshow(picture.astype(np.uint8), interpolation="nearest")
    ax.set_title(f"{name}, {80 * grid.transform.a:.0f} m wide")
    ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Between a 1 and a 10 lies everything from 2 to 9. The invented classes lie along borders, and they are real classes: nothing in the file tells that they are wrong.
#
# ## Wrong on purpose: no data forgotten
#
# Leave the mask out, and ground that the radar did not see gets labels. A model would learn that blank pixels look like forest, or like sea.

# %%
unmasked = np.zeros_like(ids)
for path in found:
    with rasters.opened(path, dtype="uint8") as tile:
        under = nearest.Lookup(tile, grid, st.HR_LULC)
        everything = rasterio.windows.Window(0, 0, grid.width, grid.height)
        np.copyto(unmasked, under.ids(everything), where=unmasked == 0)
seen = dn != 0
assert np.array_equal(unmasked[seen], ids[seen])  # else nothing differs
false = (unmasked != 0) & ~seen
print(f"{false.sum()} pixels without radar would be labelled,", end=" ")
print(f"{false.mean():.1%} of the raster")
worst = np.bincount(unmasked[false]).argmax()
print(f"the largest part of them: {names[int(worst)]}")
assert false.any()

# %% [markdown]
# ## From the classes of the map to nine
#
# **Paper:** "the five forest-related classes … were merged into a single 'forest' category, and a similar merging was applied to cropland-related classes."
# The *order* of the nine is not printed; **ours** follows from the authors' nine class weights.
#
# Label rasters keep the full ids; the merging happens only when a model is fed, so nothing is lost on disk.

# %%
for c in st.HR_LULC.classes:
    target = f"{c.index} {st.HR_LULC.names[c.index]}" if c.index >= 0 else "none"
    print(f"{c.id:>3} {c.name:<30} -> {target}")
index = st.HR_LULC.to_index(ids)
assert set(np.unique(index)) <= set(range(-1, 9))
forests = np.isin(ids, st.HR_LULC.forest)
assert (index == 4).sum() == forests.sum()  # no forest is lost

# %% [markdown]
# Version 23.12 of the map has the ids 1 to 14; the fifteenth, *rock reef / tidal flat*, came with version 25.04, and leaving it out of training is **ours**.
#
# A legend is a table: id, name, colour, the index that a class is trained as (−1: not at all), and, where classes are merged, their common name in a column `training`. Another table makes another task of the same raster:

# %%
rows = [{"id": 1, "name": "water", "colour": "#000064", "index": 1}]
rows += [
    {"id": i, "name": "land", "colour": "#c8b48c", "index": 0} for i in range(2, 16)
]
table = work / "water.csv"
with st.atomic_write(table) as file:
    pd.DataFrame(rows).to_csv(file, index=False)
water = st.legend(table).to_index(ids)
print(f"water: {(water == 1).sum() / (water >= 0).sum():.1%} of the labelled pixels")
assert (water == 1).sum() == (ids == 1).sum()

# %% [markdown]
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
# **1.** Lose a tile: label the scene with all tiles of `found` but one, into a folder of your own. What share of its labels (`ids` that are not 0) does it lose, and does the file say why? `check_lost(…)`

# %% tags=["hide-cell"]
with tempfile.TemporaryDirectory() as folder:
    shares = {}
    for path in found:
        others = [p for p in found if p != path]
        out = st.label(scene, others, f"{folder}/{name_of(path)}")
        with rasterio.open(out) as made:
            fewer, said = made.read(1), made.tags()["MISSING"]
        lost = (fewer == 0) & (ids != 0)
        shares[name_of(path)] = lost.sum() / (ids != 0).sum()
        assert said == name_of(path) and np.array_equal(fewer[~lost], ids[~lost])
facts = {"lost": max(shares.values()), "of all pixels": lost.sum() / lost.size}


def check_lost(answer):
    """Say whether the share of lost labels is right, or which mistake it looks like."""
    right = facts["lost"]
    slips = {
        "That is in percent; a share lies between 0 and 1.": 100 * right,
        "That is the share of all pixels; those beside the swath had no label to lose.": facts[
            "of all pixels"
        ],
        "That is the share that is left.": 1 - right,
    }
    check(answer, right, slips, near=0.005)


# %% tags=["hide-cell"]
for name, share in shares.items():
    print(f"without {name}: {share:.1%} of the labels are lost, and the file names it")
check_lost(max(shares.values()))
check_lost(lost.sum() / lost.size)  # a usual slip
# Every label comes from one tile: what the tiles hold adds up.
assert abs(sum(shares.values()) - 1) < 1e-9

# %% [markdown]
# **2.** Shift the labels by a single pixel of the scene, down and to the right. (To take a pixel's centre for its corner shifts by half of that.) Of the pixels that hold a label before and after, what share has another id? `check_shift(…)`

# %% tags=["hide-cell"]
a, b = ids[1:, 1:], ids[:-1, :-1]
facts["shifted"] = {
    "diagonal": (a != b)[(a > 0) & (b > 0)].mean(),
    "with void": (a != b).mean(),
    "one axis": (ids[1:] != ids[:-1])[(ids[1:] > 0) & (ids[:-1] > 0)].mean(),
    "ids": np.abs(a.astype(int) - b)[(a > 0) & (b > 0)].mean(),
    "merged": (index[1:, 1:] != index[:-1, :-1])[(a > 0) & (b > 0)].mean(),
}


def check_shift(answer):
    """Say whether the share of changed classes is right, or which mistake it looks like."""
    found = facts["shifted"]
    slips = {
        "You counted void pixels too: both must hold a label.": found["with void"],
        "You shifted along one axis; a corner is off along both.": found["one axis"],
        "You averaged differences of ids: ids are names, ask whether they differ.": found[
            "ids"
        ],
        "That is the share that has kept its class.": 1 - found["diagonal"],
        "That is in percent; a share lies between 0 and 1.": 100 * found["diagonal"],
        "You compared the nine merged classes; compare ids.": found["merged"],
    }
    check(answer, found["diagonal"], slips, near=0.003)


# %% tags=["hide-cell"]
check_shift(facts["shifted"]["diagonal"])
check_shift(facts["shifted"]["one axis"])  # a usual slip
for shift in (1, 2, 4):
    a, b = ids[shift:, shift:], ids[:-shift, :-shift]
    both = (a > 0) & (b > 0)
    changed = (a != b)[both].mean()
    print(f"{shift} px: {changed:.1%}")
    assert changed > 0
# A pixel of 5 m is about half a tile pixel: too little to be seen, and wrong along every border.

# %% [markdown]
# **3.** The paper merges five forests. Keep deciduous and evergreen forests apart instead (bamboo is evergreen): write the legend as a table, and count the pixels of both on the scene: `check_forests(deciduous=…, evergreen=…)`.

# %% tags=["hide-cell"]
pixels = np.bincount(ids.ravel(), minlength=16)


def check_forests(deciduous, evergreen):
    """Say whether two counts of forest pixels are right, or which mistake they look like."""
    counts = {i: int(pixels[i]) for i in st.HR_LULC.forest}
    right = counts[6] + counts[7], counts[8] + counts[9] + counts[11]
    slips = {
        "Right.": right,
        "The two are swapped.": right[::-1],
        "Bamboo (11) is missing among the evergreen.": (
            right[0],
            counts[8] + counts[9],
        ),
        "Bamboo (11) is evergreen.": (right[0] + counts[11], right[1] - counts[11]),
        "You parted broad leaves from needles.": (
            counts[6] + counts[8],
            counts[7] + counts[9],
        ),
    }
    said = [text for text, pair in slips.items() if pair == (deciduous, evergreen)]
    print(said[0] if said else "No: ids 6 and 7 are deciduous, 8, 9 and 11 evergreen.")


# %% tags=["hide-cell"]
rows = []
for c in st.HR_LULC.classes:
    index_of, name = c.index, st.HR_LULC.names[c.index] if c.index >= 0 else ""
    if c.id in st.HR_LULC.forest:
        index_of, name = (9, "evergreen") if c.id in (8, 9, 11) else (4, "deciduous")
    colour = "#{:02x}{:02x}{:02x}".format(*c.rgb)
    rows.append((c.id, c.name, colour, index_of, name))
with tempfile.TemporaryDirectory() as folder:
    table = pd.DataFrame(rows, columns=["id", "name", "colour", "index", "training"])
    table.to_csv(f"{folder}/ten.csv", index=False)
    ten = st.legend(f"{folder}/ten.csv")
forests = ten.to_index(ids)
deciduous, evergreen = (forests == 4).sum(), (forests == 9).sum()
print(f"deciduous {deciduous}, evergreen {evergreen} pixels")
assert deciduous + evergreen == (index == 4).sum()
check_forests(deciduous=deciduous, evergreen=evergreen)
check_forests(deciduous=deciduous, evergreen=evergreen - pixels[11])  # a usual slip
assert np.array_equal(forests == 0, index == 0)  # the others are as before

# %% [markdown]
# ## Key points
#
# - Ids by exact nearest neighbour onto the scene's grid; void where there is no SAR data.
# - Interpolated labels and labels without radar look right, and are wrong: nothing in the file tells.
# - A legend, a table, says what is trained as what; the raster keeps the ids of its source.
# - Tiles that are missing are named, in the file's tag `MISSING` and on the command line.
# - The sea is class 1 inside tiles that hold land and void elsewhere: a seam of the product, not of the coast.
# - On the command line: `sartutorial label SCENE... --tiles DIR --out DIR`; any folder of land-cover rasters will do.
#
# ## References
#
# The step is §2.1 of {cite:t}`imamoglu2026tutorial`. The classes are those of JAXA's High-Resolution Land Use and Land Cover map of Japan (HR-LULC); the colours that are ours are named in the figure.
