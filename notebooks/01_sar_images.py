# %% [markdown]
# # SAR images for people who know images
#
# ```{admonition} This chapter
# **You will** open a radar scene, turn its digital numbers into backscatter, measure its speckle, see what averaging does, what relief does and what each class of land looks like, and meet the simulated world that the rest of the book runs on.
#
# **You need** NumPy and a little [Matplotlib](https://matplotlib.org). If you know radar and not networks, skim the formulas and read the last three sections; if you know networks and not radar, read it all.
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
# The first names follow JAXA's grammar for products: HH {term}`polarisation` (sent and received horizontally), orbit and frame, date, ultra-fine mode (`UBS`), right-looking (`R`), {term}`processing level` 2.1, in UTM (`U`), descending (`D`).
# A *processing level* says how much JAXA has done to the echoes: level 1.1 is the complex image as the radar sees it, 1.5 and 2.1 are amplitudes on a map grid (2.1 with the relief's shift taken out), 3.1 is enhanced for the eye.
# The others are land-cover tiles of one degree, each named by its south-west corner.
# The island lies where four of them meet, so a scene may need all four.
#
# ## Looking sideways
#
# The satellite flies along its track and looks to one side.
# An echo's delay says how far away the ground is that sent it: across the track, a radar image is sorted by distance, its {term}`range`. Along the track, the {term}`azimuth`, many pulses from different places are combined, as if the antenna were as long as the way flown between them.
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
# The power that a square metre of ground sends back, against what it would send if it scattered evenly in all directions, is its {term}`backscatter` σ⁰ ("sigma nought"). It spans so many orders of magnitude that it is written in {term}`decibels <decibel>`, ten times its logarithm: +10 dB is ten times the power, +3 dB about twice.
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
tutorial.show_source(radiometry.lookup_table)

# %%
with rasters.opened(scenes[0]) as scene:
    print(
        f"{scene.width} x {scene.height} pixels of {rasters.pixel_size(scene):.2f} m, {scene.crs}"
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
# The corners without data are no accident: the satellite flies at an angle to the map grid, so its strip of ground, the *swath*, lies askew in the raster.
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

# %% mystnb={"figure": {"caption": "A simulated scene in amplitude and in decibels, and the simulated land cover under it.", "name": "fig-scene"}, "image": {"alt": "Three panels of one simulated island scene. In amplitude only a few bright towns show. In decibels forest, fields, rivers, relief and sea separate. The third panel shows the land-cover classes in colour."}}
fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
axes[0].imshow(np.where(valid, dn, np.nan)[::6, ::6], cmap="gray", vmax=20_000)
axes[0].set_axis_off()
axes[0].set_title("amplitude (DN)")
st.show_backscatter(db[::6, ::6], axes[1], title="σ⁰ in dB, −25 to 0")
st.show_classes(classes[::3, ::3], axes[2], title="HR-LULC classes")
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
# Here is speckle alone, from the function that makes the simulated scenes: complex waves, added up, then squared.
# They are correlated between neighbours as in a real image, where a single bright point is smeared over a pixel or two: that smear is the radar's {term}`point response`.

# %%
tutorial.show_source(simulate.speckle)

# %% mystnb={"figure": {"caption": "Simulated speckle of an even field, for one, four and sixteen looks: the more looks, the narrower the distribution. Lines: gamma distributions from theory.", "name": "fig-speckle"}, "image": {"alt": "Three histograms of intensity with theoretical curves on top. One look is exponential, four looks are skewed, sixteen looks are nearly a narrow bell around one."}}
fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True, layout="constrained")
x = np.linspace(0.001, 3, 300)
place = Window(0, 0, 1024, 1024)
for ax, looks in zip(axes, (1, 4, 16), strict=True):
    intensity = simulate.speckle(1.0, looks, simulate.CORRELATION, (looks,), place)
    enl = intensity.mean() ** 2 / intensity.var()
    assert abs(enl / looks - 1) < 0.05
    ax.hist(
        intensity.ravel(), bins=np.linspace(0, 3, 80), density=True, color="tab:gray"
    )
    ax.plot(x, stats.gamma.pdf(x, looks, scale=1 / looks), color="tab:orange")
    ax.set_title(f"{looks} look(s): ENL {enl:.2f}")
    ax.set_xlabel("intensity / mean")
axes[0].set_ylabel("density")
plt.show()

one_look = simulate.speckle(1.0, 1, simulate.CORRELATION, (99,), place)[::8, ::8]
for law in ("expon", "rayleigh"):
    p = stats.kstest(one_look.ravel(), law).pvalue
    print(f"one look's intensity against {law}: p = {p:.2g}")

# %% [markdown]
# The last line is a common mistake: Rayleigh is the law of *amplitude*, not of intensity.
#
# On the scene itself, {eq}`eq-enl` gives the looks only where the ground is even.
# The sea is, over a few hundred metres; forest and towns have a *texture* of their own, a mean that changes from tree to tree, and come out lower.

# %%
power = st.to_power(db)


def enl(power, where, box=24):
    """ENL of all boxes (box x box pixels) that lie wholly in a mask: their median."""
    n = len(power) // box * box
    cut = [a[:n, :n].reshape(n // box, box, -1, box) for a in (power, where)]
    inside = cut[1].all(axis=(1, 3))
    mean, var = (
        f(cut[0].astype(float), axis=(1, 3))[inside] for f in (np.mean, np.var)
    )
    return float(np.median(mean**2 / var)), int(inside.sum())


fine = classes.repeat(2, 0).repeat(2, 1)
level = (np.hypot(*np.gradient(dem, 5)) < 0.03).repeat(2, 0).repeat(2, 1)
measured = {}
for name, ids in {"sea": (1,), "forest": st.HR_LULC.forest, "built-up": (2,)}.items():
    where = np.isin(fine, ids) & valid & (level | (name != "sea"))
    measured[name], boxes = enl(np.nan_to_num(power), where)
    print(f"{name:<9} ENL {measured[name]:.2f} in {boxes} boxes")
print(f"the simulator's looks: {simulate.LOOKS}")
assert abs(measured["sea"] / simulate.LOOKS - 1) < 0.1
assert measured["built-up"] < measured["forest"] < measured["sea"]

# %% [markdown]
# Towns come out far below one look, which no averaging of speckle could give: {eq}`eq-enl` then measures the *ground*. In a box of streets, roofs and a few corners that shine like mirrors, the mean power differs so much from pixel to pixel that its variance is many times the square of its mean. An ENL below the number of looks is a sign of texture, not of a worse radar.
# Texture is gamma distributed here, which makes intensity *K distributed*, as is usual for forest and towns {cite:p}`oliver2004understanding`.
#
# ## Looks and averaging
#
# Averaging $n \times n$ pixels trades resolution for looks.
# Move the slider: the same field and town, averaged in power over ever larger windows, and what is left of the speckle.

# %%
# The even field nearest the middle of a town, found on the truth.
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


# %% tags=["hide-input"]
def looks_figure(n, of="power"):
    """The averaged image, and the distribution over its cropland."""
    image = averaged(n, of)
    crops = field.reshape(288 // n, n, 288 // n, n).all(axis=(1, 3))
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4.1), width_ratios=(1, 1.2), layout="constrained"
    )
    st.show_backscatter(image, left, title=f"mean of {of}, {2.5 * n:g} m")
    right.hist(averaged(1)[field], np.arange(-35, 5), density=True, color="0.8")
    if crops.sum() > 20:
        right.hist(image[crops], np.arange(-35, 5), density=True, alpha=0.7)
    right.axvline(st.to_db(power[cut][field].mean()), color="tab:orange")
    right.set_xlabel("σ⁰ of cropland [dB]; grey: 2.5 m; line: its mean power")
    right.set_ylabel("density")
    right.set_ylim(0, 0.5)
    return fig


tutorial.slider(
    [(f"{n} x {n}", looks_figure(n)) for n in (1, 2, 3, 4, 6, 8, 12)],
    "pixels",
    "A simulated radar image of a town and fields beside a histogram of its cropland. The larger the window of the average, the smoother the image and the narrower the histogram, around the same mean.",
)

# %% [markdown]
# In a running notebook the next cell takes any window and also averages the wrong thing; on a page without a kernel it only shows where it starts.


# %%
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
# Because speckle is multiplicative and skewed, it matters *what* one averages.
# The mean of power is unbiased.
# The mean of amplitude reads low, and the mean of decibels reads lower still.
# The next cell does it wrong on purpose, on independent single-look speckle whose true mean is 0 dB.

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
print({of: f"{bias:+.2f} dB" for of, bias in theory.items()})
assert abs(amplitude_db - theory["amplitude"]) < 0.02
assert abs(st.to_db(exponential).mean() - theory["decibels"]) < 0.02

# %% [markdown]
# The last two numbers are no accident of the sample: they are $10\log_{10}(\pi/4)$ and $-10\gamma/\ln 10$ with Euler's constant $\gamma$.
# More averaging does not make the second go away; the first is a limit, and few or correlated pixels lose less.
#
# ## What relief does
#
# A radar measures distance, not angle.
# It stands high on one side, here in the east, and looks down at an *incidence angle* $\theta$ from the vertical.
# A slope that faces it packs much ground into little distance and looks bright; a slope that faces away looks dark.
# The simulator takes
#
# $$
# \frac{\sigma^0(\theta_\mathrm{loc})}{\sigma^0(\theta)} = \left(\frac{\cos\theta_\mathrm{loc}}{\cos\theta}\right)^{n} \frac{\sin\theta}{\sin\theta_\mathrm{loc}}
# $$ (eq-slope)
#
# with the local incidence angle $\theta_\mathrm{loc}$, 10 dB at most, and an exponent $n$ for each class: 1 for a volume such as forest, more for bare ground.
# The second factor is the area of ground that a pixel sees {cite:p}`small2011flattening`; the first, and its exponents, are **ours**.
#
# Where a facing slope is steeper than $\theta$, its top is nearer to the radar than its foot and comes first: the two change places, which is *{term}`layover`*.
# Where an averted slope is steeper than $90° - \theta$, no wave reaches it: *{term}`shadow <radar shadow>`*, where only the receiver's noise is left.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A made-up profile seen from the right at the simulator's incidence angle. Below, where each point of the ground appears when it is placed by its distance from the radar: many at one place is layover, none is shadow.", "name": "fig-layover"}, "image": {"alt": "A hill profile with rays coming down from the right. The slope facing the radar is marked as layover, the steep slope behind the top as shadow. Under it a bar shows how many ground points fall on each distance."}}
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
assert np.degrees(np.arctan(-np.gradient(height, ground)[facing])).max() > 36

# %% [markdown]
# The next cell measures the slopes on the scene: forest alone, by how steeply it falls towards the radar.

# %%
cos = simulate.incidence(dem)
half = power.reshape(len(cos), 2, len(cos), 2).mean(axis=(1, 3))  # 5 m
covered = np.isfinite(half)
forest = np.isin(classes, st.HR_LULC.forest) & covered
rows = []
for low, high in ((0, 20), (20, 30), (30, 42), (42, 55), (55, 75)):
    angle = np.degrees(np.arccos(cos.clip(-1, 1)))
    here = forest & (angle >= low) & (angle < high) & ~simulate.shadow(dem)
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
gone = simulate.shadow(dem) & covered
print(
    f"shadow: {gone.mean():.2%} of the scene, mean {st.to_db(half[gone].mean()):.1f} dB"
)

# %%
by_relief = max(values) - min(values)
levels = [answer.level for answer in simulate.SIGMA0.values()]
by_cover = max(levels) - min(levels)
print(f"relief moves forest by {by_relief:.1f} dB;", end=" ")
print(f"the classes' levels on flat ground span {by_cover:.1f} dB")
assert by_relief < by_cover

# %% [markdown]
# The simulator models brightness and shadow, not layover: echoes keep their place on the map.
# Real scenes have all three.
#
# ## What each class looks like
#
# HR-LULC is JAXA's land-cover map of Japan: fourteen classes at about 10 m, in tiles of one degree and 1/12000° a pixel.
# Id 0 is void; the sea is class 1 in tiles that hold land, and void in tiles that hold none.
# The simulator gives each class a level, an exponent for {eq}`eq-slope`, a texture and a place in the landscape.
# **The levels are ours**, chosen near what L-band HH shows; they are not measurements.
# The next cell measures them on all simulated scenes, on level ground and with the receiver's noise taken off.

# %%
table = pd.DataFrame(
    simulate.SIGMA0.values(), index=[c.name for c in st.HR_LULC.classes[:14]]
)
total, count = np.zeros(16), np.zeros(16)
for path in tutorial.halved():
    with rasterio.open(path) as source:
        seen = st.to_power(st.dn_to_db(source.read(1)))
    cos = simulate.incidence(under(path, simulate.DEM))
    flat = np.isfinite(seen) & (np.abs(np.degrees(np.arccos(cos.clip(-1, 1))) - 36) < 3)
    ids = under(path, simulate.CLASSES)[flat]
    total += np.bincount(ids, seen[flat], 16)
    count += np.bincount(ids, minlength=16)
floor = st.to_power(simulate.NOISE_DB)
table["measured"] = st.to_db(total / np.maximum(count, 1) - floor)[1:15]

real = json.loads(profiles.book_file("results/lband_levels.json").read_text())
flevoland = {k: v["mean_db"] for k, v in real["flevoland"]["classes"].items()}
woods = "deciduous broad-leaved forest"
table["over forest"] = table["measured"] - table.loc[woods, "measured"]
table["real, over forest"] = pd.Series(flevoland) - flevoland[woods]
table.style.format(precision=1, na_rep="–").set_caption(
    "Levels, exponents and orders of texture as set; levels as measured on the simulated scenes [dB]; "
    "and over forest, simulated and in the real Flevoland scene"
)

# %%
big = count[1:15] > 50_000
assert (np.abs(table["measured"] - table["level"])[big] < 0.5).all()

# %% [markdown]
# The last column is **real**: means of power over an airborne L-band HH scene of Flevoland (AIRSAR, NASA/JPL), measured by `book/lband_levels.py`.
# Its absolute calibration is not known to us, so only differences compare.
# Fields, grassland and bare soil stand to forest as in the simulation, within a few decibels; its buildings are brighter than ours, and its water much brighter.
# Its buildings are some hundred pixels, its season is not autumn, and it is flat: it is a check on the order, not a calibration.

# %% mystnb={"figure": {"caption": "Backscatter of each class in a simulated scene at 5 m: median, and the range of the middle 80 % of the pixels. The ranges overlap: a single pixel does not give its class away.", "name": "fig-classes"}, "image": {"alt": "Horizontal bars, one for each land-cover class, water the darkest, built-up the brightest and widest, most of them overlapping."}}
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
plt.show()

# %% [markdown]
# What to see, here and in real scenes:
#
# - **Calm water and smooth ground are dark.** A mirror sends the wave away: flooded paddies, roads, runways and solar panels are dark like water, and only shape and place tell them apart. Wind roughens the sea and brightens it.
# - **Forest is bright and grainy**, because L band meets branches and trunks at every angle.
# - **Towns are brightest.** Wall and ground make a corner that sends the wave straight back, most of all where walls stand along the flight path; single corners shine as points. So do ships.
#
# Four close-ups, from all over the island:

# %% mystnb={"figure": {"caption": "Close-ups of the simulated scenes at 5 m, 2 km wide, each over its land cover: a town, paddies, mountains, a coast.", "name": "fig-closeups"}, "image": {"alt": "Four radar images above four class maps. The town shows a bright grid of streets, the paddies a mosaic of dark and grey parcels, the mountains bright and dark slopes with a river, the coast a dark sea."}}
wanted = {"a town": (2,), "paddies": (3,), "mountains": (10, 7), "a coast": (1,)}
fig, axes = plt.subplots(2, 4, figsize=(12, 6.2), layout="constrained")
for pair, (name, ids) in zip(axes.T, wanted.items(), strict=True):
    best = (-1.0, None, 0, 0)
    for path in tutorial.halved():
        ids_here = under(path, simulate.CLASSES)
        share = ndimage.uniform_filter(np.isin(ids_here, ids).astype(np.float32), 400)
        if name == "a coast":
            share = 0.25 - (share - 0.5) ** 2
        middle = share[500:-500:20, 500:-500:20]  # away from the swath's corners
        r, c = np.unravel_index(middle.argmax(), middle.shape)
        best = max(
            best, (float(middle.max()), path, 500 + 20 * int(r), 500 + 20 * int(c))
        )
    _, path, r, c = best
    at = (slice(r - 200, r + 200), slice(c - 200, c + 200))
    with rasterio.open(path) as source:
        st.show_backscatter(st.dn_to_db(source.read(1)[at]), pair[0], title=name)
    st.show_classes(under(path, simulate.CLASSES)[at], pair[1])
plt.show()

# %% [markdown]
# No real scene is shown beside it: the pixels of the real ones that it was compared with belong to their owners, and none is copied into this book. What differs, and what this world therefore cannot teach:
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
# σ⁰ relates power to an area on the ground, {term}`γ⁰ <gamma nought>` to an area across the beam: $\gamma^0 = \sigma^0 / \cos\theta$ with the incidence angle $\theta$.
# The paper's scenes are σ⁰, JAXA's open 25 m mosaics γ⁰, and the two differ by a decibel or so.
# Statistics of one do not carry over to the other, so the package reads the unit from the product and keeps it in a tag.

# %%
for name in (
    "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif",
    "N35E139_20_sl_HH_F02DAR.tif",
):
    print(name, "->", radiometry.product(name).quantity)
print(f"γ⁰ - σ⁰ at 36 degrees: {-10 * np.log10(np.cos(np.radians(36))):.2f} dB")

# %% [markdown]
# ## Why one cannot just take all pixels
#
# **Paper** (§1): satellite observations "often exhibit regional redundancy, both spatially and temporally", and "random sampling can introduce bias in both the pretraining and fine-tuning stages".
#
# *Redundancy*: a forest looks like the next forest, and like itself a month later. A network that has seen one has nearly seen the other, and a training step spent on it is a step lost.
# *Bias*: what is frequent decides the mean. A model that calls every pixel forest is right most of the time, and a loss that counts pixels will be content with it.
# [Chapter 5](05_sampling) is about both.
# The simulated world has them from Japan: its shares of the land follow HR-LULC's own, but for solar panels and greenhouses, which a small world would hardly hold.

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
# **1.** How many looks is a pixel of the halved scene (`half`, in power) worth? Measure its ENL on the sea with `enl`, say why it is not four times that of the scene, and ask `check_looks(…)`.

# %% tags=["hide-cell"]
sea = (classes == 1) & (dem == 0) & valid[::2, ::2]
calm = np.nan_to_num(half)
looks = {
    "power": enl(calm, sea)[0],
    "amplitude": enl(np.sqrt(calm), sea)[0],
    "decibels": enl(st.to_db(calm + 1e-9), sea)[0],
    "before": measured["sea"],
}


def check_looks(answer):
    """Say whether the halved scene's looks are right, or which mistake they look like."""
    slips = {
        "That is four times as many as before: four independent pixels would give it.": 4
        * looks["before"],
        "That is the scene as it was; take `half`.": looks["before"],
        "You took amplitudes: the ENL is one of power.": looks["amplitude"],
        "You took decibels: the ENL is one of power.": looks["decibels"],
        "That is variance over mean²; turn it round.": 1 / looks["power"],
    }
    check(answer, looks["power"], slips, near=0.15)


# %% tags=["hide-cell"]
halved_enl, boxes = enl(np.nan_to_num(half), sea)
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
# Less than speckle, so a network would run; but a mean shift of a decibel or more is as large as
# the distance between two forest classes here, so it would learn less.

# %% [markdown]
# **3.** How much of the land would a threshold find? Choose the σ⁰ that best separates water from the rest at 5 m, and say what share of each class it takes for water. `check_threshold(…)` knows the best to half a decibel.

# %% tags=["hide-cell"]
here = valid[::2, ::2]
water, values = (classes == 1)[here], half_db[here]
edges = np.arange(-28, -10, 0.5)
right = [((values < e) == water).mean() for e in edges]
best_edge = edges[int(np.argmax(right))]


def check_threshold(answer):
    """Say whether a threshold [dB] is the best, or which mistake it looks like."""
    mean = float(st.to_db(st.to_power(values[water]).mean()))
    slips = {
        "That is the threshold in power; the answer is in dB.": st.to_power(best_edge),
        "That is the mean level of water: half of the water lies above it.": mean,
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
assert max(right) > max(water.mean(), 1 - water.mean())

# %% [markdown]
# ## Key points
#
# - DN is amplitude; σ⁰ in dB is $10\log_{10}\langle \mathrm{DN}^2\rangle - 83$.
# - Speckle is part of the signal; ENL measures it, and averaging must be of power.
# - Relief changes brightness by several decibels, about half of what land cover does here; layover and shadow hide ground.
# - The levels of single pixels overlap: shape and place tell what a pixel is.
# - Honour the declared nodata value. Here it is 0, elsewhere it is not.
# - The world is simulated: made for learning the chain, with a truth to test it against.
# - On the command line: `sartutorial simulate --out DIR [--profile laptop] [--seed 0]`.
#
# ## References
#
# The calibration is {cite:t}`shimada2009palsar`'s. Speckle's statistics are {cite:t}`goodman1976speckle`'s; {cite:t}`oliver2004understanding` treat texture, and {cite:t}`small2011flattening` relief. The paper is {cite:t}`imamoglu2026tutorial`. [All references](../book/references).
