# %% [markdown]
# # SAR images for people who know images
#
# ```{admonition} This chapter
# **You will** open a radar scene, turn its digital numbers into backscatter, measure its speckle, and meet the simulated world that the rest of the book runs on.
#
# **You need** NumPy and a little [Matplotlib](https://matplotlib.org); nothing about radar.
#
# **In the paper** §1. **Modules** `radiometry`, `lulc`, `rasters`, `simulate`. **Makes** simulated scenes, land-cover tiles and a height model. What it costs is [measured](../book/costs).
# ```
#
# A camera waits for light.
# A synthetic aperture radar (SAR) sends its own: it flies past, sends microwave pulses to one side, and records how strongly each patch of ground sends them back.
# It works at night and through clouds.
# ALOS-2 PALSAR-2, the radar of this book, uses L band: waves of about 24 cm, which pass through leaves and are sent back by branches, trunks, walls and rough soil.
#
# The scenes of the paper are restricted, so the book makes its own.
# **Every scene in this book is simulated unless a caption says otherwise.**

# %%
import matplotlib.pyplot as plt
import numpy as np
import rasterio
from scipy.stats import kstest

from sartutorial import lulc, maps, radiometry, rasters, simulate, workspace

scenes = workspace.scenes()
tiles = workspace.tiles()
print(*[path.name for path in scenes + tiles], sep="\n")

# %% [markdown]
# The first names follow JAXA's grammar for products: HH polarisation (sent and received horizontally), orbit and frame, date, ultra-fine mode (`UBS`), right-looking (`R`), processing level 2.1, in UTM (`U`), descending (`D`).
# The others are land-cover tiles, each named by its south-west corner.
#
# ## A digital number is not a brightness
#
# A scene file holds one unsigned 16-bit digital number (DN) a pixel.
# A DN is an *amplitude*; what physics predicts is *power*, its square.
# JAXA gives the calibration of levels 1.5 and 2.1 as
#
# $$
# \sigma^0 = 10 \log_{10} \langle \mathrm{DN}^2 \rangle - 83.0 \quad \text{[dB]}
# $$ (eq-calibration)
#
# where $\langle\cdot\rangle$ is a mean of power {cite:p}`shimada2009palsar`; for a single pixel the mean falls away.
# A DN has only 65,536 values, so {eq}`eq-calibration` is a table: one look-up turns a scene into decibels.
# The paper speaks of "sensor-specific lookup tables"; that this table is what they mean is our reading.

# %%
workspace.show_source(radiometry.lookup_table)

# %%
with rasters.opened(scenes[0]) as scene:
    nodata = rasters.nodata_of(scene)
    print(
        f"{scene.width} x {scene.height} pixels of {rasters.spacing(scene)} m, {scene.crs}"
    )
    print(f"declared nodata {nodata}, simulated: {scene.tags()['SIMULATED']}")
    dn = scene.read(1)

db = radiometry.dn_to_db(dn, nodata=nodata)
valid = np.isfinite(db)
print(f"{valid.mean():.1%} of the pixels hold data")

known = db[valid][:100_000]
assert np.array_equal(
    radiometry.db_to_dn(known), dn[valid][:100_000]
)  # DN -> dB -> DN is exact

# %% [markdown]
# The corners without data are no accident: the satellite flies at an angle to the map grid, so its strip of ground, the *swath*, lies askew in the raster.

# %% mystnb={"figure": {"caption": "A simulated scene in amplitude and in decibels, and the simulated land cover under it.", "name": "fig-scene"}, "image": {"alt": "Three panels of one simulated island scene. In amplitude only a few bright towns show. In decibels forest, fields, rivers and sea separate. The third panel shows the land-cover classes in colour."}}
labels = workspace.labelled() / scenes[0].name
with rasterio.open(labels) as source:
    ids = source.read(1)

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
axes[0].imshow(np.where(valid, dn, np.nan)[::6, ::6], cmap="gray")
axes[0].set_axis_off()
axes[0].set_title("amplitude (DN)")
maps.show_backscatter(axes[1], db[::6, ::6], "σ⁰ in dB, −25 to 0")
maps.show_classes(axes[2], ids[::3, ::3], "HR-LULC classes")
plt.show()

# %% [markdown]
# ## Speckle
#
# One pixel covers many scatterers: a few square metres of branches or clods.
# Their echoes add up as waves, sometimes in step, sometimes against each other, so even a perfectly even field looks grainy.
# That is *speckle*.
# It is not noise of the receiver: the same geometry gives the same grain.
#
# For a single look, intensity follows an exponential distribution {cite:p}`goodman1976speckle`.
# Averaging $L$ independent looks narrows it, and the *equivalent number of looks*
#
# $$
# \mathrm{ENL} = \frac{\langle I \rangle^2}{\operatorname{var} I}
# $$ (eq-enl)
#
# says how many looks an even area is worth.
# Here is speckle alone, from the function that makes the simulated scenes.

# %% mystnb={"figure": {"caption": "Simulated speckle of an even field, for one, four and sixteen looks: the more looks, the narrower the distribution. Lines: gamma distributions from theory.", "name": "fig-speckle"}, "image": {"alt": "Three histograms of intensity with theoretical curves on top. One look is exponential, four looks are skewed, sixteen looks are nearly a narrow bell around one."}}
from scipy.stats import gamma

fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True, layout="constrained")
grid = np.linspace(0.001, 3, 300)
for ax, looks in zip(axes, (1, 4, 16), strict=True):
    rng = np.random.default_rng(0)
    intensity = simulate.speckle((1024, 1024), looks, 0.6, rng)
    enl = intensity.mean() ** 2 / intensity.var()
    assert abs(enl / looks - 1) < 0.05
    ax.hist(
        intensity.ravel(), bins=np.linspace(0, 3, 80), density=True, color="tab:gray"
    )
    ax.plot(grid, gamma.pdf(grid, looks, scale=1 / looks), color="tab:orange")
    ax.set_title(f"{looks} look(s): ENL {enl:.2f}")
    ax.set_xlabel("intensity / mean")
axes[0].set_ylabel("density")
plt.show()

one_look = simulate.speckle((1024, 1024), 1, 0.6, np.random.default_rng(1))[
    ::8, ::8
].ravel()
print(f"exponential? Kolmogorov-Smirnov p = {kstest(one_look, 'expon').pvalue:.2f}")
print(
    f"Rayleigh (a common mistake: that is amplitude)? p = {kstest(one_look, 'rayleigh').pvalue:.0e}"
)

# %% [markdown]
# ## Average power, never decibels
#
# Because speckle is multiplicative and skewed, it matters *what* one averages.
# The mean of power is unbiased.
# The mean of amplitude reads low, and the mean of decibels reads lower still.
# The next cell does it wrong on purpose, on single-look speckle whose true mean is 0 dB.

# %%
power = np.random.default_rng(2).exponential(size=1_000_000)
print(f"mean of power       {radiometry.to_db(power.mean()):+.2f} dB")
print(f"mean of amplitude   {radiometry.to_db(np.sqrt(power).mean() ** 2):+.2f} dB")
print(f"mean of decibels    {radiometry.to_db(power).mean():+.2f} dB")
assert abs(radiometry.to_db(power).mean() + 10 * np.euler_gamma / np.log(10)) < 0.02

# %% [markdown]
# That last number is no accident of the sample: it is $-10\gamma/\ln 10$ with Euler's constant $\gamma$, and no amount of averaging makes it go away.
#
# ## What each class looks like
#
# HR-LULC is JAXA's land-cover map of Japan: fourteen classes at about 10 m.
# The simulator gives each a mean level, a texture and a place in the landscape.
# **The levels are ours**, chosen near what L-band HH shows; they are not measurements.

# %% mystnb={"figure": {"caption": "Backscatter of each class in the simulated scene: median, and the range of the middle 80 % of the pixels. The ranges overlap: a single pixel does not give its class away.", "name": "fig-classes"}, "image": {"alt": "Horizontal bars, one for each land-cover class, water the darkest, built-up the brightest and widest, most of them overlapping."}}
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

with rasterio.open(labels) as source, rasterio.open(scenes[0]) as scene:
    fine = rasters.grid_of(scene)._asdict()
    with WarpedVRT(
        source, **fine, resampling=Resampling.nearest, tolerance=1e-9
    ) as vrt:
        fine_ids = vrt.read(1)

present = [c for c in lulc.CLASSES if (fine_ids == c.id).any()]
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for y, c in enumerate(present):
    low, middle, high = np.nanpercentile(db[fine_ids == c.id], [10, 50, 90])
    ax.barh(y, high - low, left=low, color=np.array(c.rgb) / 255, edgecolor="gray")
    ax.plot(middle, y, "wo", markeredgecolor="black", markersize=5)
ax.set_yticks(range(len(present)), [c.name for c in present])
ax.set_xlabel("σ⁰ [dB]")
plt.show()

# %% [markdown]
# Three things to see, here and in real scenes:
#
# - **Calm water and smooth ground are dark.** A mirror sends the wave away.
# - **Forest is bright and grainy**, because L band meets branches and trunks at every angle.
# - **Towns are brightest.** Wall and ground make a corner that sends the wave straight back.
#
# Relief does the rest: slopes that face the radar are bright, slopes that face away are dark.
# Where a slope that faces the radar is steeper than the incidence angle, echoes of top and foot change places (*layover*); a slope that faces away, steeper than 90° minus that angle, sends nothing back (*shadow*).
# The simulator models the brightness of slopes, not layover; real scenes have both.
#
# ## σ⁰ and γ⁰
#
# σ⁰ relates power to an area on the ground, γ⁰ to an area across the beam: $\gamma^0 = \sigma^0 / \cos\theta$ with the incidence angle $\theta$.
# The paper's scenes are σ⁰, JAXA's open 25 m mosaics γ⁰, and the two differ by a decibel or so.
# Statistics of one do not carry over to the other, so the package reads the unit from the product and keeps it in a tag.

# %%
for name in (
    "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif",
    "N35E139_20_sl_HH_F02DAR.tif",
):
    print(name, "->", radiometry.quantity(name))
print(f"γ⁰ - σ⁰ at 36 degrees: {-10 * np.log10(np.cos(np.radians(36))):.2f} dB")

# %% [markdown]
# ## Why one cannot just take all pixels
#
# The paper's introduction names the two troubles with satellite archives: *redundancy* (a forest looks like the next forest) and *imbalance* (most of Japan is forest, hardly any of it a solar park).
# The simulated world has both.

# %%
counts = np.bincount(ids.ravel(), minlength=16)
land = counts[2:].sum()
forest = counts[list(lulc.FOREST_IDS)].sum()
print(f"forest: {forest / land:.0%} of the land, solar panels: {counts[12] / land:.2%}")
assert forest / land > 0.4

# %% [markdown]
# ## Key points
#
# - DN is amplitude; σ⁰ in dB is $10\log_{10}\langle \mathrm{DN}^2\rangle - 83$.
# - Speckle is part of the signal; ENL measures it, and averaging must be of power.
# - Honour the declared nodata value. Here it is 0, elsewhere it is not.
# - What is simulated here is plain: no layover, no seasons, no interference. It is meant for learning the chain, not for judging a sensor.
