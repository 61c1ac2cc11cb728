# %% [markdown]
# # Patches
#
# ```{admonition} This chapter
# **You will** cut scenes and labels into georeferenced pairs in decibels, lay them back to check them, ask the index about the set without opening a patch, measure what forgotten no-data does to it, and exchange patches with the authors' code.
#
# **You need** [chapter 3](03_labels).
#
# **In the paper** §2.1, third step. **Module** `patches`. **Takes** halved scenes and label rasters. **Makes** arrays of pixels and a GeoParquet index; on request, GeoTIFF pairs. What it costs is [measured](../book/costs); no GPU is needed.
# ```
#
# **Paper:** "non-overlapping and fixed-size patches (256 × 256 pixels) … patches containing no-data regions were excluded. SAR intensity values were also converted to the decibel (dB) scale."
#
# A {term}`patch` is a square cut from a scene, small enough for a network; the {term}`index <patch index>` is the table of them.
# The laptop profile cuts smaller patches, so that a small network can learn from them in minutes; the size is one number of the profile.
#
# Everything below is **simulated**, and cut as real scenes are.

# %%
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio

import sartutorial as st
from sartutorial import maps, profiles, radiometry, tutorial

work, legend = tutorial.data_dir(), st.HR_LULC
tutorial.labelled()  # scenes and labels of the chapters before, if they are not there yet
size = profiles.get().patch_size
st.cut(work / "half", work / "labels", work / "patches", size=size)

folder = work / "patches"
index = st.read_index(folder, geometry=True)
print(f"profile {profiles.get().name}: {len(index)} patches of {size} px")
assert len(index) >= 2000 or profiles.get().name != "laptop"
centre = index.geometry[0].centroid
print(f"the first: {index.patch[0]}, around {centre.y:.3f}° N, {centre.x:.3f}° E")
index[["row", "col", "spacing", "n_void", "n_1", "n_2"]].head()

# %% [markdown]
# One row a patch: its name, its scene, where it was cut, what it holds (pixel spacing in metres, unit, polarisation), the number of label pixels of each id of the legend (`n_1` is water, `n_2` built-up, `n_void` unlabelled), and its footprint in degrees.
#
# The name ends in the row and column at which the patch starts.
# **Code:** the authors' names end in two offsets as well; which of them comes first they do not say. Row first is **ours**.
#
# ## Where the pixels are
#
# The paper's set has more than 300,000 patches: as files of their own a burden for a file system. So a scene's patches lie in two arrays, DN and label ids, which numpy maps into memory: only what is asked for is read.
# GeoTIFF pairs, the paper's form, are written when somebody wants them (below).

# %%
for path in sorted((folder / "arrays").glob(f"{index.scene[0]}*.npy")):
    array = np.load(path, mmap_mode="r")
    print(path.name.removeprefix(index.scene[0]), array.dtype, array.shape)
store = st.Store(folder, index)
print(f"patch 0 in dB: {store.sar(0).mean():.1f} on average")

# %% [markdown]
# The arrays hold DN; whoever reads a patch gets decibels, by the table of [chapter 1](01_sar_images).
#
# Windows of a scene that hold any no-data, DN 0, are left out. A valid amplitude that rounds to 0 looks the same and costs its window too; a product's mask, where it has one, tells the two apart.
# Windows with more void labels than allowed are left out as well (none is allowed, unless asked: the tolerance is **ours**).
#
# ## A patch keeps its place
#
# Its row in the index holds its own *transform*: six numbers that give pixel size and corner in the metres of its CRS, the map grid.

# %%
row = index.iloc[len(index) // 2]
scene = next(p for p in (work / "half").glob("*.tif") if p.stem == row.scene)
with rasterio.open(scene) as whole:
    corner = whole.transform * (row.col, row.row)
    assert row.crs == whole.crs.to_string()
    # UTM's metres are nearly, not quite, those on the ground: the index has the latter.
    assert abs(row.spacing / whole.res[0] - 1) < 1e-3
assert (row["transform"][2], row["transform"][5]) == corner
pixel, _, x, _, _, y = map(float, row["transform"])
print(f"{row.crs}: pixels of {pixel:g} m, upper left corner at {x:,.0f}, {y:,.0f} m")

# %% [markdown]
# CRS and pixel size are the scene's; the corner alone has moved, by `row` and `col` pixels.
# Nothing is resampled, so no pixel is mixed with what the scene holds outside the patch.

# %% mystnb={"figure": {"caption": "Three pairs of simulated patches: backscatter above, HR-LULC classes below.", "name": "fig-pairs"}, "image": {"alt": "Three radar patches in grey above, with a bar from -25 to 0 dB, and their land-cover classes in colour below, with a legend: coast, fields, town and forest."}}
held = index[[f"n_{i}" for i in legend.ids]].to_numpy()
varied = np.argsort(-(held > 200).sum(axis=1))[:30:10]  # patches of many classes
fig, axes = plt.subplots(2, 4, figsize=(12, 5.6), layout="constrained")
for (above, below), i in zip(axes.T, varied, strict=False):
    drawn = st.show_backscatter(store.sar(i), above)
    st.show_classes(store.label(i), below)
axes[0, 3].set_axis_off()
fig.colorbar(drawn, ax=axes[0, 3], location="left", label="σ⁰ [dB]")
st.show_legend(legend, axes[1, 3])
plt.show()

# %% [markdown]
# ## Lay them back
#
# If every patch is in its place, laying all of one scene back gives that scene: no pixel twice, none changed. Windows that touch no-data are missing, at the swath's slanted edges, and so is what is left over at the rim where the scene is no multiple of the patch size.

# %%
chosen = index[index.scene == row.scene]
with rasterio.open(scene) as whole:
    dn, extent = whole.read(1), whole.bounds
db = st.dn_to_db(dn)
mosaic = np.full(dn.shape, np.nan, np.float32)
times = np.zeros(dn.shape, int)
pixels = st.Store(folder, chosen)
for i, (r, c) in enumerate(zip(chosen.row, chosen.col, strict=True)):
    cell = np.s_[r : r + size, c : c + size]
    mosaic[cell] = pixels.sar(i)
    times[cell] += 1
covered = times > 0
assert times.max() == 1  # they do not overlap
assert (mosaic[covered] == db[covered]).all()  # to the last bit
assert np.isfinite(mosaic[covered]).all()  # and without no-data
print(f"{covered.sum() / (dn != 0).sum():.0%} of the valid pixels lie in a patch")

# %% mystnb={"figure": {"caption": "The patches of one simulated scene (orange) on the scene.", "name": "fig-footprints"}, "image": {"alt": "A simulated radar scene with a grid of square patch outlines that stay clear of the swath's slanted edges."}}
fig, ax = plt.subplots(figsize=(7, 6), layout="constrained")
drawn = st.show_backscatter(db[::3, ::3], ax)
fig.colorbar(drawn, shrink=0.6, label="σ⁰ [dB]")
for r, c in zip(chosen.row, chosen.col, strict=True):
    ax.add_patch(
        plt.Rectangle(
            (c / 3, r / 3), size / 3, size / 3, fill=False, color="tab:orange"
        )
    )
plt.show()

# %% [markdown]
# ## Ask the index
#
# Which classes, where, how many? The index is a table with footprints: it answers without a patch being opened.
# The paper removes fully-forest patches later, when it samples; the counts say how many there are.

# %%
counts = np.zeros((len(index), 256), int)  # by id
counts[:, legend.ids] = held
nine = legend.merged(counts)
forest = nine[:, legend.names.index("forest")]
print(f"{(forest == nine.sum(axis=1)).sum()} of {len(index)} patches: only forest")
for name, share, holds in zip(
    legend.names, nine.sum(axis=0) / nine.sum(), (nine > 0).sum(axis=0), strict=True
):
    print(f"{name:<12} {share:6.1%} of the pixels, in {holds:4d} patches")
# Every pixel is counted.
assert (held.sum(axis=1) + index["n_void"] == size**2).all()

# %% mystnb={"figure": {"caption": "Footprints of all patches (simulated world), in the colour of their most frequent class.", "name": "fig-index"}, "image": {"alt": "A map of small squares in degrees, coloured by land cover: four tilted blocks of mostly green forest, with pink cropland and red towns in them and dark blue water at the outer corners."}}
fig, (ax, key) = plt.subplots(
    1, 2, figsize=(7.4, 5), width_ratios=(4, 1), layout="constrained"
)
most = nine.argmax(axis=1)
for k in np.unique(most):  # hatched as in the legend, for eyes that confuse its colours
    colour, hatch = np.divide(legend.colours[k], 255), maps.HATCH.get(legend.names[k])
    index[most == k].plot(
        ax=ax, color=[colour], hatch=hatch, edgecolor="black", linewidth=0.2
    )
ax.set(xlabel="longitude [°]", ylabel="latitude [°]")
ax.set_aspect(1 / np.cos(np.radians(index.total_bounds[[1, 3]].mean())))
st.show_legend(legend, key, training=True)
plt.show()

# %% [markdown]
# Squares that touch show ground that touches: [chapter 5](05_sampling) must not put one of them into the training and its neighbour into the test.
#
# The simulated scenes lie side by side, with gaps where no window is whole; real ones overlap, and then the same ground is in two patches.
#
# ## Wrong on purpose: no-data forgotten
#
# Take every window, and calibrate no-data as if it were a number. DN 0 has no logarithm, so somebody reads 1 for it: −83 dB {cite:p}`shimada2009palsar`. In the 25 m mosaic of 2020 no-data *is* 1, and nobody needs to help.
# Every input of a network is normalised: minus the set's mean, over its standard deviation. What do the two become?

# %%
right, wrong, useless = [], [], 0
for path in sorted((work / "half").glob("*.tif")):
    with rasterio.open(path) as source:
        here = source.read(1)
    down, across = (n // size for n in here.shape)
    cells = here[: down * size, : across * size].reshape(down, size, across, size)
    useless += (cells == 0).any(axis=(1, 3)).sum()
    values = st.dn_to_db(here[::2, ::2])
    right.append(values[np.isfinite(values)])
    wrong.append(np.where(np.isfinite(values), values, radiometry.CALIBRATION_DB))
right, wrong = np.concatenate(right), np.concatenate([w.ravel() for w in wrong])
kept = right.std() / wrong.std()
print(f"no-data left out:   mean {right.mean():6.2f} dB, std {right.std():5.2f} dB")
print(f"no-data as −83 dB:  mean {wrong.mean():6.2f} dB, std {wrong.std():5.2f} dB")
print(f"{useless} windows more than without the mistake, all with no-data in them")
print(f"normalised with the wrong pair, valid pixels lie around "
      f"{(right.mean() - wrong.mean()) / wrong.std():+.2f} and keep {kept:.0%} of their contrast")  # fmt: skip
assert kept < 0.5

# %% mystnb={"figure": {"caption": "Valid pixels (simulated) after normalisation with the right and the wrong statistics.", "name": "fig-nodata"}, "image": {"alt": "Two histograms of normalised values. With the right statistics a broad hump around zero; with the wrong ones a narrow spike to the right of zero."}}
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
bins = np.linspace(-4, 3, 141)
for name, part, colour in (("right", right, "#0072b2"), ("wrong", wrong, "#d55e00")):
    z = (right - part.mean()) / part.std()
    ax.hist(
        z, bins, density=True, histtype="step", lw=2, color=colour, label=f"{name} pair"
    )
ax.set(xlabel="normalised backscatter of valid pixels", ylabel="density")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The land that the network should tell apart is squeezed together, and the largest step that it sees is the edge of the swath.
#
# ## Many scenes
#
# Scenes do not depend on each other. `downsample`, `label` and `patches` take them one after the other, each with all cores; `--workers 4` takes four at a time, in processes of their own, and `--scheduler ADDRESS` hands them to the workers of a dask cluster. The files are the same:

# %%
temporary = tempfile.TemporaryDirectory()
tmp = Path(temporary.name)
halves, labels = sorted((work / "half").glob("*.tif")), work / "labels"
for workers, name in ((1, "one"), (2, "two")):
    st.cut(halves[:2], labels, tmp / name, size=size, workers=workers)
made = sorted(p.name for p in (tmp / "one" / "arrays").iterdir() if p.is_file())
for name in made:
    one, two = (tmp / which / "arrays" / name for which in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
print(f"{len(made)} files of two processes, byte for byte those of one")

# %% [markdown]
# (Shown here for two processes; that dask's workers make the same files, a test of the package holds.)
#
# A scene that fails does not stop the rest. Errors are kept, and named at the end:

# %%
(tmp / "torn.tif").write_bytes(b"II*\0")  # four bytes of a TIFF
try:
    st.cut([tmp / "torn.tif", halves[0]], labels, tmp / "some", size=size)
except st.InputError as error:
    print(str(error).replace(str(tmp), "..."))
assert set(st.read_index(tmp / "some").scene) == {halves[0].stem}

# %% [markdown]
# ## The authors' layout
#
# **Code:** the authors' loaders read a table of locations, and find a patch at `root/year/month/day/FileName`. `sartutorial export` writes this table and these folders, one root for the SAR patches and one for the labels; the date is in the scene's name.
# What `Category` means is not said: ours is the patch's most frequent HR-LULC id, 0 where nothing is labelled.

# %%
table = st.export(tmp / "one", tmp / "theirs")  # of two scenes
with open(table, newline="") as file:  # without a line of ours
    locations = list(csv.DictReader(file))
first = locations[0]
print(*(f"{key:<11} {value}" for key, value in first.items()), sep="\n")
place = Path(first["Year"], first["Month"], first["Day"], first["FileName"])
with rasterio.open(table.parent / "sar" / place) as patch:
    print(patch.shape, patch.dtypes[0], f"{patch.read(1).mean():.1f} dB")
two_scenes = st.read_index(tmp / "one")
assert len(locations) == len(two_scenes)

# %% [markdown]
# The way back is `sartutorial import`: it takes such a table, looks at every file, and makes a folder of ours. It also takes any folder of GeoTIFF pairs, without a table. Labels in another legend are read with `legend=`; without labels, every pixel counts as void.

# %%
theirs = tmp / "theirs"
st.import_patches(table, tmp / "back", sar=theirs / "sar", labels=theirs / "label")
back = st.read_index(tmp / "back")
by_class = ["n_void", *(f"n_{i}" for i in legend.ids)]
assert back.patch.tolist() == two_scenes.patch.tolist()
assert (back[by_class] == two_scenes[by_class]).all(axis=None)
print(f"{len(back)} patches out and in again, with the same counts")

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
# **1.** Half the patch size follows the swath's edge more closely. Which share of the valid pixels of `scene` lies in a patch then, and in how many patches? `check_cover(…)` wants the share.

# %% tags=["hide-cell"]
st.cut(scene, labels, tmp / "small", size=size // 2)
small = st.read_index(tmp / "small")
facts = {"small": len(small), "large": len(chosen), "valid": (dn != 0).sum()}
facts |= {"size": size, "pixels": dn.size}


def check_cover(answer):
    """Say whether the share of covered pixels is right, or which mistake it looks like."""
    side, area = facts["size"] // 2, facts["valid"]
    covered = facts["small"] * side**2
    slips = {
        "You kept the old side: a patch has a quarter of the pixels now.": facts[
            "small"
        ]
        * facts["size"] ** 2
        / area,
        "That is the share with the large patches.": facts["large"]
        * facts["size"] ** 2
        / area,
        "That is the share of all pixels, those without data too.": covered
        / facts["pixels"],
        "That is in percent; a share lies between 0 and 1.": 100 * covered / area,
    }
    check(answer, covered / area, slips, near=0.005)


# %% tags=["hide-cell"]
check_cover(len(small) * (size // 2) ** 2 / (dn != 0).sum())
check_cover(len(small) * (size // 2) ** 2 / dn.size)  # a usual slip
for side, some in ((size, chosen), (size // 2, small)):
    share = len(some) * side**2 / (dn != 0).sum()
    print(f"{side:4d} px: {len(some):5d} patches, {share:.1%} of the valid pixels")
assert len(small) >= 4 * len(chosen)  # each large patch is four small ones

# %% [markdown]
# **2.** Pretend that only cropland and grassland were mapped. How many patches does which tolerance for void labels bring back? Cut *once*, and let the index answer for every tolerance. How many patches have at most half of their pixels void: `check_void(…)`?

# %% tags=["hide-cell"]
(tmp / "sparse").mkdir(exist_ok=True)
for path in labels.glob("*.tif"):
    with rasterio.open(path) as source:
        mapped, profile = source.read(1), source.profile
    mapped[~np.isin(mapped, (3, 4, 5))] = legend.void
    with rasterio.open(tmp / "sparse" / path.name, "w", **profile) as target:
        target.write(mapped, 1)
st.cut(halves, tmp / "sparse", tmp / "void", size=size, max_void=1.0)
void = st.read_index(tmp / "void")["n_void"] / size**2
facts["void"] = void.to_numpy()


def check_void(answer):
    """Say whether the number of patches is right, or which mistake it looks like."""
    void = facts["void"]
    slips = {
        "Those are the patches with *more* than half void.": (void > 0.5).sum(),
        "Those have no void at all. (n_void counts pixels: divide it by side².)": (
            void == 0
        ).sum(),
        "Those are all patches: cut with max_void=1, then ask the index.": len(void),
        "You divided by the side; a patch has side² pixels.": (
            void * facts["size"] <= 0.5
        ).sum(),
    }
    check(answer, (void <= 0.5).sum(), slips, near=0)


# %% tags=["hide-cell"]
check_void((void <= 0.5).sum())
check_void((void > 0.5).sum())  # a usual slip
for tolerance in (0, 0.25, 0.5, 0.75, 0.95, 1):
    print(f"at most {tolerance:4.0%} void: {(void <= tolerance).sum()} patches")
assert (void == 0).sum() < (void <= 0.95).sum() < len(void) == len(index)
# With sparse labels a patch without void hardly exists: a tolerance is the price of having any.

# %% [markdown]
# **3.** The authors do not say which of the two offsets in a name is the row. How could you tell from a table like theirs alone? Do it for one scene of ours (`locations`, above), as if you did not know, and say `"first"` or `"second"`: `check_offset(…)`.

# %% tags=["hide-cell"]
same = [p for p in locations if p["FileName"].startswith(halves[0].stem)]
offsets = np.array(
    [[int(n) for n in Path(p["FileName"]).stem.split("_")[-2:]] for p in same]
)
north = np.array([float(p["Latitude"]) for p in same])
east = np.array([float(p["Longitude"]) for p in same])
follows = {
    name: (
        np.corrcoef(offsets[:, i], north)[0, 1],
        np.corrcoef(offsets[:, i], east)[0, 1],
    )
    for i, name in enumerate(("first", "second"))
}


def check_offset(answer):
    """Say whether the offset that is the row is right, and by what one sees it."""
    if answer not in follows:
        return print('Answer with "first" or "second".')
    with_latitude, with_longitude = follows[answer]
    if with_latitude < -0.9:
        return print(f"Right: it falls with latitude ({with_latitude:+.2f}).")
    print(f"That one grows with longitude ({with_longitude:+.2f}): it is the column.")


# %% tags=["hide-cell"]
for name, (with_latitude, with_longitude) in follows.items():
    print(f"{name:<6} offset: correlation with latitude {with_latitude:+.2f}, "
          f"with longitude {with_longitude:+.2f}")  # fmt: skip
check_offset("first")
check_offset("second")  # a usual slip
# Rows run south: the offset that falls with latitude is the row. Here it is the first (ours).
assert np.corrcoef(offsets[:, 0], north)[0, 1] < -0.9

# %% [markdown]
# **4.** How little forgotten no-data is enough? Which share of the set's pixels, read as −83 dB, leaves the valid ones half of their contrast: `check_forgotten(…)`? (`right` holds the valid pixels. Two groups of pixels vary by what each varies inside, and by the distance between their means.)

# %% tags=["hide-cell"]
spread, apart = float(right.std()), float(right.mean()) - radiometry.CALIBRATION_DB
shares = np.linspace(0, 0.5, 5001)
deviation = np.sqrt((1 - shares) * spread**2 + shares * (1 - shares) * apart**2)
facts["half"] = shares[np.argmax(spread / deviation <= 0.5)]
facts["of spread"] = shares[np.argmax(shares * apart >= spread)]
facts["half of variance"] = shares[np.argmax((spread / deviation) ** 2 <= 0.5)]
facts["here"] = 1 - len(right) / len(wrong)


def check_forgotten(answer):
    """Say whether the share of no-data that halves the contrast is right, or which mistake it is."""
    slips = {
        "That is in percent; a share lies between 0 and 1.": 100 * facts["half"],
        "That halves the variance. Contrast goes with the standard deviation.": facts[
            "half of variance"
        ],
        "There the mean moves by one standard deviation; ask for the contrast.": facts[
            "of spread"
        ],
        "That is the share in these scenes, which leaves less than half.": facts[
            "here"
        ],
    }
    check(answer, facts["half"], slips, near=0.003)


# %% tags=["hide-cell"]
check_forgotten(facts["half"])
check_forgotten(100 * facts["half"])  # a usual slip
few = int(facts["half"] * len(right) / (1 - facts["half"]))  # that many, put in
spoilt = np.append(right, np.full(few, radiometry.CALIBRATION_DB, right.dtype))
print(
    f"{facts['half']:.1%} of no-data leave {right.std() / spoilt.std():.0%} of the contrast"
)
assert abs(right.std() / spoilt.std() - 0.5) < 0.01
temporary.cleanup()

# %% [markdown]
# ## Key points
#
# - A patch is DN that are read as decibels, with their place on the ground and without no-data, and label ids beside them, cut without resampling. Laid back, patches are the scene.
# - The index answers questions about the set without opening a patch.
# - Forgotten no-data raises no error: it takes the contrast from everything that matters.
# - A scene that fails is named at the end; several processes make the same files as one.
# - On the command line: `sartutorial patches SCENE... --labels DIR --out DIR [--size 256] [--max-void 0.0] [--workers 1] [--scheduler ADDRESS]`, `sartutorial export PATCHES --out DIR`, `sartutorial import TABLE --sar DIR --labels DIR --out DIR`. The tolerance for unlabelled pixels is ours: with sparse labels, patches without void hardly exist.
#
# ## References
#
# The paper is {cite:t}`imamoglu2026tutorial`; the calibration of DN is {cite:t}`shimada2009palsar`'s. [All references](../book/references).
