# %% [markdown]
# # SAR images for people who know images
#
# ```{admonition} This chapter
# **You will** open a radar scene, turn its digital numbers into backscatter, measure its speckle and what averaging does to it, see what relief does and what each class of land looks like, try how well a threshold finds water, tell σ⁰ from γ⁰, and meet the simulated world that the rest of the book runs on.
#
# **You need** NumPy and a little [Matplotlib](https://matplotlib.org). If you know radar and not networks, skim the formulas and read from *What each class looks like* on; if you know networks and not radar, read it all.
#
# **In the paper** §1. **Modules** `radiometry`, `lulc`, `rasters`, `world.landscape`, `world.simulate`. **Makes** simulated scenes, land-cover tiles, a height model and the truth. What it costs is [measured](../book/costs); no GPU is needed.
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
import json

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from IPython.display import display
from rasterio.windows import Window
from scipy import ndimage, stats

import sartutorial as st
from sartutorial import profiles, radiometry, rasters, tutorial
from sartutorial.world import simulate

scenes = tutorial.scenes()
tiles = tutorial.tiles()
world = tutorial.world()
print(*[path.relative_to(world) for path in scenes + tiles], sep="\n")

# %% [markdown]
# The first names follow JAXA's grammar for products: HH {term}`polarisation` (sent and received horizontally), orbit and frame (which pass, and which piece of its strip), date, ultra-fine mode (`UBS`), right-looking (`R`), {term}`processing level` 2.1, georeferenced (`G`), in {term}`UTM` (`U`), descending (`D`: flying from north to south).
#
# A *processing level* says how much JAXA has done to the echoes. Level 1.1 is the complex image as the radar sees it: for each pixel the size of the wave and its phase. Levels 1.5 and 2.1 are the sizes alone, amplitudes, on a map grid (2.1 with the relief's shift taken out); 3.1 is enhanced for the eye.
#
# The other files have the form of {term}`HR-LULC`, JAXA's land-cover map of Japan: tiles of one degree, each named by its south-west corner.
# The island lies where four of them meet, so a scene may need all four.
#
# ## Looking sideways
#
# The satellite flies along its track and looks to one side.
# An echo's delay says how far away the ground is that sent it: across the track, a radar image is sorted by distance, its {term}`range`. Along the track, the {term}`azimuth`, many pulses from different places are combined, as if the antenna were as long as the way flown between them: that is the synthetic aperture.
#
# The edge of the strip that lies nearer to the track is {term}`near range`, the other one {term}`far range`; between them grows the {term}`incidence angle` $\theta$ at which the wave meets flat ground.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "How a radar image comes about, looking along the track (a drawing, not to scale). The angle at near range is smaller than at far range.", "name": "fig-geometry"}, "image": {"alt": "A drawing. High up on the right is the satellite, flying into the page. Two rays go down to the left and meet the ground at the ends of a thick line, the swath: the steeper ray at near range, the flatter one at far range. Where a ray meets the ground, the incidence angle is drawn between the ray and the vertical."}}
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
ax.set(xlim=(-1, 11), ylim=(-1, 6), aspect="equal")
ax.set_axis_off()
satellite = np.array([9.5, 5.3])
ax.plot([-0.5, 10.5], [0, 0], color="0.6")
ax.plot([2, 5.5], [0, 0], color="tab:orange", linewidth=5, solid_capstyle="butt")
for foot, name in ((5.5, "near range"), (2.0, "far range")):
    ax.plot([satellite[0], foot], [satellite[1], 0], color="0.3", linewidth=1)
    ax.plot([foot, foot], [0, 2.2], color="0.3", linewidth=0.8, linestyle=":")
    angle = np.arctan2(satellite[0] - foot, satellite[1])
    arc = np.linspace(0, angle, 30)
    ax.plot(foot + 1.3 * np.sin(arc), 1.3 * np.cos(arc), color="tab:blue")
    middle = angle / 2
    ax.text(foot + 1.6 * np.sin(middle), 1.6 * np.cos(middle), "θ", color="tab:blue")
    ax.text(foot, -0.55, name, ha="center")
ax.text(3.75, -0.5, "swath", ha="center", color="#a04a00")
ax.plot(*satellite, "s", color="black", markersize=12)
ax.text(9.5, 5.75, "satellite, flying into the page (azimuth)", ha="right")
ax.annotate(
    "distance (range)",
    (5.6, 2.9),
    (7.2, 1.6),
    arrowprops={"arrowstyle": "-", "color": "0.5"},
)
plt.show()

# %% [markdown]
# ## A digital number is not a brightness
#
# A scene file holds one unsigned 16-bit {term}`digital number` (DN) a pixel.
# A DN is an *{term}`amplitude`*; what physics predicts is *power*, its square.
# The power that a square metre of ground sends back, against what it would send back if it scattered all that reaches it evenly in all directions, is its {term}`backscatter` σ⁰ ("sigma nought").
# It is a ratio, and spans so many orders of magnitude that it is written in {term}`decibels <decibel>`, ten times its logarithm: +10 dB is ten times the power, +3 dB about twice.
#
# JAXA gives the calibration of levels 1.5 and 2.1 as
#
# $$
# \sigma^0 = 10 \log_{10} \langle \mathrm{DN}^2 \rangle - 83.0 \quad \text{[dB]}
# $$ (eq-calibration)
#
# where $\langle\cdot\rangle$ is a mean of power {cite:p}`shimada2009palsar`; for a single pixel the mean falls away.
#
# A DN has only 65,536 values, so {eq}`eq-calibration` is a table: one look-up turns a scene into decibels.
# The paper speaks of "sensor-specific lookup tables"; that this table is what they mean is our reading.

# %%
tutorial.show_source(radiometry.lookup_table)

# %%
with rasters.opened(scenes[0]) as scene:
    print(
        f"{scene.width} x {scene.height} pixels of {st.pixel_size(scene):.2f} m, {scene.crs}"
    )
    print(f"declared nodata {scene.nodata}, simulated: {scene.tags()['SIMULATED']}")
    grid = rasters.grid_of(scene)
    dn = scene.read(1)

db = st.dn_to_db(dn)
valid = np.isfinite(db)
print(f"{valid.mean():.1%} of the pixels hold data")

known = db[valid][:100_000]
assert np.array_equal(
    st.db_to_dn(known), dn[valid][:100_000]
)  # DN -> dB -> DN is exact

# %% [markdown]
# For a file of your own one call does it, with the calibration of its product: `st.read_db(path)`.

# %%
whole = st.read_db(scenes[0])
assert np.array_equal(whole.db, db, equal_nan=True) and whole.quantity == "sigma0"

# %% [markdown]
# The corners hold DN 0, which the file declares to mean {term}`no data`. They are no accident: the satellite flies at an angle to the map grid, so its strip of ground, the *swath*, lies askew in the raster.
#
# The land cover under the scene comes from the simulator's truth, which lies beside the products: classes, heights, and by how much a place differs from its class.
# A real scene has no such folder.


# %%
def under(path, name):
    """A raster of the truth (5 m) under a scene, read by its place on the map."""
    with rasterio.open(path) as s, rasterio.open(world / name) as truth:
        col, row = ~truth.transform * (s.transform.c, s.transform.f)
        size = round(s.width * s.transform.a / truth.transform.a)
        return truth.read(1, window=Window(round(col), round(row), size, size))


classes = under(scenes[0], simulate.CLASSES)
dem = under(scenes[0], simulate.DEM)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A simulated scene in amplitude and in decibels, and the simulated land cover under it and beside its swath. Some classes are hatched, for those who cannot tell their colours apart; the colours of wetland, greenhouse and rock reef are ours.", "name": "fig-scene"}, "image": {"alt": "Three panels of one simulated island scene, with a legend. In amplitude the land is dark grey and its parts hardly differ. In decibels forest, fields, rivers, relief and sea separate. The third panel shows the land-cover classes in colour."}}
fig, axes = plt.subplots(
    1, 4, figsize=(11.5, 3.7), width_ratios=[5, 5, 4.4, 3], layout="constrained"
)
width = dn.shape[1] * grid.transform.a / 1000
amplitude = axes[0].imshow(
    np.where(valid, dn, np.nan)[::6, ::6], cmap="gray", vmin=0, vmax=20_000
)
axes[0].set_axis_off()
axes[0].set_title(f"amplitude, {width:.1f} km wide")
decibels = st.show_backscatter(db[::6, ::6], axes[1], title="the same in decibels")
st.show_classes(classes[::3, ::3], axes[2], title="HR-LULC classes")
st.show_legend(st.HR_LULC, axes[3])
for image, ax, unit in ((amplitude, axes[0], "DN"), (decibels, axes[1], "σ⁰ [dB]")):
    fig.colorbar(image, ax=ax, label=unit, location="bottom", shrink=0.8)
plt.show()

# %% [markdown]
# ## Speckle
#
# One pixel covers many scatterers: a few square metres of branches or clods.
# Their echoes add up as waves, sometimes in step, sometimes against each other, so even a perfectly even field looks grainy.
# That is *{term}`speckle`*.
# It is not noise of the receiver: the same geometry gives the same grain.
#
# A {term}`look` is one such image of the ground, made from one part of the echoes. Processing may average several; the scenes here are worth two.
# For a single look, intensity (power, up to a factor) follows an exponential distribution {cite:p}`goodman1976speckle`.
# Averaging $L$ independent looks narrows it to a gamma distribution, and the *{term}`equivalent number of looks`*
#
# $$
# \mathrm{ENL} = \frac{\langle I \rangle^2}{\operatorname{var} I}
# $$ (eq-enl)
#
# says how many looks an even area is worth.
#
# Here is speckle alone, from the function that makes the simulated scenes: for each look a complex wave, its real and imaginary part drawn at random, then squared.
# The waves (`smooth`) are correlated between neighbours as in a real image, where a single bright point is smeared over a pixel or two: that smear is the radar's {term}`point response`.

# %%
tutorial.show_source(simulate.speckle)

# %% mystnb={"figure": {"caption": "Simulated speckle of an even field, for one, four and sixteen looks: the more looks, the narrower the distribution. Grey: simulated. Lines: gamma distributions from theory.", "name": "fig-speckle"}, "image": {"alt": "Three histograms of intensity with theoretical curves on top. One look is exponential, four looks are skewed, sixteen looks are nearly a narrow bell around one."}}
fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True, layout="constrained")
x, bins = np.linspace(0.001, 3, 300), np.linspace(0, 3, 81)
place = Window(0, 0, 1024, 1024)
for ax, looks in zip(axes, (1, 4, 16), strict=True):
    intensity = simulate.speckle(1.0, looks, simulate.CORRELATION, (looks,), place)
    enl = intensity.mean() ** 2 / intensity.var()
    assert abs(enl / looks - 1) < 0.05
    density = np.histogram(intensity, bins)[0] / intensity.size / np.diff(bins)
    ax.stairs(density, bins, fill=True, color="0.6")
    ax.plot(x, stats.gamma.pdf(x, looks, scale=1 / looks), color="tab:orange")
    ax.set_title(f"number of looks {looks}: ENL {enl:.2f}")
    ax.set_xlabel("intensity / mean")
axes[0].set_ylabel("density")
plt.show()

# %% [markdown]
# A usual mistake is to expect a Rayleigh distribution of intensity: it is the law of *amplitude*.
# A Kolmogorov–Smirnov test gives the probability, p, that a sample strays so far from a law by chance. A p close to 0 speaks against the law.

# %%
one_look = simulate.speckle(1.0, 1, simulate.CORRELATION, (99,), place)[::8, ::8]
rayleigh = stats.rayleigh(scale=np.sqrt(1 / 2))  # of amplitudes whose mean power is 1
for name, sample, law in (
    ("intensity, exponential", one_look, stats.expon()),
    ("intensity, Rayleigh", one_look, rayleigh),
    ("amplitude, Rayleigh", np.sqrt(one_look), rayleigh),
):
    print(f"{name:<23} p = {stats.kstest(sample.ravel(), law.cdf).pvalue:.2g}")

# %% [markdown]
# On the scene itself, {eq}`eq-enl` gives the looks only where the ground is even.
# The sea is, in the small boxes of the next cell; forest and towns have a *texture* of their own, a mean that changes from tree to tree and from roof to roof, and come out lower.


# %%
def enl(power, where, box=24):
    """ENL of all boxes (box x box pixels) that lie wholly in a mask: their median."""
    n = len(power) // box * box
    cut = [a[:n, :n].reshape(n // box, box, -1, box) for a in (power, where)]
    inside = cut[1].all(axis=(1, 3))
    mean, var = (
        f(cut[0].astype(float), axis=(1, 3))[inside] for f in (np.mean, np.var)
    )
    return float(np.median(mean**2 / var)), int(inside.sum())


# %%
power = st.to_power(db)
fine = classes.repeat(2, 0).repeat(2, 1)  # the truth has pixels of 5 m
at_sea = (classes == 1) & (dem == 0)  # rivers and lakes lie higher
measured = {}
for name, where in {
    "sea": at_sea.repeat(2, 0).repeat(2, 1),
    "forest": np.isin(fine, st.HR_LULC.forest),
    "built-up": fine == 2,
}.items():
    measured[name], boxes = enl(np.nan_to_num(power), where & valid)
    print(f"{name:<9} ENL {measured[name]:.2f} in {boxes} boxes")
print(f"the simulator's looks: {simulate.LOOKS}")
assert abs(measured["sea"] / simulate.LOOKS - 1) < 0.1
assert measured["built-up"] < measured["forest"] < measured["sea"]

# %% [markdown]
# Towns come out far below one look, which no averaging of speckle could give: {eq}`eq-enl` then measures the *ground*. In a box of streets, roofs and a few corners of walls that send nearly everything back, the mean power differs so much from pixel to pixel that its variance is many times the square of its mean. An ENL below the number of looks is a sign of texture, not of a worse radar.
#
# In the simulation the texture of a class follows a gamma distribution of mean 1. Speckle times such a texture is *K distributed*, the usual model of forest {cite:p}`oliver2004understanding`. Corners are set into towns on top of that.
#
# ## Looks and averaging
#
# Averaging $n \times n$ pixels trades resolution for looks.
# Move the slider: the same fields and town, averaged in power over ever larger windows, and what is left of the speckle on the fields.

# %%
# Where the truth has most of both around it: built-up (id 2) and cropland (id 4).
town = ndimage.uniform_filter((classes == 2).astype(np.float32), 61)
mixed = town * ndimage.uniform_filter((classes == 4).astype(np.float32), 61)
mixed[:80], mixed[-80:], mixed[:, :80], mixed[:, -80:] = 0, 0, 0, 0
mixed[~valid[::2, ::2]] = 0
row, col = (2 * int(i) for i in np.unravel_index(mixed.argmax(), mixed.shape))
cut = (slice(row - 144, row + 144), slice(col - 144, col + 144))
field = fine[cut] == 4


def averaged(n, of="power"):
    """The cut-out averaged over n x n pixels, in dB: of power, amplitude or decibels."""
    to, back = {
        "power": (lambda p: p, lambda m: m),
        "amplitude": (np.sqrt, np.square),
        "decibels": (st.to_db, st.to_power),
    }[of]
    blocks = to(power[cut]).reshape(288 // n, n, 288 // n, n)
    return st.to_db(back(blocks.mean(axis=(1, 3))))


def crops(n):
    """Which of the averaged pixels hold cropland alone."""
    return field.reshape(288 // n, n, 288 // n, n).all(axis=(1, 3))


# %% tags=["hide-input"]
def looks_figure(n, of="power"):
    """The averaged image, and the distribution over its cropland."""
    image, where, bins = averaged(n, of), crops(n), np.arange(-35, 5)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4.1), width_ratios=(1.15, 1.2), layout="constrained"
    )
    drawn = st.show_backscatter(image, left, title=f"mean of {of}, {2.5 * n:g} m")
    fig.colorbar(drawn, ax=left, label="σ⁰ [dB]", location="left", shrink=0.8)
    right.hist(averaged(1)[field], bins, density=True, color="0.8", label="2.5 m")
    if where.sum() > 20:
        name = f"averaged, {2.5 * n:g} m"
        right.hist(image[where], bins, density=True, alpha=0.7, label=name)
        true, got = (st.to_power(i[where]).mean() for i in (averaged(n), image))
        right.set_title(f"its mean power is {st.to_db(got / true):+.1f} dB off")
    mean = st.to_db(power[cut][field].mean())
    right.axvline(mean, color="tab:orange", label="mean power at 2.5 m")
    right.set(xlabel="σ⁰ of cropland [dB]", ylabel="density", ylim=(0, 0.5))
    right.legend(frameon=False, loc="upper left")
    return fig


tutorial.slider(
    [(f"{n} x {n}", looks_figure(n)) for n in (1, 2, 3, 4, 6, 8, 12)],
    "pixels",
    "A simulated radar image of a town and fields beside a histogram of its cropland. The larger the window of the average, the smoother the image and the narrower the histogram, around the same mean.",
)

# %% [markdown]
# In numbers: the spread that is left, and where the middle of the decibels lies against the mean power, which stays.

# %%
mean = st.to_db(power[cut][field].mean())
for n in (1, 2, 4, 8):
    here = averaged(n)[crops(n)]
    middle = np.median(here) - mean
    print(f"{n} x {n}: spread {here.std():.1f} dB, middle {middle:+.1f} dB")

# %% [markdown]
# The speckle goes, the differences between fields stay.
# And the middle of the decibels lies below the mean power, the more so the more speckle there is: the logarithm stretches the dark side.
#
# In a running notebook the next cell takes any window and any average. A page without a kernel leaves its result out: the windows stand above, the wrong averages in the next section.


# %% tags=["hide-input"]
window = ipywidgets.Dropdown(
    options=[1, 2, 3, 4, 6, 8, 9, 12, 16], value=2, description="pixels"
)
mean_of = ipywidgets.Dropdown(
    options=["power", "amplitude", "decibels"], description="mean of"
)
shown = ipywidgets.HTML()


def live(_=None):
    """Draw what the widgets say."""
    n, of = window.value, mean_of.value
    alt = f"The simulated town and fields, mean of {of} over {n} x {n} pixels."
    picture = tutorial.picture(looks_figure(n, of))
    shown.value = f'<img src="{picture}" alt="{alt}">'


for widget in (window, mean_of):
    widget.observe(live, "value")
live()
display(ipywidgets.VBox([window, mean_of, shown]))

# %% [markdown]
# ## Wrong on purpose: decibels averaged
#
# Because the distribution of power is skewed, it matters *what* one averages.
# The mean of power is unbiased; the mean of amplitude reads low, and the mean of decibels reads lower still.
# First on the fields, over four by four pixels:

# %% tags=["hide-input"]
tutorial.slider(
    [
        (f"mean of {of}", looks_figure(4, of))
        for of in ("power", "amplitude", "decibels")
    ],
    "average",
    "The same image and histogram for three averages of four by four pixels. Against the mean of power, the histogram of the mean of amplitude lies lower, that of the mean of decibels lower still.",
    start=-1,
)

# %% [markdown]
# Then where theory knows the answer: on independent single-look speckle whose true mean is 0 dB.

# %%
exponential = np.random.default_rng(2).exponential(size=1_000_000)
print(f"mean of power       {st.to_db(exponential.mean()):+.2f} dB")
amplitude_db = st.to_db(np.sqrt(exponential).mean() ** 2)
print(f"mean of amplitude   {amplitude_db:+.2f} dB")
print(f"mean of decibels    {st.to_db(exponential).mean():+.2f} dB")
theory = {
    "amplitude": 10 * np.log10(np.pi / 4),
    "decibels": -10 * np.euler_gamma / np.log(10),
}
print("theory:", *(f"{of} {bias:+.2f} dB" for of, bias in theory.items()))
assert abs(amplitude_db - theory["amplitude"]) < 0.02
assert abs(st.to_db(exponential).mean() - theory["decibels"]) < 0.02

# %% [markdown]
# The last line is theory: $10\log_{10}(\pi/4)$ for amplitude, and $-10\gamma/\ln 10$ with Euler's constant $\gamma$ for decibels.
# No averaging makes them go away. The fields lose less, because their pixels have two looks and share part of their speckle with their neighbours.
#
# ## What relief does
#
# A radar measures distance, not angle.
# It stands high on one side and looks down at an incidence angle $\theta$ from the vertical: here in the east, since a satellite that flies south and looks to its right looks west.
# A slope that faces it packs much ground into little distance and looks bright; a slope that faces away looks dark.
# The simulator takes
#
# $$
# \frac{\sigma^0(\theta_\mathrm{loc})}{\sigma^0(\theta)} = \left(\frac{\cos\theta_\mathrm{loc}}{\cos\theta}\right)^{\eta} \frac{\sin\theta}{\sin\theta_\mathrm{loc}}
# $$ (eq-slope)
#
# but at most 10 dB. The local incidence angle $\theta_\mathrm{loc}$ lies between the wave and the perpendicular of the slope; the exponent $\eta$ is 1 for a volume such as forest, more for bare ground.
# The second factor is the area of ground that a pixel sees {cite:p}`small2011flattening`; the first, its exponents and the limit are **ours**.
#
# Where a facing slope is steeper than $\theta$, its top is nearer to the radar than its foot and comes first: the two change places, which is *{term}`layover`*.
# Where an averted slope is steeper than $90° - \theta$, no wave reaches it: *{term}`shadow <radar shadow>`*, where only the receiver's noise is left.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A made-up profile seen from the right at the simulator's incidence angle. Below, where each point of the ground appears when it is placed by its distance from the radar: many in one bin is layover, none is shadow.", "name": "fig-layover"}, "image": {"alt": "A hill profile with rays coming down from the right. The slope facing the radar is marked as layover, the steep slope behind the top as shadow. Under it a bar shows how many ground points fall on each distance."}}
theta = simulate.THETA
ground = np.linspace(0, 1000, 4001)
height = 230 * np.exp(-(((ground - 620) / 110) ** 2)) + 200 * np.exp(
    -(((ground - 330) / 60) ** 2)
)
delay = -(
    ground * np.sin(theta) + height * np.cos(theta)
)  # distance to the radar, plus a constant
sight = ground * np.cos(theta) - height * np.sin(theta)  # the ray that a point lies on
dark = np.minimum.accumulate(sight[::-1])[::-1] < sight - 1e-9
facing = ~dark & (np.gradient(delay, ground) > 0)

fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(9, 4.4), height_ratios=(3, 1), sharex=True, layout="constrained"
)
top.plot(ground, height, color="0.3")
for mask, name, colour in (
    (facing, "layover", "tab:orange"),
    (dark, "shadow", "black"),
):
    top.plot(
        np.where(mask, ground, np.nan), height, color=colour, linewidth=4, label=name
    )
for start in range(150, 1300, 50):
    top.plot(
        [start, start - 500 * np.tan(theta)],
        [500, 0],
        color="0.85",
        zorder=0,
        linewidth=0.7,
    )
top.set(ylim=(0, 400), xlim=(0, 1000), ylabel="height [m]")
top.legend(frameon=False)
seen = -delay[~dark] / np.sin(theta)
bottom.hist(seen, np.arange(0, 1000, 10), color="tab:gray")
bottom.set(
    xlabel="distance across the track [m]; the radar stands on the right",
    ylabel="points",
)
plt.show()
assert facing.any() and dark.any()
assert np.arctan(-np.gradient(height, ground)[facing]).min() > theta - 0.01

# %% [markdown]
# The next cell measures it on the scene, for forest alone: the smaller the local incidence angle, the steeper the slope faces the radar.

# %%
cos = simulate.incidence(dem)
half = power.reshape(len(cos), 2, len(cos), 2).mean(axis=(1, 3))  # 5 m
covered = np.isfinite(half)
angle, dark = np.degrees(np.arccos(cos.clip(-1, 1))), simulate.shadow(dem)
forest = np.isin(classes, st.HR_LULC.forest) & covered & ~dark
rows = []
for low, high in ((0, 20), (20, 30), (30, 42), (42, 55), (55, 75)):
    here = forest & (angle >= low) & (angle < high)
    mean = st.to_db(half[here].mean())
    rows.append((f"{low}–{high}°", int(here.sum()), mean))
print(
    pd.DataFrame(
        rows, columns=["local incidence", "pixels", "forest σ⁰ [dB]"]
    ).to_string(index=False, float_format="{:.1f}".format)
)
values = [r[2] for r in rows]
assert values == sorted(
    values, reverse=True
)  # the steeper it faces the radar, the brighter
gone = dark & covered
print(f"shadow: {gone.mean():.2%} of the scene, {st.to_db(half[gone].mean()):.1f} dB")
print(f"the simulated receiver's noise: {simulate.NOISE_DB:.1f} dB")

# %%
by_relief = max(values) - min(values)
levels = [answer.level for answer in simulate.SIGMA0.values()]
by_cover = max(levels) - min(levels)
print(f"relief moves forest by {by_relief:.1f} dB;", end=" ")
print(f"the classes' levels on flat ground span {by_cover:.1f} dB")
assert 0.3 < by_relief / by_cover < 0.7  # about half

# %% [markdown]
# The simulator models brightness and shadow, not layover: echoes keep their place on the map.
# Real scenes have all three.
#
# ## What each class looks like
#
# HR-LULC has fourteen classes at about 10 m, 12,000 pixels a degree.
# Id 0 is *void*, no class; the sea is class 1 in tiles that hold land, and void in tiles that hold none.
#
# The simulator gives each class a level on flat ground, an exponent for {eq}`eq-slope`, a texture and a place in the landscape. The *order* of a texture is that of its gamma distribution: the smaller, the rougher; ∞ is none.
# **These values are ours**, chosen near what L-band HH shows; they are not measurements.
#
# The next cell measures the levels on all simulated scenes, where the ground is level, with the receiver's noise taken off.
# Its last two columns say how far a class lies above or below deciduous broad-leaved forest, here and in a **real** scene.

# %%
table = pd.DataFrame(
    simulate.SIGMA0.values(),
    index=[c.name for c in st.HR_LULC.classes[:14]],
    columns=["level", "η", "order"],
)
flat_angle = np.degrees(simulate.THETA)
total, count = np.zeros(16), np.zeros(16)
for path in tutorial.halved():
    with rasterio.open(path) as source:
        seen = st.to_power(st.dn_to_db(source.read(1)))
    cos = simulate.incidence(under(path, simulate.DEM))
    angle = np.degrees(np.arccos(cos.clip(-1, 1)))
    flat = np.isfinite(seen) & (np.abs(angle - flat_angle) < 3)
    ids = under(path, simulate.CLASSES)[flat]
    total += np.bincount(ids, seen[flat], 16)
    count += np.bincount(ids, minlength=16)
floor = st.to_power(simulate.NOISE_DB)
table["measured"] = st.to_db(total / np.maximum(count, 1) - floor)[1:15]
off = table["measured"] - table["level"]
assert (np.abs(off)[count[1:15] > 50_000] < 0.5).all()

# %%
real = json.loads(profiles.book_file("results/lband_levels.json").read_text())
flevoland = {k: v["mean_db"] for k, v in real["flevoland"]["classes"].items()}
woods, here = "deciduous broad-leaved forest", table["measured"]
table["over forest"] = here - here[woods]
table["real, over forest"] = pd.Series(flevoland) - flevoland[woods]
both = table.iloc[:, -2:].dropna().drop("water bodies").rank()
assert (both.iloc[:, 0] == both.iloc[:, 1]).all()  # the same order, but for water
table.style.format(precision=1, na_rep="–").format(
    lambda order: "∞" if np.isinf(order) else f"{order:g}", subset="order"
).set_caption("Set for the simulation, measured on it, and in Flevoland; levels in dB")

# %% [markdown]
# The last column is means of power over an airborne L-band HH scene of Flevoland (AIRSAR, NASA/JPL), measured by `python -m experiments.lband_levels`.
# Its absolute calibration is not known to us, so only differences compare.
#
# Fields, grassland and bare soil stand to forest as in the simulation, within a few decibels. Its buildings are brighter than ours, and its water much brighter, above grassland and bare soil.
# So without water the order is the same. It is no calibration: its buildings are some hundred pixels, its season is not autumn, and it is flat.

# %% mystnb={"figure": {"caption": "Backscatter of each class in a simulated scene at 5 m: median (dot), and the range of the middle 80 % of the pixels (bar). The ranges overlap: a single pixel does not give its class away.", "name": "fig-classes"}, "image": {"alt": "Horizontal bars, one for each land-cover class, water the darkest, built-up the brightest and widest, most of them overlapping."}}
half_db = st.to_db(half)
present = [
    c for c in st.HR_LULC.classes if ((classes == c.id) & valid[::2, ::2]).sum() > 500
]
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for y, c in enumerate(present):
    low, middle, high = np.nanpercentile(half_db[classes == c.id], [10, 50, 90])
    ax.barh(y, high - low, left=low, color=np.array(c.rgb) / 255, edgecolor="gray")
    ax.plot(middle, y, "wo", markeredgecolor="black", markersize=5)
ax.set_yticks(range(len(present)), [c.name for c in present])
ax.set_xlabel("σ⁰ [dB]")
ax.margins(x=0.03)
ax.use_sticky_edges = False
plt.show()

# %% [markdown]
# What to see, here and in real scenes:
#
# - **Calm water and smooth ground are dark.** A mirror sends the wave away: flooded paddies, roads, runways and solar panels are dark like water, and only shape and place tell them apart. Wind roughens the sea and brightens it.
# - **Forest is bright and grainy**, because L band meets branches and trunks at every angle.
# - **Towns are brightest.** Wall and ground make a corner that sends the wave straight back, most of all where walls stand along the flight path; single corners shine as points. So do ships.
#
# Four close-ups, from all over the island:

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Close-ups of the simulated scenes at 5 m, 2 km wide, each over its land cover: a town, paddies, mountains, a coast.", "name": "fig-closeups"}, "image": {"alt": "Four radar images above four class maps, with a bar of decibels and a legend. The town shows a bright grid of streets, the paddies a mosaic of dark and grey parcels, the mountains bright slopes and dark ones, the coast a dark sea."}}
wanted = {"a town": (2,), "paddies": (3,), "mountains": (10, 7), "a coast": (1,)}
fig, axes = plt.subplot_mosaic(
    "abcdk;efghk",
    figsize=(11.5, 4.7),
    width_ratios=(4, 4, 4, 4, 3.6),
    layout="constrained",
)
for above, below, (name, ids) in zip("abcd", "efgh", wanted.items(), strict=True):
    best = (-1.0, None, 0, 0)
    for path in tutorial.halved():
        ids_here = under(path, simulate.CLASSES)
        share = ndimage.uniform_filter(np.isin(ids_here, ids).astype(np.float32), 400)
        if name == "a coast":
            share = 0.25 - (share - 0.5) ** 2
        middle = share[500:-500:20, 500:-500:20]  # away from the swath's corners
        r, c = np.unravel_index(middle.argmax(), middle.shape)
        place = path, 500 + 20 * int(r), 500 + 20 * int(c)
        best = max(best, (float(middle.max()), *place))
    _, path, r, c = best
    at = (slice(r - 200, r + 200), slice(c - 200, c + 200))
    with rasterio.open(path) as source:
        seen = st.dn_to_db(source.read(1)[at])
    image = st.show_backscatter(seen, axes[above], title=name)
    st.show_classes(under(path, simulate.CLASSES)[at], axes[below])
st.show_legend(st.HR_LULC, axes["k"])
fig.colorbar(image, ax=axes["a"], label="σ⁰ [dB]", location="left", shrink=0.8)
plt.show()

# %% [markdown]
# No real scene is shown beside it: the pixels of the real ones that it was compared with belong to their owners, and none is copied into this book.
#
# What differs, and what this world therefore cannot teach:
#
# - No layover, no seasons, no rain, no growth: one level a class, one autumn.
# - No radio interference, no ambiguities (ghosts of bright targets), no stripes.
# - Parcels and streets are straight, and borders sharper than in nature; real labels are wrong in places, these never are.
# - One incidence angle for all scenes; real ones run from near to far range.
#
# It is meant for learning the chain, and as a truth to test it against, not for judging a sensor.
#
# ## σ⁰ and γ⁰
#
# σ⁰ relates power to an area on the ground, {term}`γ⁰ <gamma nought>` to an area across the beam: $\gamma^0 = \sigma^0 / \cos\theta$ in power, with the incidence angle $\theta$.
# Scenes of level 2.1, as the paper's, calibrate to σ⁰, JAXA's open 25 m mosaics to γ⁰, and the two differ by a decibel or so.
# Statistics of one do not carry over to the other, so the package reads the unit from the product and keeps it in a tag.

# %%
for name in (
    "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif",
    "N35E139_20_sl_HH_F02DAR.tif",
):
    print(name, "->", radiometry.product(name).quantity)
print(f"γ⁰ - σ⁰ at {flat_angle:.0f}°: {-10 * np.log10(np.cos(simulate.THETA)):.2f} dB")

# %% [markdown]
# ## Why one cannot just take all pixels
#
# **Paper** (§1): satellite observations "often exhibit regional redundancy, both spatially and temporally", and "random sampling can introduce bias in both the pretraining and fine-tuning stages". In {term}`pretraining` a network learns from images alone, in {term}`fine-tuning` it learns classes from labels.
#
# *Redundancy*: a forest looks like the next forest, and like itself a month later. A network that has seen one has little to learn from the other.
#
# *Bias*: what is frequent decides the mean. A model that calls all land forest is right on most of it, and a {term}`loss`, the number that training makes small, has little to hold against it if it counts pixels.
# [Chapter 5](05_sampling) is about both.
#
# The simulated world has them from Japan: its shares of the land are roughly HR-LULC's own, but for solar panels and greenhouses, of which we gave it more, since a small world would hardly hold any.

# %%
with rasterio.open(world / simulate.CLASSES) as source:
    island = np.bincount(source.read(1).ravel(), minlength=16)
counted = json.loads(profiles.book_file("results/japan_counts.json").read_text())["ids"]
japan = np.array([counted.get(str(i), {"pixels": 0})["pixels"] for i in range(16)])
land = [c.id for c in st.HR_LULC.classes if c.id > 1 and japan[c.id]]
shares = pd.DataFrame(
    {
        "Japan, HR-LULC v23.12 [%]": 100 * japan[land] / japan[2:].sum(),
        "simulated island [%]": 100 * island[land] / island[2:].sum(),
    },
    index=land,
)
woodland = shares.loc[list(st.HR_LULC.forest)].sum()
assert (woodland > 60).all()
ratio = shares.iloc[:, 1] / shares.iloc[:, 0]
assert ratio.drop([12, 14]).between(0.6, 1.6).all()  # all but solar panels, greenhouses
shares.index = [st.HR_LULC.classes[i - 1].name for i in shares.index]
shares.style.format(precision=2)

# %% [markdown]
# Shares of the land, without water. Japan: counted by `python -m experiments.japan_counts` on JAXA's raster at 250 m.
#
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
# **1.** How many looks is a pixel of the halved scene (`half`, in power) worth? Measure its ENL with `enl` where there is sea (`at_sea`) and data (`covered`), say why it is not four times that of the scene, and ask `check_looks(…)`.

# %% tags=["hide-cell"]
sea, calm = at_sea & covered, np.nan_to_num(half)
roots = np.nan_to_num(np.sqrt(power)).reshape(len(half), 2, len(half), 2)
looks = {
    "power": enl(calm, sea)[0],
    "amplitude": enl(np.sqrt(calm), sea)[0],
    "decibels": enl(st.to_db(calm + 1e-9), sea)[0],
    "before": measured["sea"],
    "mean amplitude": enl(roots.mean(axis=(1, 3)) ** 2, sea)[0],
}


def check_looks(answer):
    """Say whether the halved scene's looks are right, or which mistake they look like."""
    slips = {
        "That is four times as many as before: four independent pixels would give it.": 4
        * looks["before"],
        "That is the scene as it was, or every other pixel of it; take `half`.": looks[
            "before"
        ],
        "You averaged amplitudes; `half` is a mean of power.": looks["mean amplitude"],
        "You took amplitudes: the ENL is one of power.": looks["amplitude"],
        "You took decibels: the ENL is one of power.": looks["decibels"],
        "That is variance over mean²; turn it round.": 1 / looks["power"],
    }
    check(answer, looks["power"], slips, near=0.15)


# %% tags=["hide-cell"]
halved_enl, boxes = enl(calm, sea)
print(f"ENL {halved_enl:.1f}, against {measured['sea']:.1f} before")
check_looks(halved_enl)
check_looks(4 * measured["sea"])  # a usual slip
# Neighbouring pixels share part of their speckle, since the point response is wider than a pixel:
# four of them hold fewer than four independent samples.
assert measured["sea"] < halved_enl < 4 * measured["sea"]

# %% [markdown]
# **2.** How far is σ⁰ from γ⁰ at near range (30°) and at far range (45°)? Ask `check_gamma(angle, …)`. Could one network be trained on both without telling it which is which?


# %% tags=["hide-cell"]
def check_gamma(angle, answer):
    """Say whether γ⁰ − σ⁰ [dB] at an angle [°] is right, or which mistake it looks like."""
    right = -10 * np.log10(np.cos(np.radians(angle)))
    slips = {
        "The other way round: the beam's area is the smaller one, so γ⁰ is larger.": -right,
        "10, not 20: σ⁰ and γ⁰ are powers, not amplitudes.": 2 * right,
        "That is the ratio of the two; take 10·log10 of it.": 10 ** (right / 10),
        "np.cos wants radians: np.radians(angle).": -10
        * np.log10(abs(np.cos(float(angle)))),
    }
    check(answer, right, slips, near=0.02)


# %% tags=["hide-cell"]
for angle in (30, 45):
    difference = -10 * np.log10(np.cos(np.radians(angle)))
    print(f"{angle}°: {difference:.2f} dB")
    check_gamma(angle, difference)
check_gamma(45, -20 * np.log10(np.cos(np.radians(45))))  # a usual slip
# It would run, since speckle varies by more. But the shift is of the mean, and as large as what
# parts two forest classes here: whatever the network reads from the level, it would read wrong.

# %% [markdown]
# **3.** How well does a threshold find water? Take for water all pixels of `half_db` below a σ⁰, choose the one that calls most pixels right (`classes == 1` or not), and say what share of each other class it takes for water. `check_threshold(…)` knows the best to half a decibel.

# %% tags=["hide-cell"]
here = covered
water, values = (classes == 1)[here], half_db[here]
assert np.isfinite(values).all()
edges = np.arange(-28, -10, 0.5)
right = [((values < e) == water).mean() for e in edges]
best_edge = edges[int(np.argmax(right))]


def check_threshold(answer):
    """Say whether a threshold [dB] is the best, or which mistake it looks like."""
    mean, rest = (st.to_db(st.to_power(values[i]).mean()) for i in (water, ~water))
    slips = {
        "That is the threshold in power; the answer is in dB.": st.to_power(best_edge),
        "That is the mean level of water: much of the water lies above it.": mean,
        "That is halfway to the mean level of the rest, whose spread is wider.": (
            mean + rest
        )
        / 2,
        "It finds all the water, and takes most of the land with it: count both.": edges[
            -1
        ],
    }
    check(answer, best_edge, slips, near=0.5)


# %% tags=["hide-cell"]
check_threshold(best_edge)
check_threshold(edges[-1])  # a usual slip
print(f"threshold {best_edge:.1f} dB, {max(right):.1%} of the pixels right")
for c in present[1:]:
    taken = (half_db[here & (classes == c.id)] < best_edge).mean()
    if taken > 0.05:
        print(f"  {c.name}: {taken:.0%} taken for water")
assert max(right) > max(
    water.mean(), 1 - water.mean()
)  # better than one answer for all

# %% [markdown]
# ## Key points
#
# - DN is amplitude; σ⁰ in dB is $10\log_{10}\langle \mathrm{DN}^2\rangle - 83$.
# - Speckle is part of the signal; the ENL says how much of it is left. Average power, nothing else.
# - Relief changes brightness by several decibels, about half of what land cover does here; layover and shadow hide ground.
# - The levels of single pixels overlap: shape and place tell what a pixel is.
# - Honour the declared nodata value. Here it is 0, elsewhere it is not.
# - The world is simulated: made for learning the chain, with a truth to test it against.
# - On the command line: `sartutorial simulate --out DIR [--profile laptop] [--seed 0]`.
#
# ## References
#
# The calibration is {cite:t}`shimada2009palsar`'s. Speckle's statistics are {cite:t}`goodman1976speckle`'s; {cite:t}`oliver2004understanding` treat texture, and {cite:t}`small2011flattening` relief. The paper is {cite:t}`imamoglu2026tutorial`. [All references](../book/references).
