# %% [markdown]
# # All of Japan
#
# ```{admonition} This chapter
# **You will** run the whole chain from the command line, see what changes with real PALSAR-2 products, and what the authors' scale would ask of a machine.
#
# **You need** the chapters before; their steps are commands now.
#
# **In the paper** all of it. **Module** `cli`. **Takes** scenes. **Makes** maps. What it costs is [measured](../book/costs).
# ```
#
# ## The chain as commands
#
# Each step of the book is a command, and each can be run again: it leaves alone what is done.

# %%
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

import sartutorial as st
from sartutorial import cli, profiles, tutorial
from sartutorial.learn.encoders import config_of

work = tutorial.data_dir()
# The command `sartutorial`, of the Python that runs this page.
main = [sys.executable, "-c", "from sartutorial.cli import main; main()"]


def sartutorial(command):
    """Run a command of the package and show what it prints."""
    print(f"$ sartutorial {command}")
    arguments = [*main, *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=work)
    # Progress bars go where errors go, and are left out here.
    errors = [e for e in done.stderr.splitlines() if e.startswith("sartutorial: ")]
    print(done.stdout + "\n".join(errors))
    return done.returncode


tutorial.sampled()  # the commands below find their inputs, whichever chapter is opened first
# Plain text for this page.
os.environ |= {"COLUMNS": "90", "TERM": "dumb", "NO_COLOR": "1"}
os.environ.pop("FORCE_COLOR", None)
assert sartutorial("--help") == 0

# %% [markdown]
# One scene through all raster steps, in a folder of its own:

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
# ## Many scenes, many machines
#
# `downsample`, `label` and `patches` do a scene at a time. With `--workers` they do several, each in a process of its own, and with `--scheduler` on the workers of a [dask](https://docs.dask.org) cluster that see the same files:
#
#     dask scheduler                                  # on one machine; it prints its address
#     dask worker tcp://host:8786                     # on each of the others
#     sartutorial downsample scenes --out half --scheduler tcp://host:8786
#
# What is written is the same. A scene that fails is named at the end and does not stop the others, and running again does only what is missing.
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
# ## Real products
#
# What is different with real PALSAR-2 data, and where the package looks:
#
# | product | unit | nodata | how to use it |
# |---|---|---|---|
# | ALOS-2 L2.1 ultra-fine, HH (restricted) | σ⁰ | 0 | as in the book: halve it, then all steps |
# | ALOS-2 25 m mosaic (open, JAXA's terms) | γ⁰ | as declared: 1 in the tile we know | no halving; a model of its own, since unit and spacing differ |
# | HR-LULC v23.12, 1° tiles (registration) | ids | 0; 255 is void too | `label --tiles` |
#
# `data/README.md` in the repository says where to find them and under which terms.
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
# How much is that on a whole tile? A real one, where `SARTUTORIAL_REAL_DATA` names the folder that holds it; else a **simulated** stand-in, an island in a tile that declares 1.

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

# %% [markdown]
# ## One file for all of it
#
# A *recipe* holds a section a command and the folder that its paths lie in. `sartutorial run` takes them in the order of the data, whatever their order in the file; `--dry-run` first checks options and inputs, says what each would take, and touches nothing.

# %%
recipe = work / "chain" / "recipe.yaml"
recipe.write_text(f"""
data: {work}
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
# How good are the estimates? Below is what commands took, beside what a dry run said; lines through the first sizes gave its numbers, the others were measured afterwards. They are CPU seconds on one machine: a quicker one, or a GPU, takes less, and a busy one has you wait longer.

# %%
costs = json.loads(Path("../book/results/recipe_costs.json").read_text())
later = [row for row in costs["rows"] if not row["fitted"]]
print(f"{'command':<12}{'read':>9}{'measured':>12}{'expected':>12}{'ratio':>8}")
for row in later:
    print(
        f"{row['command']:<12}{row['read_gb']:>6.3f} GB{row['cpu_seconds']:>10.1f} s"
        f"{row['expected']:>10.1f} s{row['ratio']:>8.2f}"
    )
off = max(max(row["ratio"], 1 / row["ratio"]) for row in later)
print(f"at most {off:.2f} times off")
assert off < 1.6

# %% [markdown]
# `configs/paper-japan.yaml` holds every setting that the paper and its authors' code tell, each with where it comes from, `configs/open-palsar2.yaml` a chain on open data alone, and `configs/cluster/` jobs for PBS and SLURM that submit themselves again when their time is up.

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
# Neither changes what SimMIM computes, except by rounding.
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
# What would that take, by the same numbers? They count for the machine that they were measured on, which has neither a GPU nor many cores, and scale with the multiplications a pixel (**ours**). The money and the energy follow from what *you* pay and draw: change the first three lines.

# %%
bytes_of_a_pixel = sum(f.stat().st_size for f in (work / "patches").rglob("*.npy")) / (
    len(st.read_index(work / "patches")) * ours.patch_size**2
)
watts_of_a_core, price_of_a_kwh, cores = 10, 0.25, 2  # assumptions, not measurements
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
# So nobody does it on cores: eight GPUs, 72 hours (**code**).
#
# ## Key points
#
# - Steps are commands; commands can be killed and run again.
# - Real products differ in unit, nodata and spacing; the package reads these from the product and refuses what does not fit.
# - Scale is a profile, not another program.
# - A recipe is one file; try `run --dry-run` before anything large.
