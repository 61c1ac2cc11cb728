# %% [markdown]
# # Halving the scene
#
# ```{admonition} This chapter
# **You will** tell a product by its name, halve a scene's resolution without spoiling its radiometry or its place on the map, count the looks that this gains, compare it with GDAL, and measure what the wrong average and a forgotten nodata value cost.
#
# **You need** [chapter 1](01_sar_images): amplitude, power, looks, no data.
#
# **In the paper** §2.1, first step. **Module** `downsampling`. **Takes** scenes of 2.5 m. **Makes** scenes of 5 m. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "Original high-resolution SAR GeoTIFFs were first downsampled by half to reduce data size … by using average resampling of neighboring pixels while preserving the original metadata information …"
#
# Two by two pixels become one. It does not say an average of *what*.
# **Ours:** power, because backscatter is power ([chapter 1](01_sar_images)).
#
# ## Know what you read
#
# A GeoTIFF of {term}`DN <digital number>` does not say what its numbers mean: σ⁰ or γ⁰, and with which calibration factor.
# The product does, and JAXA's file names tell the product, by the grammar of chapter 1.

# %%
from math import gamma

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.enums import Resampling

import sartutorial as st
from sartutorial import radiometry, tutorial

for name in (
    "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif",
    "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif",
    "N23W161_20_sl_HH_F02DAR.tif",
):
    product = radiometry.product(name)
    print(
        f"{name}\n    level {product.level}, {product.quantity}, {product.calibration_db} dB, mask: {product.mask}"
    )

# %% [markdown]
# The first is the paper's kind. The second is {term}`ScanSAR` of level 2.2 (its brightness evened out for relief, too), the third a tile of the 25 m mosaic; both are {term}`γ⁰ <gamma nought>` and come with a mask.
#
# What a mask calls *no data* (or *invalid*, in level 2.2) becomes {term}`no data`. Ocean, layover and shadow were measured and stay: that choice is **ours**.
#
# What cannot be calibrated is refused, with the reason: level 3.1 is enhanced for the eye, level 1.1 is complex, and a name outside the grammar tells nothing.
# A word of yours settles it (`--quantity` on the command line).

# %%
for name in (
    "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif",
    "IMG-HH-ALOS2458503210-221119-UBSR1.1__D.tif",
    "tokyo.tif",
):
    try:
        radiometry.product(name)
    except st.InputError as refusal:
        print(refusal)
    else:
        raise AssertionError(f"{name} was not refused")
assert radiometry.product("tokyo.tif", quantity="gamma0").quantity == "gamma0"

# %% [markdown]
# ## The mean of a block
#
# The result is again a DN, so that the same calibration holds:
#
# $$
# \mathrm{DN}_{\text{out}} = \sqrt{\frac{1}{|V|} \sum_{i \in V} \mathrm{DN}_i^2}
# $$ (eq-block)
#
# where $V$ are the *valid* pixels of a block.
# A block is no data only if none of its pixels is valid, which is GDAL's rule.
# In NumPy that is a reshape, so that each block has axes of its own, and a sum over them:


# %%
def mean_of_blocks(dn):
    """Halve amplitudes (H, W), H and W even, 0 = no data, as the formula says."""
    blocks = dn.astype(float).reshape(dn.shape[0] // 2, 2, dn.shape[1] // 2, 2)
    power = (blocks**2).sum(axis=(1, 3))
    valid = (blocks > 0).sum(axis=(1, 3))
    return np.sqrt(power / np.maximum(valid, 1))  # 0 where none is valid


# %% [markdown]
# `st.block_mean` does the same piece by piece, with any factor, and rounds to whole DN.
# On a block with two valid pixels, and one with none:

# %%
eight = np.array([[300, 0, 0, 0], [400, 0, 0, 0]], dtype=np.uint16)
print("by the formula", mean_of_blocks(eight).round(1).tolist())
print("by the package", st.block_mean(eight).tolist())
assert st.block_mean(eight).tolist() == [[354, 0]]
assert st.block_mean(eight[:, :3]).tolist() == [[354, 0]]  # an odd width: half a block

# %% [markdown]
# ## Do it
#
# One call, with a scene, a list of scenes or a folder of them, and a folder for what comes out.
# `tutorial.scenes()` only makes sure that the simulated ones are there; put your own folder in its place.

# %%
scenes = tutorial.scenes()
work = tutorial.data_dir()
halved = st.downsample(work / "scenes", work / "half")
for before, after in zip(scenes, halved, strict=True):
    print(
        before.name,
        f"{before.stat().st_size / 1e6:.1f} MB -> {after.stat().st_size / 1e6:.1f} MB",
    )

# %% [markdown]
# Run the cell again, and nothing is done: the files are up to date, since neither the scenes nor the options have changed. A scene is read and written in pieces, so a large one takes no more memory than a small one.
#
# What came back, and what it did not do: the coordinate system and the upper left corner are the same, the pixel is twice as large, the tags are kept, and no data is 0, whatever the scene declared.
# Further tags say unit, calibration factor and polarisation, which the later steps read, and what was done; simulated scenes bring the first three along.

# %%
with rasterio.open(scenes[0]) as before, rasterio.open(halved[0]) as after:
    assert after.crs == before.crs and after.nodata == 0
    assert (
        after.transform.c == before.transform.c
        and after.transform.f == before.transform.f
    )
    assert after.res == tuple(2 * r for r in before.res)
    pixel = before.res[0]
    fine, coarse = before.read(1), after.read(1)
    assert after.bounds == before.bounds
    assert before.tags().items() - {("AREA_OR_POINT", "Area")} <= after.tags().items()
    said = after.tags()
for key in ("QUANTITY", "CALIBRATION_DB", "POLARISATION", "DOWNSAMPLED"):
    print(f"{key}: {said[key]}")
assert np.array_equal(coarse, st.block_mean(fine))  # no seams between pieces

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A piece of a simulated scene before and after halving: the same ground, in the same greys.", "name": "fig-halved"}, "image": {"alt": "Two grey radar images of the same piece of coast, with a bar of decibels. The right one, halved, is less grainy."}}
rows, cols = np.s_[1600:2112], np.s_[1600:2112]
half = np.s_[800:1056]
fig, axes = plt.subplots(1, 2, figsize=(10.6, 5), layout="constrained")
side = 512 * pixel / 1000
st.show_backscatter(
    st.dn_to_db(fine[rows, cols]), axes[0], title=f"2.5 m pixels, {side:.1f} km wide"
)
image = st.show_backscatter(
    st.dn_to_db(coarse[half, half]), axes[1], title="5 m pixels, mean power"
)
fig.colorbar(image, ax=axes, label="σ⁰ [dB]", shrink=0.8)
plt.show()

# %% [markdown]
# ## It is exact
#
# The package's result is {eq}`eq-block` in double precision, rounded to whole DN: over all the scene, with the swath's edges.

# %%
truth = mean_of_blocks(fine)
apart = np.abs(coarse - truth).max()
print(f"largest difference: {apart:.3f} DN; rounding to whole DN allows 0.5,")
print("and single precision, in which the package reckons, a few hundredths more")
assert apart <= 0.5 + 0.04
assert np.array_equal(coarse == 0, truth == 0)  # the same pixels hold no data

# %% [markdown]
# ## Wrong on purpose: the wrong average
#
# Three averages of the same pixels.
# The truth is the mean power of the unhalved scene over the same ground.

# %%
blocks = fine[rows, cols].astype(float).reshape(256, 2, 256, 2)
assert (blocks > 0).all()  # no void here
reference = st.to_db((blocks**2).mean())
off = {}
for name, power in (
    ("mean of power", (blocks**2).mean(axis=(1, 3))),
    ("mean of amplitude", blocks.mean(axis=(1, 3)) ** 2),
    ("mean of decibels", st.to_power(st.to_db(blocks**2).mean(axis=(1, 3)))),
):
    off[name] = st.to_db(power.mean()) - reference
    print(f"{name:<18} {off[name]:+.2f} dB off")
assert abs(off["mean of power"]) < 0.01
assert off["mean of decibels"] < off["mean of amplitude"] < -0.05

# %% [markdown]
# The scene's pixels already average two looks and are correlated by the {term}`point response`, so the damage is smaller than for independent pixels of a single look.
#
# For those, theory knows it, since their intensity is exponential. As a share of the mean power,
#
# - the square of four amplitudes' mean is $\frac{\pi}{4} + \frac14(1 - \frac{\pi}{4})$ on average,
# - the power of four decibels' mean is $\Gamma(\frac54)^4$ on average, with the gamma function $\Gamma$,
# - and the mean of all decibels comes to $e^{-\gamma}$, with Euler's constant $\gamma$.

# %%
single = np.random.default_rng(0).exponential(size=(1_000_000, 4))
db = st.to_db(single)
for name, power, theory in (
    ("amplitude", np.sqrt(single).mean(1) ** 2, np.pi / 4 + (1 - np.pi / 4) / 4),
    ("decibels", st.to_power(db.mean(1)), gamma(5 / 4) ** 4),
    ("all decibels", st.to_power(db.mean()), np.exp(-np.euler_gamma)),
):
    measured, expected = st.to_db(power.mean()), st.to_db(theory)
    print(f"mean of {name:<12} {measured:+.2f} dB off, theory {expected:+.2f}")
    assert abs(measured - expected) < 0.02

# %% [markdown]
# It is a bias, not noise: no amount of data removes it, and it grows where speckle is strong.
# To a model trained on mean power, a scene of mean decibels is darker land.
#
# ## Wrong on purpose: no data forgotten
#
# Forget that 0 means *no data*, and every block at the swath's edge mixes ground with nothing.

# %%
by_block = (coarse.shape[0], 2, coarse.shape[1], 2)
forgotten = np.sqrt((fine.astype(float) ** 2).reshape(by_block).mean(axis=(1, 3)))
blank = (fine == 0).reshape(by_block)
edge = (coarse != 0) & blank.any(axis=(1, 3))
lost = st.to_db((forgotten[edge] / coarse[edge]) ** 2)
print(f"{edge.sum()} pixels at the edge are too dark:", end=" ")
print(f"{-np.median(lost):.1f} dB in the median, {-lost.min():.1f} dB at most")
assert edge.any() and np.median(lost) < -1

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The edge of the simulated scene's swath at 5 m, with no data honoured and forgotten, and what is lost. White: no data, and on the right nothing lost.", "name": "fig-void-edge"}, "image": {"alt": "Three close-ups of a slanting edge between a radar image and nothing. Where no data is honoured the image ends at its own brightness; where it is forgotten some pixels along the edge are darker. The third panel shows these alone, up to six decibels too dark."}}
r = int(np.median(np.nonzero(edge.any(axis=1))[0]))
c = int(np.nonzero(edge[r])[0][0])
at = np.s_[r - 12 : r + 12, max(c - 10, 0) : max(c - 10, 0) + 24]
loss = np.full(coarse.shape, np.nan)
loss[edge] = lost
forgotten_db = st.dn_to_db(np.rint(forgotten).astype(np.uint16))
fig, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
st.show_backscatter(st.dn_to_db(coarse)[at], axes[0], title="honoured")
image = st.show_backscatter(forgotten_db[at], axes[1], title="forgotten")
fig.colorbar(image, ax=axes[:2], label="σ⁰ [dB]", location="left", shrink=0.8)
image = axes[2].imshow(loss[at], cmap="inferno", vmin=-6.1, vmax=0)
axes[2].set_axis_off()
axes[2].set_title("their difference")
fig.colorbar(image, ax=axes[2], label="forgotten − honoured [dB]", shrink=0.8)
plt.show()

# %% [markdown]
# At worst one pixel of four is valid, and a quarter of the power is left: 6 dB too dark.
#
# A declared value is just as easily forgotten: the 25 m mosaic of 2020 declares **1**, and a DN of 1 taken for a measurement is a very dark one.
# So the package reads every scene in one way: what the file declares invalid, by a value or by a mask, becomes DN 0, and after that there is one rule.

# %%
print(f"a DN of 1 read as a number: {st.dn_to_db(np.uint16([1]))[0]:.0f} dB")
mosaic = np.array([[1, 1, 4000, 4000], [1, 3000, 4000, 4000]], np.uint16)  # made up
as_read = np.where(mosaic == 1, 0, mosaic).astype(np.uint16)
assert st.block_mean(as_read).tolist() == [[3000, 4000]]
wrong = st.block_mean(mosaic)[0, 0]
print(
    f"the first block with 1 taken for a value: {st.to_db((wrong / 3000) ** 2):+.1f} dB"
)

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
# **1.** Average amplitudes of independent single-look pixels (the roots of exponential numbers) over blocks of 2, 3, 4 and 8 pixels a side. Where does the bias go, with ever larger blocks? Say it in dB: `check_limit(…)`.


# %% tags=["hide-cell"]
def check_limit(answer):
    """Say whether the limit of the bias [dB] is right, or which mistake it looks like."""
    limit = st.to_db(np.pi / 4)
    slips = {
        "Low, not high: the mean amplitude falls short.": -limit,
        "That is half: an amplitude is squared before 10·log10, or taken times 20.": limit
        / 2,
        "You averaged decibels.": st.to_db(np.exp(-np.euler_gamma)),
        "You averaged power, which has no bias.": 0.0,
        **{
            f"That is for blocks of {side} x {side}; go on.": st.to_db(
                np.pi / 4 + (1 - np.pi / 4) / side**2
            )
            for side in (2, 3, 4)
        },
    }
    check(answer, limit, slips, near=0.03)


# %% tags=["hide-cell"]
limit = st.to_db(np.pi / 4)
rng, biases = np.random.default_rng(1), []
for side in (2, 3, 4, 8):
    sample = np.sqrt(rng.exponential(size=(40_000, side**2)))
    biases.append(st.to_db((sample.mean(1) ** 2).mean()))
    print(f"{side} x {side}: {biases[-1]:+.2f} dB (limit {limit:+.2f} dB)")
# The mean amplitude becomes certain, and its square is pi/4 of the mean power.
assert biases == sorted(biases, reverse=True) and abs(biases[-1] - limit) < 0.03
check_limit(biases[-1])
check_limit(
    10 * np.log10(np.sqrt(rng.exponential(size=100_000)).mean())
)  # a usual slip

# %% [markdown]
# **2.** How much speckle does halving take away? Take the 128 × 128 pixels of the scene, of those at multiples of 128, whose {term}`equivalent number of looks` (mean² over variance of power) is highest, and the same ground after halving. How many times as many looks are there after: `check_looks(…)`? Four independent pixels would quadruple them: why is it less here?


# %% tags=["hide-cell"]
def looks(dn):
    power = dn.astype(float) ** 2
    return power.mean() ** 2 / power.var()


pieces = [
    (r, c)
    for r in range(0, fine.shape[0] - 127, 128)
    for c in range(0, fine.shape[1] - 127, 128)
    if (fine[r : r + 128, c : c + 128] > 0).all()
]
r, c = max(pieces, key=lambda p: looks(fine[p[0] : p[0] + 128, p[1] : p[1] + 128]))
even, halved_even = (
    fine[r : r + 128, c : c + 128],
    coarse[r // 2 : r // 2 + 64, c // 2 : c // 2 + 64],
)
before, after = looks(even), looks(halved_even)
facts = {
    "looks": (before, after),
    "of amplitude": looks(np.sqrt(halved_even)) / looks(np.sqrt(even)),
}


def check_looks(answer):
    """Say whether the gain in looks is right, or which mistake it looks like."""
    before, after = facts["looks"]
    slips = {
        "Four, if the pixels were independent. Measure it.": 4.0,
        "That is the looks after halving; divide by those before.": after,
        "Before over after; turn it round.": before / after,
        "You measured on amplitudes: square them first.": facts["of amplitude"],
    }
    check(answer, after / before, slips, near=0.1)


# %% tags=["hide-cell"]
check_looks(after / before)
check_looks(4)  # a usual slip
print(
    f"looks: {before:.1f} before, {after:.1f} after: {after / before:.1f} times as many"
)
# Neighbouring pixels share part of their speckle: the point response is wider than a pixel.
assert 1 < after / before < 4

# %% [markdown]
# **3.** GDAL can average as well: its resampling `rms` of amplitude is the root of the mean power. Read the scene at half size with it (`out_shape` and `resampling` of rasterio's `read`), and compare with `coarse` where no pixel of a block is no data. By how many DN do the two differ at most: `check_gdal(…)`?

# %% tags=["hide-cell"]
with rasterio.open(scenes[0]) as source:
    by_gdal = {
        how: source.read(1, out_shape=coarse.shape, resampling=Resampling[how])
        for how in ("rms", "average", "nearest")
    }
dense = ~blank.any(axis=(1, 3))
apart = {
    how: int(np.abs(dn[dense].astype(int) - coarse[dense]).max())
    for how, dn in by_gdal.items()
}
wrapped = int((by_gdal["rms"][dense] - coarse[dense]).max())


def check_gdal(answer):
    """Say whether the largest difference [DN] is right, or which mistake it looks like."""
    slips = {
        "uint16 minus uint16 cannot be negative and wraps round: make it int first.": wrapped,
        "That is GDAL's `average`: the mean of amplitudes, not of power.": apart[
            "average"
        ],
        "That is GDAL's default, one pixel of four: name the resampling.": apart[
            "nearest"
        ],
    }
    check(answer, apart["rms"], slips, near=0)


# %% tags=["hide-cell"]
difference = np.abs(by_gdal["rms"][dense].astype(int) - coarse[dense])
print(f"largest difference: {difference.max()} DN in {dense.sum()} pixels")
assert difference.max() <= 1  # rounding
check_gdal(difference.max())
check_gdal(apart["average"])  # a usual slip

# %% [markdown]
# ## Key points
#
# - The product says what a DN means; a file of no known product is refused until you say what it holds.
# - Average power, over valid pixels only, and keep the result as a DN.
# - Averaging amplitude or decibels is a bias that no amount of data removes; forgetting nodata darkens the swath's edge.
# - The georeference changes in one place: the pixel size.
# - On the command line: `sartutorial downsample SCENE... --out DIR [--factor 2] [--average power]`. `--factor 1` leaves the resolution of a 25 m product, and still applies its mask and writes its unit.
#
# ## References
#
# The calibration is JAXA's {cite:p}`shimada2009palsar`, the 25 m mosaic is described by {cite:t}`shimada2014forest`, and speckle's statistics by {cite:t}`goodman1976speckle` and {cite:t}`oliver2004understanding`. The step is §2.1 of {cite:t}`imamoglu2026tutorial`.
