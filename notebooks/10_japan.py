# %% [markdown]
# # All of Japan
#
# ```{admonition} This chapter
# **You will** run the whole chain from the command line, see what changes with real PALSAR-2 products, spoil a map and a normalisation on purpose, estimate what the authors' scale and a national map would take, and hold a training step against the most that your machine can do.
#
# **You need** the chapters before; their steps are commands now.
#
# **In the paper** all of it. **Module** `cli`. **Takes** scenes. **Makes** maps. What it costs is [measured](../book/costs); no GPU is needed.
# ```
#
# ## The chain as commands
#
# Each step of the book is a command, and each can be run again: it leaves alone what is done.

# %%
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from rasterio.transform import from_origin

import sartutorial as st
from sartutorial import cli, profiles, rasters, tutorial
from sartutorial.learn.encoders import config_of

# %%
work = tutorial.data_dir()
tutorial.sampled()  # the commands below find their inputs, whichever chapter is opened first
# Of the Python that runs this page, and as plain text, without colours and frames.
command = [sys.executable, "-c", "import sartutorial; sartutorial._main()", "--help"]
plain = os.environ | {"COLUMNS": "90", "TERM": "dumb", "NO_COLOR": "1"}
plain.pop("FORCE_COLOR", None)
done = subprocess.run(command, capture_output=True, text=True, env=plain, check=True)
print(re.sub(" *│$|[╭─╮│╰╯]", "", done.stdout, flags=re.MULTILINE))

# %% [markdown]
# One scene through all raster steps, in a folder of its own. So that the page need not start Python anew for each of them, the commands are run here by the function behind them:


# %%
def sartutorial(command):
    """Run a command as a shell in the folder of data would: what it prints, and its exit code."""
    print(f"$ sartutorial {command}")
    code, out, said = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(work),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
    ):
        try:
            cli.main(command.split())
        except SystemExit as end:
            code = end.code
    # A wide table is cut; progress bars go where errors go, and are left out here.
    lines = [t if len(t) < 100 else f"{t[:81]} …" for t in out.getvalue().splitlines()]
    lines += [e for e in said.getvalue().splitlines() if e.startswith("sartutorial: ")]
    print(*lines, "", sep="\n")
    return code


# %%
shutil.rmtree(work / "chain", ignore_errors=True)
name = tutorial.scenes()[0].name
for command in (
    f"downsample scenes/{name} --out chain/half",
    "label chain/half --tiles lulc --out chain/labels",
    "patches chain/half --labels chain/labels --out chain/patches",
    "sample chain/patches --tiles lulc",
    f"predict chain/half/{name} --model reference --out chain/map.tif",
):
    assert sartutorial(command) == 0

# %% [markdown]
# The same functions ran, so the halved scene is the same as in [chapter 2](02_downsampling):

# %%
with (
    rasterio.open(work / "half" / name) as a,
    rasterio.open(work / "chain/half" / name) as b,
):
    assert np.array_equal(a.read(1), b.read(1))
index = st.read_index(work / "chain/patches")
print(f"{len(index)} patches of {name}")

# %% [markdown]
# ## Bad input is answered, not swallowed
#
# The model was trained on 5 m pixels.
# Give it the scene as it comes, at 2.5 m:

# %%
code = sartutorial(f"predict scenes/{name} --model reference --out chain/wrong.tif")
assert code != 0 and not (work / "chain/wrong.tif").exists()

# %% [markdown]
# ## Wrong on purpose: a scene that was not halved
#
# `predict` goes by what a file says of its pixels. A copy that lost its georeference and was given another's says something else: here the middle of a **simulated** scene at 2.5 m, in a file that says 5 m, goes to the model of 5 m, and beside it the same ground, halved.

# %%
SIDE = 512  # pixels of 5 m
with rasterio.open(work / "half" / name) as sar:
    tags, crs, first = sar.tags(), sar.crs, sar.height // 2 - SIDE // 2
    corner = sar.transform @ rasterio.Affine.translation(first, first)


def crop(file, dn):
    """Write amplitudes (N, N) as a scene of 5 m pixels that begins where the crop does."""
    grid = rasters.Grid(crs, corner, *dn.shape[::-1])
    with rasters.create(work / "chain" / file, grid, tags, dtype="uint16") as out:
        out.write(dn, 1)
    return work / "chain" / file


pieces = {}
for folder, factor in (("half", 1), ("scenes", 2)):
    at = rasterio.windows.Window(*[factor * x for x in (first, first, SIDE, SIDE)])
    with rasterio.open(work / folder / name) as sar:
        pieces[folder] = sar.read(1, window=at)

# %%
scenes = [
    crop("halved.tif", pieces["half"]),
    crop("not-halved.tif", pieces["scenes"]),
]
maps = st.predict(scenes, "reference", work / "chain" / "crops")
halved, unhalved = (st.read_classes(m) for m in maps)
truth = st.read_classes(work / "chain/labels" / name, window=(first, first, SIDE, SIDE))
true = truth.legend.to_index(truth.ids) + 1  # as a map has them: 0 for no label
TWICE = np.ones((2, 2), np.uint8)  # a pixel of 5 m is four of 2.5 m


def right_of(ids, of):
    """Share of the labelled pixels that a map has right."""
    return (ids == of)[of > 0].mean()


shares = {"halved": right_of(halved.ids, true)}
shares["not halved"] = right_of(unhalved.ids, np.kron(true, TWICE))
for how, share in shares.items():
    print(f"{how}: {share:.3f} of the pixels are right")
assert shares["not halved"] < shares["halved"] - 0.05

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The same ground (simulated): its labels, the map of the halved scene, and the map of the scene at 2.5 m whose file says 5 m.", "name": "fig-unhalved"}, "image": {"alt": "Three square maps of the same ground in nine colours, with a key. The second resembles the first. The third is mostly built-up and bare land, with spots of forest, wetland and grassland."}}
fig, axes = plt.subplots(
    1, 4, figsize=(12, 3.9), width_ratios=[1, 1, 1, 0.35], layout="constrained"
)
for ax, title, ids in (
    (
        axes[0],
        f"labels, {SIDE * st.pixel_size(halved.grid) / 1000:.1f} km across",
        true,
    ),
    (axes[1], f"halved: {shares['halved']:.0%} right", halved.ids),
    (axes[2], f"not halved: {shares['not halved']:.0%} right", unhalved.ids),
):
    st.show_classes(ids, ax, title, legend=halved.legend)
st.show_legend(halved.legend, axes[3])
plt.show()

# %% [markdown]
# Which classes go? The share of each class's labelled pixels that the two maps find:

# %%
large = np.kron(true, TWICE)
for c in halved.legend.classes:
    if (true == c.id).any():
        found = [
            (m.ids == c.id)[of == c.id].mean()
            for m, of in ((halved, true), (unhalved, large))
        ]
        print(f"{c.name:<14} halved {found[0]:5.2f}, not halved {found[1]:5.2f}")

# %% [markdown]
# Nothing warned: the file's word is all that a program has. Two things were wrong at once, the speckle, which the halving would have averaged, and the scale, at which everything is twice as large as in training. Exercise 2 takes them apart.

# %% [markdown]
# ## Many scenes, many machines
#
# `downsample`, `label` and `patches` do a scene at a time. With `--workers` they do several, each in a process of its own, and with `--scheduler` on the workers of a [dask](https://docs.dask.org) cluster that see the same files:
#
#     dask scheduler                                  # on one machine; it prints its address
#     dask worker tcp://host:8786                     # on each of the others
#     sartutorial downsample scenes --out half --scheduler tcp://host:8786
#
# What is written is the same. A scene that fails is named at the end and does not stop the others, and running again does only what is missing. A worker that is killed is replaced and its scene taken again; a scene that kills its workers one after the other, by its size say, is named as lost.
# Here two at a time, one of them spoilt:

# %%
some = work / "chain" / "some"
some.mkdir()
good, spoilt = tutorial.scenes()[:2]
shutil.copy(good, some)
(some / spoilt.name).write_bytes(spoilt.read_bytes()[:100_000])
assert sartutorial("downsample chain/some --out chain/few --workers 2") != 0
assert [p.name for p in (work / "chain" / "few").glob("*.tif")] == [name]

# %% [markdown]
# When are two workers quicker than one? A worker is a new process, which first starts and loads its libraries. And one process alone is no idle one: it reads, averages and writes at the same time and decodes with every core, where a worker keeps to one.
# So scenes as small as ours are not worth a worker. The times hold for this page's machine, while it did whatever else it had to do:

# %%
took, few = {}, tutorial.scenes()[:4]
for workers in (1, 2):
    out = work / "chain" / f"by-{workers}"
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    st.downsample(few, out, workers=workers)
    took[workers] = time.perf_counter() - start
for one in (work / "chain" / "by-1").glob("*.tif"):
    assert one.read_bytes() == (work / "chain" / "by-2" / one.name).read_bytes()
many, to_start = len(few), max(took[2] - took[1] / 2, 0)
print(f"{many} scenes, {os.cpu_count()} cores:", end=" ")
print(f"{took[1]:.1f} s alone, {took[2]:.1f} s by two, {to_start:.1f} s of it to start")
print(
    f"two, were they twice as quick once they run, would pay from {2 * to_start / took[1] * many:.0f} such scenes on"
)

# %% [markdown]
# A real scene has some thirty times the pixels of one of these, so a few of them make up for the start. How much quicker are two workers then? Measured on simulated scenes as large as real ones, with workers that run already, as on a cluster; each way twice in turns, and the better time of each (`python -m experiments.workers`):

# %%
measured = json.loads(profiles.book_file("results/workers.json").read_text())
pixels = measured["pixels_a_scene"] / 1e6
print(
    f"{measured['scenes']} scenes of {pixels:.0f} million pixels, {measured['machine']}"
)
for way, seconds in measured["seconds"].items():
    start, step = seconds["start"], seconds["downsample"]
    print(f"{way:<23} {step:5.1f} s; before that, to start: {start:.1f} s")
print(
    f"two workers: {measured['two_workers_over_one']:.2f} times as quick as one,",
    end=" ",
)
print(f"{measured['two_workers_over_one_process']:.2f} times as one process")
assert measured["identical"]
# What the text below says of it:
assert 1 < measured["two_workers_over_one"] < 1.5
assert measured["two_workers_over_one_process"] < 1

# %% [markdown]
# Our explanation, which this does not prove: a worker reads and writes while it averages, so one of them keeps most of so small a machine busy, and two have little left to gain. The one process, which also decodes with both cores, is quicker than either. Workers are for more cores than one process can use, and for more machines than one; on such a machine this book has measured nothing.
#
# ## Real products
#
# None comes with this book. What there is, and what each asks of you; `data/README.md` in the repository says more, and has the last word on terms:
#
# | what | terms | how to get it | where to put it | commands | what changes |
# |---|---|---|---|---|---|
# | ALOS-2 level 2.1, ultra-fine, HH, 2.5 m, σ⁰ | restricted: an agreement with JAXA | from JAXA, under the agreement | `scenes/` | `downsample`, then all; `configs/paper-japan.yaml` | nothing: the paper's input. Training computes the statistics of *your* scenes; published weights bring theirs |
# | ALOS-2 25 m mosaic, HH and HV, γ⁰ | open, JAXA's terms; © JAXA | a tile at a time from [JAXA](https://www.eorc.jaxa.jp/ALOS/en/dataset/fnf_e.htm), or from public clouds | `mosaic/`, archives as they come | `downsample --factor 1`, then all; `configs/open-palsar2.yaml` | unit and spacing differ: statistics and a model of its own. No data is as declared (1 in the tile we know). Layover and shadow are in its mask and stay in |
# | ALOS-2 ScanSAR level 2.2, 25 m, γ⁰ | open, JAXA's terms; © JAXA | [JAXA says where](https://www.eorc.jaxa.jp/ALOS/jp/dataset/palsar2_l22_j.htm), public clouds among them | anywhere; a URL will do | as the mosaic | as the mosaic, but one pass instead of a year's choice |
# | PALSAR-1 25 m mosaic, 2007–2010, γ⁰ | open, JAXA's terms; © JAXA | as ALOS-2's | `mosaic/` | as the mosaic | another radar, another decade: labels of today are not its labels |
# | HR-LULC v23.12, 1° tiles | free; © JAXA | after registration with [JAXA](https://www.eorc.jaxa.jp/ALOS/en/dataset/lulc_e.htm) | `hrlulc/` | `label --tiles`, `sample --tiles` | 0 is void, and so is 255 |
# | HR-LULC v25.04, smaller tiles | open; © JAXA | JAXA Earth, `JAXA.EORC_ALOS_HRLULC.v25.04_japan`, without registration | `hrlulc/`, or a URL | as above | one id more (15, unlabelled here: **ours**); scores do not compare with v23.12's |
# | ESA WorldCover 2021 or 2020, 10 m | `CC BY 4.0`; © ESA WorldCover project, contains modified Copernicus Sentinel data | its [site](https://esa-worldcover.org) | `landcover/` | `label --legend worldcover` | 11 classes of its own, anywhere on Earth: another legend, another model |
#
# The folders are those that the recipes look in, below `data:`; every command takes any other path as well, and where it reads rasters a URL (`https://…`, `s3://…`), of which it fetches the blocks that it needs. All radar products but the first are **open**: whoever has no agreement can still do all steps, ten times coarser. A mosaic's pixels are degrees, so they are smaller on the ground the farther from the equator; one set of patches, and one model, takes spacings that differ by 5 %: from 30° to 37° N, say, but not all of Japan at once.
#
# The declared nodata value matters: in a real mosaic tile that declares 1, taking 0 instead turns its no-data pixels into numbers.
# `st.read_db` heeds what the file declares, and so does every step that reads a scene. A tiny tile, made up, under a mosaic's name:

# %%
dn = np.array([[1, 1, 4000], [1, 2500, 3000]], dtype=np.uint16)
form = dict(driver="GTiff", dtype="uint16", count=1, height=2, width=3, nodata=1)
place = dict(crs="EPSG:4326", transform=from_origin(135, 35, 1 / 4500, 1 / 4500))
with tempfile.TemporaryDirectory() as folder:
    tile = Path(folder) / "N35E135_20_sl_HH_F02DAR.tif"
    with rasterio.open(tile, "w", **form, **place) as target:
        target.write(dn, 1)
    view = st.read_db(tile)
print(f"as declared, {view.quantity}: {view.db.round(1).tolist()}")
print(f"1 taken for a number: {st.dn_to_db(dn).round(1).tolist()}")
assert np.array_equal(np.isnan(view.db), dn == 1)

# %% [markdown]
# ## Wrong on purpose: a declared nodata forgotten
#
# A mosaic tile declares which value means no data, and a program that takes another for it normalises by a pixel value that nobody measured. How much is that on a whole tile? A real one, where `SARTUTORIAL_REAL_DATA` names the folder that holds it; else a **simulated** stand-in, an island in a tile that declares 1.

# %%
real = Path(os.environ.get("SARTUTORIAL_REAL_DATA", "../../shared/data"))
archive = real / "N23W161_20_MOS_F02DAR.tar.gz"
if archive.exists():
    what, island = "the real mosaic tile", st.read_db(archive)
else:
    what, island = "a simulated island", st.read_db(tutorial.halved()[0])
    row, col = np.indices(island.db.shape) - island.db.shape[0] // 2
    island.db[np.hypot(row, col) > island.db.shape[0] / 4] = np.nan
valid = np.isfinite(island.db)
forgotten = np.where(valid, island.db, float(st.dn_to_db(np.uint16([1]))[0]))
statistics = {
    "as declared": island.db[valid],
    "1 taken for a number": forgotten,
}
print(f"{what}: {valid.mean():.1%} of {valid.size:,} pixels hold data")
for kind, db in statistics.items():
    print(f"{kind:<22} mean {db.mean():7.2f} dB, standard deviation {db.std():6.2f} dB")
shift = (island.db[valid] - forgotten.mean()) / forgotten.std()
assert shift.std() < 0.7 and shift.mean() > 0.5

# %% [markdown]
# Nothing fails. But a network that is normalised with the second line sees the land squeezed: what should be spread by 1 about 0 is spread as printed here, far off the middle.

# %%
print(
    f"land as the network would see it: mean {shift.mean():.2f}, spread {shift.std():.2f}"
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The same pixels as a network would see them: normalised by the statistics of valid pixels, and by those where a declared nodata value was taken for a number.", "name": "fig-nodata-mosaic"}, "image": {"alt": "Two histograms on one axis of normalised backscatter. One is wide and centred on zero; the other is a narrow peak to the right of it."}}
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
kept = island.db[valid]
for label, seen, color in (
    ("nodata as declared", (kept - kept.mean()) / kept.std(), "#0072B2"),
    ("1 taken for a number", shift, "#D55E00"),
):
    bins = np.linspace(-4, 6, 151)
    ax.hist(seen, bins, density=True, histtype="step", lw=1.8, label=label, color=color)
ax.set(xlabel="backscatter, normalised", ylabel="density", title=what)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## One file for all of it
#
# A *recipe* holds a section a command and the folder that its paths lie in. `sartutorial run` takes them in the order of the data, whatever their order in the file; `--dry-run` first checks options and inputs, says what each would take, and touches nothing.

# %%
recipe = work / "chain" / "recipe.yaml"
recipe.write_text(f"""
data: .
downsample: {{scene: scenes/{name}, out: chain/half}}
label: {{scene: chain/half, tiles: lulc, out: chain/labels}}
patches: {{scene: chain/half, labels: chain/labels, out: chain/patches}}
predict: {{scene: chain/half, model: reference, out: chain/maps}}
""")
before = sorted((work / "chain").rglob("*"))
assert sartutorial("run chain/recipe.yaml --dry-run") == 0
assert sorted((work / "chain").rglob("*")) == before

# %% [markdown]
# A slip is found before the first command begins:

# %%
recipe.write_text(recipe.read_text().replace("tiles: lulc", "tiles: lulk"))
assert sartutorial("run chain/recipe.yaml") != 0

# %% [markdown]
# How good are the estimates? They are straight lines: for each command, so many seconds to start and so many for a GB that it reads, drawn through some runs on simulated scenes (`python -m experiments.recipe_costs`). Below are the runs that were left out of that, beside what the lines say of them.
# All are CPU seconds on one machine: a quicker one, or a GPU, takes less, and a busy one has you wait longer.

# %%
costs = json.loads(profiles.book_file("results/recipe_costs.json").read_text())
later = [row for row in costs["rows"] if not row["fitted"]]
print(f"{'command':<12}{'read':>9}{'measured':>12}{'expected':>12}{'ratio':>8}")
for row in later:
    print(
        f"{row['command']:<12}{row['read_gb']:>6.3f} GB{row['cpu_seconds']:>10.1f} s"
        f"{row['expected']:>10.1f} s{row['ratio']:>8.2f}"
    )
off = max(max(row["ratio"], 1 / row["ratio"]) for row in later)
print(f"at most {off:.2f} times off")
assert off < 1.5

# %% [markdown]
# These are simulated scenes. A real mosaic tile, most of which is void, was read from its archive and masked, and there the line was further off:

# %%
(tile,) = costs["beyond"]
start, seconds_a_gb, *_ = cli.COSTS[tile["command"]]
line = start + seconds_a_gb * cli.SIMULATED * 4500**2  # the pixels of a tile
took = tile["cpu_seconds"]
print(
    f"{tile['what'].partition(':')[0]}: {took} s, expected {line:.1f} s, ratio {took / line:.1f}"
)

# %% [markdown]
# `configs/paper-japan.yaml` holds every setting that the paper and its authors' code tell, each with where it comes from, `configs/open-palsar2.yaml` a chain on open data alone, and `configs/cluster/` jobs for PBS and SLURM that submit themselves again when their time is up. A recipe's paths lie in the folder that it names as `data`, also for one of its commands alone: `sartutorial pretrain --config FILE.yaml`.

# %% [markdown]
# ## The authors' weights
#
# They are published, under the licence MIT. `sartutorial import-weights theirs.pth --out published` brings them into the form of ours and prints the sentence that their card asks of every user: the source data are ALOS-2's, copyrighted by JAXA and used under the JAXA–AIST agreement.
# What no file tells, such as the order of the classes, is **our** reading, and stands on [a sheet of questions](../book/authors) for the authors; `python -m experiments.check_weights` asks a downloaded file what it can answer. No page of this book has seen the published files.
#
# ## The authors' scale
#
# A profile holds every number that depends on the machine.
# `SARTUTORIAL_PROFILE=japan` holds the authors' model and SimMIM schedule, where they are public.
# A batch is global: `--devices 8` shares it among eight processes, one a GPU, and `--accumulate 4` lets each take its share in four parts, where memory is short.
# `--nodes 2` shares it among machines, too: each runs the same command, told where to meet by `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK` (`configs/cluster/nodes.slurm`).
# None of them changes what SimMIM computes, except by rounding.
# The folder of patches is plain arrays and an index: copied as it is, it trains on a machine without raster libraries.

# %%
fields = (
    "patch_size",
    "embed_dim",
    "depths",
    "decoder_width",
    "pretrain_epochs",
    "pretrain_batch",
    "finetune_epochs",
)
known = profiles.PROFILES
print(f"{'':<18}" + "".join(f"{name:>16}" for name in known))
for field in fields:
    values = "".join(f"{getattr(p, field)!s:>16}" for p in known.values())
    print(f"{field:<18}{values}")

# %% [markdown]
# **Paper:** more than 301,088 patches, 800 epochs of pretraining, 100 of fine-tuning. **Code:** one node of eight GPUs, with job limits of 72 and 48 hours.
# How much is that, beside the book's reference encoder?

# %%
pretrained = st.load_encoder("reference").description
here = round(pretrained["patches"] * pretrained["epochs"])
there = 301_088 * 800
print(
    f"reference: {here:,} patches in all; at the authors' scale: {there:,}, {there / here:,.0f} times as many,"
)
japan, ours = known["japan"], profiles.get()
pixels = (japan.patch_size / ours.patch_size) ** 2
large, small = (
    sum(w.numel() for w in st.Encoder(config_of(p, 256, "simmim")).parameters())
    for p in (japan, ours)
)
print(
    f"each with {pixels:.0f} times the pixels, through an encoder {large / small:.0f} times as large."
)

# %% [markdown]
# What would that take on CPU cores, by the lines of the dry run? They hold for the machine that they were measured on. For the larger network we take its time to grow as its multiplications a pixel do (**ours**). Money and energy follow from what *you* pay and draw: change the numbers of the first line.

# %%
watts_of_a_core, watts_of_a_gpu, price_of_a_kwh = 10, 700, 0.25  # assumptions
bytes_of_a_pixel = sum(f.stat().st_size for f in (work / "patches").rglob("*.npy")) / (
    len(st.read_index(work / "patches")) * ours.patch_size**2
)
start, per_gb, *_ = cli.COSTS["pretrain"]
seen_gb = japan.patch_size**2 * 301_088 * bytes_of_a_pixel / 1e9
core_years = seen_gb * per_gb * 800 * cli.SCALES["japan"][0] / (3600 * 24 * 365)
energy = core_years * 365 * 24 * watts_of_a_core / 1000
print(f"pretraining on cores such as these: {core_years:,.0f} core years,", end=" ")
print(f"{energy:,.0f} kWh, {energy * price_of_a_kwh:,.0f} of your currency")
limit = 72 * 3600  # of the authors' job (code)
print(
    f"to end in the authors' 72 hours: {core_years * 365 * 24 * 3600 / limit:,.0f} such cores"
)
assert core_years > 1

# %% [markdown]
# So nobody does it on cores: eight GPUs, 72 hours (**code**). What a GPU does was measured too (`python -m experiments.gpu_costs`): steps of networks of the authors' size, as this book's code builds them, on patches of noise, without a loader and without the talk between GPUs:

# %%
measured = json.loads(profiles.book_file("results/gpu_costs.json").read_text())
timed = {row["step"]: row for row in measured["rows"] if row["profile"] == "japan"}
step = timed["sar-w-simmim"]
alone = there / step["patches a second"] / 3600
print(f"{measured['device']}, bfloat16, batches of {step['batch']}:", end=" ")
print(
    f"{step['patches a second']:,.0f} patches a second, {step['TFLOP/s']:.0f} TFLOP/s"
)
energy = alone * watts_of_a_gpu / 1000
print(
    f"pretraining: {alone:,.0f} hours of one GPU, {energy:,.0f} kWh, "
    f"{energy * price_of_a_kwh:,.0f} of your currency; of eight, were nothing lost: {alone / 8:.0f} hours"
)
tuned = 72_238 * 100 / timed["finetune"]["patches a second"] / 3600  # paper
print(f"fine-tuning: {tuned:,.0f} hours of one GPU, {tuned / 8:.1f} of eight")
land, each = 378_000e6 / 5**2, timed["predict"]["Mpx a second"] * 1e6
print(
    f"forward passes over the land of Japan at 5 m, once: {land / each / 60:.0f} minutes"
)
assert alone / 8 < 72 and tuned / 8 < 48

# %% [markdown]
# Eight of these GPUs stay far below the 72 and 48 hours (**code**), and the passes for a national map are an affair of minutes. All of these are floors: no file was opened for them, and every pixel was seen once, where overlapping windows see it several times.
#
# ## How good is your machine at it?
#
# Two numbers bound every program on a device: how many multiplications and additions it does a second, and how many bytes its memory hands over meanwhile. A step that does few operations a byte waits for memory, one that does many waits for arithmetic. That picture is called the roofline {cite:p}`williams2009roofline`.
#
# FLOP are these operations on floating-point numbers.
# First the roof, measured with a product of matrices and a copy, in the precision that training would choose here:

# %%
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sartutorial.learn import pretraining, training

device = "cuda" if torch.cuda.is_available() else "cpu"
half_precision = training.precision() == "bf16-mixed"
dtype = torch.bfloat16 if half_precision else torch.float32


def seconds(work, repeats=3):
    """The quickest of some runs, after one that does not count."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


# %%
side = 8192 if device == "cuda" else 1024
square = torch.ones(side, side, dtype=dtype, device=device)
block = torch.ones(2**25, device=device)
copy = torch.empty_like(block)
peak = 2 * side**3 / seconds(lambda: square @ square)  # a product and a sum each
bandwidth = 2 * block.nbytes / seconds(lambda: copy.copy_(block))  # read and written
print(f"{device}, {dtype}, {torch.get_num_threads()} thread(s) of the CPU")
print(f"roof: {peak / 1e9:,.0f} GFLOP/s, {bandwidth / 1e9:,.1f} GB/s")

# %% [markdown]
# Then a step of pretraining: the weighted loss, its gradients, AdamW. torch counts the operations of its products. For the bytes we add up what every operation reads and writes, as if nothing stayed in a cache in between: an upper bound, so the step lies where we draw it or further to the right.


# %%
class Traffic(TorchDispatchMode):
    """Add up the bytes of operands and results by operation, views left out."""

    def __init__(self):
        super().__init__()
        self.moved = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = (
            [t for t in tree_leaves(x) if isinstance(t, torch.Tensor)]
            for x in ((args, kwargs), result)
        )
        old, new = ({t.untyped_storage()._cdata for t in x} for x in (given, made))
        if func._schema.is_mutable or not new & old:
            name = func._schema.name.removeprefix("aten::")
            self.moved[name] += sum(t.nbytes for t in given + made)
        return result


# %%
def step_of(profile, batch, device):
    """A function that does a training step of a profile, on images of nothing."""
    size, meta = profile.patch_size, device == "meta"
    cast = dict(device_type="cpu" if meta else device, dtype=dtype)
    with torch.device(device):
        config = config_of(profile, size, "simmim")
        network = pretraining.build("sar-w-simmim", config, profile)
        image = torch.zeros(batch, 1, size, size)
        key = torch.zeros(batch, 3, dtype=torch.int64)
    adam = torch.optim.AdamW(network.parameters())
    batch_of = {"image": image, "key": key}

    def step():
        adam.zero_grad()
        with torch.autocast(**cast, enabled=half_precision and not meta):
            loss = pretraining.reconstruction_loss(
                network, batch_of, domain="normalised", norm=None
            )
        loss.backward()
        adam.step()

    return step


# %%
step = step_of(ours, ours.pretrain_batch, device)
took = seconds(step, repeats=2)
with FlopCounterMode(display=False) as flops, Traffic() as traffic:
    step()
operations, moved = flops.get_total_flops(), traffic.moved.total()
intensity = operations / moved
roof = min(peak, bandwidth * intensity)
print(
    f"a step of {ours.pretrain_batch} patches: {operations / 1e9:.1f} GFLOP,", end=" "
)
print(f"{moved / 1e9:.2f} GB at most, {took:.2f} s")
print(f"{intensity:.1f} FLOP a byte at least; the roof bends at {peak / bandwidth:.1f}")
print(
    f"reached: {operations / took / 1e9:,.1f} GFLOP/s, {operations / took / roof:.0%} of the roof there"
)
assert operations / took < 2 * peak  # twice: others may use the machine meanwhile

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The roofline of the machine that built this page, in one precision and with the threads printed above, and one step of pretraining of the reference's size under it.", "name": "fig-roofline"}, "image": {"alt": "Logarithmic axes: operations a byte to the right, operations a second upwards. A line rises with the memory's bandwidth and bends into a level at the peak of arithmetic. One dot below it marks the training step."}}
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
x = np.geomspace(0.1, 1000, 200)
ax.loglog(x, np.minimum(peak, bandwidth * x) / 1e9, color="#0072B2", label="roof")
ax.loglog(
    intensity, operations / took / 1e9, "o", color="#D55E00", ms=9, label="a step"
)
ax.axvline(peak / bandwidth, color="0.7", lw=0.8, ls=":")
ax.set(xlabel="operations a byte (FLOP/byte)", ylabel="GFLOP/s")
ax.grid(alpha=0.3)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Where do the bytes go? Nearly all of the arithmetic is in products; what else is in the list does little or none.

# %%
products = {"mm", "addmm", "bmm", "convolution", "convolution_backward"}
share = sum(traffic.moved[p] for p in products) / moved
print(f"{'all products':<32}{share:6.1%} of the bytes")
for operation, number in traffic.moved.most_common(8):
    print(f"{operation:<32}{number / moved:6.1%}")

# %% [markdown]
# ## Exercises
#
# Each answer has its check, which knows the usual mistakes. The solutions are folded, and were run.


# %% tags=["hide-input"]
def check(answer, right, slips, near):
    """Say whether an answer is right, or which mistake (what to say: its value) it looks like."""
    known = {f"Right: {right:.3g}.": right, **slips}
    said = min(known, key=lambda text: abs(answer / known[text] - 1))
    no = "No, and none of the usual mistakes either. Read the question again."
    print(said if abs(answer / known[said] - 1) <= near else no)


# %% [markdown]
# **1.** The land of Japan is 378,000 km². How many hours of one core would the reference model need to map it at 5 m? `cli.COSTS["predict"]` begins with the seconds of a start and the seconds a GB of halved scene; a GB of ours holds as many valid pixels as `work / "half"` tells. `check_map(hours)`.


# %% tags=["hide-cell"]
def check_map(hours):
    """Say whether the core hours of a national map are right, or which mistake it looks like."""
    right = facts["map"]
    slips = {
        "Those are seconds.": right * 3600,
        "Those are minutes.": right * 60,
        "Pixels of 2.5 m: the scenes are halved first, and GB are of halved ones.": right
        * 4,
        "A pixel of 5 m covers 25 m², not 5.": right * 5,
        "That is the authors' network; the question is about the reference.": right
        * cli.SCALES["japan"][1],
    }
    check(hours, right, slips, near=0.1)


size, pixels_there = 0, 0
for file in (work / "half").glob("*.tif"):
    size += file.stat().st_size / 1e9
    pixels_there += np.isfinite(st.read_db(file).db).sum()
seconds_a_gb = cli.COSTS["predict"][1]
facts = {"map": 378_000e6 / 5**2 * (size / pixels_there) * seconds_a_gb / 3600}

# %% tags=["hide-cell"]
gigabytes = 378_000e6 / 25 * size / pixels_there
answer = (cli.COSTS["predict"][0] + gigabytes * cli.COSTS["predict"][1]) / 3600
print(f"{gigabytes:.0f} GB of halved scenes, {answer:.0f} hours of a core")
check_map(answer)
check_map(answer * 4)  # a usual slip
# A map of the country is a night of a few cores: it is pretraining that is dear.

# %% [markdown]
# **2.** The scene that was not halved was wrong in its speckle *and* in its scale. Take them apart: repeat each pixel of `pieces["half"]` twice in both directions (`np.kron` with `TWICE`), which gives the looks of training at the wrong scale. `crop` it, map it, and tell `check_apart(share)` what share of it is right.


# %% tags=["hide-cell"]
def check_apart(share):
    """Say whether the share that is right at the wrong scale is right, or which mistake it is."""
    right = facts["scale"]
    slips = {
        "That is the share that is wrong.": 1 - right,
        "That is the halved crop's: repeat its pixels first.": facts["halved"],
        "That is the crop at 2.5 m, speckle and all.": facts["not halved"],
    }
    check(share, right, slips, near=0.004)


facts |= shares
both = crop("repeated.tif", np.kron(pieces["half"], TWICE.astype(np.uint16)))
(repeated,) = st.predict([both], "reference", work / "chain" / "crops")
facts["scale"] = right_of(st.read_classes(repeated).ids, np.kron(true, TWICE))

# %% tags=["hide-cell"]
answer = right_of(st.read_classes(repeated).ids, np.kron(true, TWICE))
print(f"halved {shares['halved']:.3f}, only its scale wrong {answer:.3f},", end=" ")
print(f"not halved {shares['not halved']:.3f}")
lost = shares["halved"] - shares["not halved"]
print(
    f"of what was lost, the scale alone takes {(shares['halved'] - answer) / lost:.0%}"
)
check_apart(answer)
check_apart(1 - answer)  # a usual slip

# %% [markdown]
# **3.** Say that the authors' job ends just at its limit: 301,088 patches, 800 epochs, 72 hours, eight GPUs (whether theirs did is not public). How many TFLOP/s must *each* GPU do? `step_of(japan, 1, "meta")` is a step of one patch that counts and computes nothing. `check_rate(tflops)`.


# %% tags=["hide-cell"]
def check_rate(tflops):
    """Say whether the TFLOP/s of a GPU are right, or which mistake it looks like."""
    right = facts["rate"]
    slips = {
        "That is the whole node: eight GPUs share it.": right * 8,
        "That is one epoch; there are 800.": right / 800,
        "Hours are not seconds.": right * 3600,
        "GFLOP/s; divide by a thousand more.": right * 1000,
        "That is the forward pass alone; gradients take about twice as much again.": right
        / 3,
    }
    check(tflops, right, slips, near=0.06)


step = step_of(japan, 1, "meta")
with FlopCounterMode(display=False) as flops:
    step()
facts["rate"] = flops.get_total_flops() * 301_088 * 800 / (72 * 3600 * 8) / 1e12

# %% tags=["hide-cell"]
operations_a_patch = flops.get_total_flops()
a_second = 301_088 * 800 / (72 * 3600)
answer = operations_a_patch * a_second / 8 / 1e12
print(f"{operations_a_patch / 1e9:.0f} GFLOP a patch, {a_second:,.0f} patches a second")
print(
    f"{answer:.1f} TFLOP/s a GPU, {answer * 1e12 / peak:,.0f} times this {device}'s peak"
)
check_rate(answer)
check_rate(answer * 8)  # a usual slip

# %% [markdown]
# ## Key points
#
# - Steps are commands; commands can be killed and run again.
# - Real products differ in unit, nodata and spacing; the package reads these from the product and refuses what does not fit. It cannot know when a file lies.
# - Scale is a profile, not another program.
# - A recipe is one file; try `run --dry-run` before anything large.
# - A step has a roof: know whether yours waits for memory or for arithmetic before you buy either.
#
# ## References
#
# The paper is {cite:t}`imamoglu2026tutorial`, and the mosaics are {cite:t}`shimada2014forest`'s; how slopes are corrected in radar images says {cite:t}`small2011flattening`. The roofline is {cite:t}`williams2009roofline`'s. [All references](../book/references), [data and terms](../book/data).
