# %% [markdown]
# # Halving the scene
#
# ```{admonition} This chapter
# **You will** halve a scene's resolution without spoiling its radiometry or its place on the map, and measure what the wrong average costs.
#
# **You need** [chapter 1](01_sar_images): amplitude, power, nodata.
#
# **In the paper** §2.1, first step. **Module** `downsample`. **Takes** scenes of 2.5 m. **Makes** scenes of 5 m. What it costs is [measured](../book/costs).
# ```
#
# **Paper:** "Original high-resolution SAR GeoTIFFs were first downsampled by half to reduce data size … by using average resampling of neighboring pixels while preserving the original metadata."
#
# It does not say an average of *what*.
# **Ours:** power, because backscatter is power ([chapter 1](01_sar_images)).
# The result is again a DN, so that the same calibration holds:
#
# $$
# \mathrm{DN}_{\text{out}} = \sqrt{\frac{1}{|V|} \sum_{i \in V} \mathrm{DN}_i^2}
# $$ (eq-block)
#
# where $V$ are the *valid* pixels of a block.
# A block is no data only if none of its pixels is valid, which is GDAL's rule.

# %%
import matplotlib.pyplot as plt
import numpy as np
import rasterio

from sartutorial import maps, radiometry, workspace
from sartutorial.downsample import block_mean

workspace.show_source(block_mean)

# %% [markdown]
# ## Do it
#
# One call a scene.
# It streams: whatever the scene's size, about a thousand rows are in memory at a time.

# %%
scenes = workspace.scenes()
halved = workspace.halved()
for before, after in zip(scenes, halved, strict=True):
    print(
        before.name,
        f"{before.stat().st_size / 1e6:.1f} MB -> {after.stat().st_size / 1e6:.1f} MB",
    )

# %% [markdown]
# What came back, and what it did not do: the CRS and the upper left corner are the same, the pixel is twice as large, the tags are kept, and nodata is still declared.

# %%
with rasterio.open(scenes[0]) as before, rasterio.open(halved[0]) as after:
    assert after.crs == before.crs and after.nodata == before.nodata
    assert (
        after.transform.c == before.transform.c
        and after.transform.f == before.transform.f
    )
    assert after.res == tuple(2 * r for r in before.res)
    fine, coarse, nodata = before.read(1), after.read(1), after.nodata
    print(after.tags())

# %% mystnb={"figure": {"caption": "A corner of a simulated scene before and after halving (same stretch, same ground).", "name": "fig-halved"}, "image": {"alt": "Two grey radar images of the same ground. The right one, halved, is less grainy."}}
rows, cols = np.s_[1600:2112], np.s_[1600:2112]
half = np.s_[800:1056]
fig, axes = plt.subplots(1, 2, figsize=(10, 5.2), layout="constrained")
maps.show_backscatter(axes[0], radiometry.dn_to_db(fine[rows, cols]), "2.5 m")
maps.show_backscatter(
    axes[1], radiometry.dn_to_db(coarse[half, half]), "5 m, mean power"
)
plt.show()

# %% [markdown]
# ## It is exact
#
# The block mean must equal {eq}`eq-block` computed in double precision, to one DN.

# %%
blocks = fine[rows, cols].astype(np.float64).reshape(256, 2, 256, 2)
truth = np.sqrt((blocks**2).mean(axis=(1, 3)))
found = block_mean(fine[rows, cols])
assert np.abs(found - truth).max() <= 0.5 + 1e-3
print(
    f"largest difference: {np.abs(found - truth).max():.2f} DN (rounding to whole DN allows 0.5)"
)

# %% [markdown]
# ## Wrong on purpose
#
# Three averages of the same pixels.
# The truth is the mean power of the unhalved scene over the same ground.

# %%
whole = np.isfinite(radiometry.dn_to_db(fine[rows, cols])).all()
assert whole
reference = radiometry.to_db((fine[rows, cols].astype(float) ** 2).mean())
amplitude = block_mean(fine[rows, cols], average="amplitude").astype(float)
decibels = radiometry.to_db(blocks**2).mean(axis=(1, 3))
for name, power in (
    ("mean of power", found.astype(float) ** 2),
    ("mean of amplitude", amplitude**2),
    ("mean of decibels", radiometry.to_power(decibels)),
):
    print(f"{name:<18} {radiometry.to_db(power.mean()) - reference:+.2f} dB off")

# %% [markdown]
# The scene's pixels already average several looks and are correlated by the point response, so the damage is smaller than for independent pixels of a single look:

# %%
single = np.random.default_rng(0).exponential(size=(1_000_000, 4))
for name, power in (
    ("amplitude", np.sqrt(single).mean(1) ** 2),
    ("decibels", radiometry.to_power(radiometry.to_db(single).mean(1))),
):
    print(
        f"independent single-look pixels, four a block: mean of {name} {radiometry.to_db(power.mean()):+.2f} dB off"
    )

# %% [markdown]
# ## And without nodata?
#
# Forget that 0 means *no data*, and every block at the swath's edge mixes ground with nothing.

# %%
kept = block_mean(fine)
forgotten = block_mean(np.where(fine == 0, np.uint16(1), fine))  # 0 taken for a number
blank = fine.reshape(kept.shape[0], 2, kept.shape[1], 2) == 0
edge = (kept != 0) & blank.any(axis=(1, 3))
lost = radiometry.to_db(
    forgotten[edge].astype(float) ** 2 / kept[edge].astype(float) ** 2
)
print(f"{edge.sum()} edge pixels are up to {-lost.min():.1f} dB too dark")
assert edge.any()

# %% [markdown]
# ## Key points
#
# - Average power, over valid pixels only, and keep the result as a DN.
# - The georeference changes in one place: the pixel size.
# - On the command line: `sartutorial downsample SCENE... --out DIR [--factor 2] [--average power]`.
